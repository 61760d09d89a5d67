"""Restart files: everything a simulation needs to continue bit for bit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from mdistill.errors import BadInput
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.files import replacing
from mdistill.nets.model_files import tensor_hash
from mdistill.simulation.running_sums import from_vector, to_vector
from mdistill.types import Prediction, State, System

FORMAT = 3
"""The format written; read are also 1, without running sums, and 2, whose sums were evaluated at every step."""
_SYSTEM = ("positions", "numbers", "cell", "pbc", "owner", "charge", "unpaired")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPoint:
    """A phase-space point with the randomness ahead of it.

    Attributes:
        step: Number of the step that led to the state.
        state: Positions, momenta, masses, time, and the prediction, bit for bit.
        generator_state: `Generator.get_state()`, a byte tensor.
        extras: Numbers of the caller, such as the seconds used so far.
        files: Size (bytes) and sha256 of text files of the run at this point, by name.
    """

    step: int
    state: State
    generator_state: Tensor
    extras: dict[str, float] = field(default_factory=dict)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    def generator(self) -> Generator:
        """A generator that continues where the saved one was."""
        generator = Generator()
        generator.set_state(self.generator_state)
        return generator


def save_restart(path: Path, point: RestartPoint) -> None:
    """Write a restart file (npz without pickle, with the sha256 of its content), all or nothing.

    Raises:
        MdistillError: The file cannot be written; the old one is intact.
    """
    state, system = point.state, point.state.system
    tensors = {name: getattr(system, name) for name in _SYSTEM} | {"momenta": state.momenta, "masses": state.masses}
    tensors |= {"middle_momenta": state.middle_momenta, "energy_debt": state.energy_debt, "generator": point.generator_state}
    if state.prediction is not None:
        tensors |= {"energy": state.prediction.energy, "forces": state.prediction.forces, "stress": state.prediction.stress}
    if state.running_sums is not None:
        tensors["running_sums"] = to_vector(state.running_sums)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
    header = {
        "format": FORMAT,
        "step": point.step,
        "time": state.time.hex(),
        "files": point.files,
        "extras": {k: float(v).hex() for k, v in point.extras.items()},
    }
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with replacing(path) as partial, open(partial, "wb") as handle:
        np.savez(handle, allow_pickle=False, digest=_digest(arrays), **arrays)  # type: ignore[arg-type]


def load_restart(path: Path) -> RestartPoint:
    """Read a restart file.

    Raises:
        BadInput: Absent, damaged (its sha256 differs), or of another format.
    """
    try:
        arrays = read_arrays(path)
        digest = arrays.pop("digest")
        header = json.loads(arrays["header"].tobytes())
        if not np.array_equal(digest, _digest(arrays)):
            raise ValueError("its sha256 differs from the one stored")
        if header["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"its format is {header['format']}, this version reads 1 to {FORMAT}")
        return _point(header, {name: torch.from_numpy(array) for name, array in arrays.items() if name != "header"})
    except DAMAGED as error:
        raise BadInput(path, f"no usable restart file ({error})", allowed="a restart file as this version of mdistill writes it",
                       fix="remove the run folder, or choose another with --out, and start again") from error  # fmt: skip


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(tensor_hash(arrays)), dtype=np.uint8)


def _point(header: dict, tensors: dict[str, Tensor]) -> RestartPoint:
    system = System(**{name: tensors[name] for name in _SYSTEM if name in tensors})
    known = "energy" in tensors
    prediction = Prediction(energy=tensors["energy"], forces=tensors["forces"], stress=tensors.get("stress")) if known else None
    sums = tensors.get("running_sums")
    if sums is not None and header["format"] == 2:
        sums = torch.cat([sums[:1], sums])
    state = State(
        system=system, momenta=tensors["momenta"], masses=tensors["masses"], time=float.fromhex(header["time"]),
        prediction=prediction, middle_momenta=tensors.get("middle_momenta"), energy_debt=tensors.get("energy_debt"),
        running_sums=None if sums is None else from_vector(sums),
    )  # fmt: skip
    extras = {name: float.fromhex(value) for name, value in header["extras"].items()}
    files = {str(name): (int(size), str(digest)) for name, (size, digest) in header.get("files", {}).items()}
    step, generator_state = int(header["step"]), tensors["generator"]
    return RestartPoint(step=step, state=state, generator_state=generator_state, extras=extras, files=files)

"""Engines by name, and an engine that remembers its answers: a calculation that ended is never done twice."""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.files import write_bytes
from mdistill.labelling.engine import Answer, Engine, Failure, as_engine
from mdistill.labelling.hard_settings import Cp2kSettings, MoleculeDftSettings
from mdistill.runs.identity import model_id, structure_sha256
from mdistill.teachers.models import load
from mdistill.types import Potential, Prediction, System

ENGINES = ("cp2k", "pyscf")
ANSWER = "answer.npz"
DECIMALS = 6
"""Structures whose positions (Å) agree to so many decimals are the same: files hold eight."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """An engine whose answers are stored as they come, in the folder of each calculation.

    An answer is used again where structure and level of theory are the same. Failures are not stored: the same command tries
    them again.

    Attributes:
        engine: The engine.
        home: Folder that several jobs share, one file an answer; None: the folder of each calculation.
    """

    engine: Engine
    home: Path | None = None

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def elements(self) -> frozenset[int]:
        return self.engine.elements

    @property
    def theory(self) -> str:
        """The level of theory, in words."""
        return theory_of(self.engine)

    def label(
        self, system: System, folder: Path, *, probes: Float[Tensor, "probe atom 3"] | None = None,
        known: Prediction | None = None,
    ) -> Answer | Failure:  # fmt: skip
        """See `Engine.label`."""
        identity = f"{structure_sha256(system, decimals=DECIMALS)} {level_of(self.engine)}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        path = folder / ANSWER if self.home is None else self.home / f"{digest[:32]}.npz"
        if path.is_file() and probes is None:
            with suppress(*DAMAGED):
                arrays = read_arrays(path)
                if bytes(arrays["identity"]).decode() == identity:
                    stress = torch.from_numpy(arrays["stress"]) if "stress" in arrays else None
                    energy, forces = (torch.from_numpy(arrays[name]) for name in ("energy", "forces"))
                    return Answer(prediction=Prediction(energy=energy, forces=forces, stress=stress))
        answer = self.engine.label(system, folder, probes=probes, known=known)
        if isinstance(answer, Answer) and probes is None:
            parts = {name: getattr(answer.prediction, name) for name in ("energy", "forces", "stress")}
            arrays = {name: part.detach().cpu().numpy() for name, part in parts.items() if part is not None}
            buffer = io.BytesIO()
            np.savez(buffer, identity=np.frombuffer(identity.encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]
            write_bytes(path, buffer.getvalue())
        return answer


def theory_of(source: Engine | Potential) -> str:
    """Level of theory in words; the name where the engine tells none."""
    return str(getattr(source, "theory", source.name))


def level_of(engine: Engine) -> str:
    """What an answer depends on, without limits of time and the way to start the program."""
    inner: Any = getattr(engine, "engine", engine)
    settings, potential = getattr(inner, "settings", None), getattr(inner, "potential", None)
    told = {} if settings is None else {k: v for k, v in asdict(settings).items() if k not in ("timeout_s", "command")}
    for later, without in (("kpoints", (1, 1, 1)), ("smearing_K", 0.0)):  # answers from before there were such count as well
        if told.get(later) == without:
            del told[later]
    told |= {} if potential is None else {"model": model_id(potential)}
    return f"{engine.name} {told}"


def longest_s(engine: Engine) -> float:
    """Longest time of an answer, s: two attempts of an engine that has them."""
    inner = getattr(engine, "engine", engine)
    return 2.0 * float(getattr(getattr(inner, "settings", None), "timeout_s", 1800.0)) + 60.0


def load_engine(
    name: str, *, cp2k: Cp2kSettings | None = None, pyscf: MoleculeDftSettings | None = None, subject: str = "--engine",
    device: str = "cpu", home: Path | None = None,
) -> Engine:  # fmt: skip
    """A hard engine: "cp2k", "pyscf", a teacher's name, or module:attribute of an ASE calculator; it remembers its answers.

    Args:
        name: Its name.
        cp2k, pyscf: Settings of these engines.
        subject: The flag, for messages.
        device: Device of a potential.
        home: Folder of the answers (`Remembered`).
    Raises:
        BadInput: Unknown name, or the program is not installed.
        MissingPackage: The package is not installed.
    """
    home = None if home is None else Path(home).absolute()  # workers of a cluster have other working folders
    if not name:
        raise BadInput(subject, "names no engine", allowed=", ".join(ENGINES), fix=f"{subject} cp2k")
    if name == "cp2k":
        from mdistill.labelling.cp2k import Cp2k

        return Remembered(Cp2k(cp2k or Cp2kSettings()), home)
    if name == "pyscf":
        from mdistill.labelling.molecular_dft import MolecularDft

        return Remembered(MolecularDft(pyscf or MoleculeDftSettings()), home)
    try:
        return Remembered(as_engine(load(name, device=device, subject=subject)), home)
    except BadInput as error:
        allowed = f"{', '.join(ENGINES)}, {error.allowed}"
        raise BadInput(error.subject, error.problem, allowed=allowed, fix=error.fix) from error

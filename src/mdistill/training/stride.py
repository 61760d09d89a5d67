"""Training of a long-stride map on NVE segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from mdistill.data.segments import Segment
from mdistill.data.split import split_segments
from mdistill.errors import BadInput
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.catalogue import MAPS, resolve
from mdistill.nets.model_files import load_net, read_metadata, save_model
from mdistill.nets.moment import MomentNet
from mdistill.nets.network import StrideMap
from mdistill.nets.settings import MomentSettings
from mdistill.training.fit import TRAINING, fit
from mdistill.training.settings import StrideSettings
from mdistill.training.stride_objective import StrideObjective, squares
from mdistill.training.windows import Window, join_windows, windows_hash, windows_of

MODEL = "stride.mdistill"
Adjust = Callable[[StrideMap], dict[str, float]]
_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StrideResult:
    """Result of a training.

    Attributes:
        path, sha256: The model file; sha256 of its weights.
        errors: On held-out segments, relative errors after one stride by name: "position" and "momentum" overall and of each
            element ("momentum Li"), root mean squares over √(3 k_B T), "momentum, median" over structs; and of the training
            windows "wrong", the share of inaccurate strides, and "wrong, noticed".
        history: Rows of {step, epoch, minutes, train, validation}.
        parameters: Number of trained numbers.
        train_windows, held_out_windows: Counts.
        adjusted: Facts of adjustments after training.
    """

    path: Path
    sha256: str
    errors: dict[str, float]
    history: list[dict[str, Any]]
    parameters: int
    train_windows: int
    held_out_windows: int
    adjusted: dict[str, float] = field(default_factory=dict)


def train_stride(
    segments: Sequence[Segment], potential: Path, settings: StrideSettings, folder: Path, *, adjust: Adjust | None = None,
    stop: StopRequest = NEVER, provenance: dict[str, Any] | None = None,
) -> StrideResult:  # fmt: skip
    """Train a long-stride map; writes `stride.mdistill`, `training.ckpt` and `history.json`, or resumes.

    Args:
        segments: NVE segments of `potential`.
        potential: Model file of the potential of the segments.
        settings: Kind of map, stride and fit.
        folder, stop: Folder; stop is checked between steps.
        adjust: Function that changes the trained map in place, after its limits and before it is saved; returns facts to store.
        provenance: Stored in the model file.
    Raises:
        BadInput: Too short segments, nothing to hold out, or a model file that holds no moment potential.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    train, held_segments = split_segments(segments, held_out=settings.held_out)
    held_out, windows = ([w for t in settings.strides_fs for w in windows_of(part, t, strides=settings.strides, every_fs=every)]
                         for part, every in ((held_segments, 0.0), (train, segments[0].every_fs)))  # fmt: skip
    kind, taught = MAPS[settings.kind], load_moment(potential).requires_grad_(False)
    begin: Path = resolve(kind.begin)(train, potential, settings, Path(folder), stop=stop)
    net = map_of(load_moment(begin), settings, windows)
    turning = not net.equivariant if settings.turning is None else settings.turning
    objective = StrideObjective(reversal=settings.reversal, turning=turning, seed=settings.fit.seed,
                                energy=taught, energy_weight=settings.energy_weight)  # fmt: skip
    begun = [read_metadata(path)["sha256"] for path in (begin, potential)]
    inputs = {"train": windows_hash(windows), "held_out": windows_hash(held_out), "start": begun[0], "potential": begun[1]}
    work = replace(TRAINING, settings=settings, inputs=inputs)
    if not settings.float64:
        net = net.in_type(torch.float32)
    result = fit(
        net,
        objective,
        windows,
        held_out,
        settings.fit.suited(settings.kind),
        folder=Path(folder),
        stop=stop,
        work=work,
        title="train stride",
    )
    final = result.module.folded()
    set_limits = resolve(kind.limit)
    caught = set_limits(final, taught, windows, held_out)
    if adjusted := adjust(final) if adjust is not None else {}:
        caught = set_limits(final, taught, windows, held_out)
    made_from = (provenance or {}) | {"steps": result.steps, "settings": asdict(settings), "potential": begun[1]}
    digest = save_model(Path(folder) / MODEL, final, made_from | {"adjusted": adjusted})
    return StrideResult(
        path=Path(folder) / MODEL, sha256=digest,
        errors=one_stride_errors(final, [w for w in held_out if w.stride_fs == settings.stride_fs]) | caught,
        history=result.history, parameters=sum(p.numel() for p in final.parameters()), train_windows=len(windows),
        held_out_windows=len(held_out), adjusted=adjusted,
    )  # fmt: skip


def map_of(potential: MomentNet, settings: StrideSettings, windows: Sequence[Window]) -> StrideMap:
    """A map before training, with this potential and sizes of impulses from the windows."""
    net: StrideMap = resolve(MAPS[settings.kind].untrained)(potential, settings, windows)
    return net


def load_moment(path: Path) -> MomentNet:
    """The moment network of a model file.

    Raises:
        BadInput: The file holds another kind.
    """
    net = load_net(path)
    if net.kind != MomentSettings.kind:
        fix = "distil a moment student (the default)"
        raise BadInput(path, f"a model of kind {net.kind!r}", allowed="a moment student", fix=fix)
    return net  # type: ignore[return-value]


def one_stride_errors(net: StrideMap, windows: Sequence[Window]) -> dict[str, float]:
    """Relative errors after one stride (see `StrideResult`)."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(windows), _AT_ONCE):
            batch = join_windows(windows[start : start + _AT_ONCE])
            positions, momenta = net(batch.system, batch.momenta, batch.masses, batch.stride_fs)
            parts.append((*squares(batch, positions, momenta), batch.system.numbers, batch.system.owner + start))
    position, momentum, numbers, owner = (torch.cat(column) for column in zip(*parts, strict=True))
    errors = {"position": float(position.mean()) ** 0.5, "momentum": float(momentum.mean()) ** 0.5}
    for number in numbers.unique().tolist():
        of_element = numbers == number
        errors[f"position {chemical_symbols[number]}"] = float(position[of_element].mean()) ** 0.5
        errors[f"momentum {chemical_symbols[number]}"] = float(momentum[of_element].mean()) ** 0.5
    counts = torch.bincount(owner)
    each = torch.zeros(len(counts), dtype=momentum.dtype).index_add(0, owner, momentum) / counts
    return errors | {"momentum, median": float(each.median()) ** 0.5}

"""Training of a long-stride map on segments of the exact flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from mdistill.data.segments import Segment
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import StrideNet, read_metadata, save_model
from mdistill.nets.moment import MomentNet
from mdistill.nets.one_step import OneStepNet
from mdistill.nets.one_step_attention import OneStepAttentionNet
from mdistill.nets.settings import OneStepAttentionSettings, OneStepSettings, SplittingMapSettings
from mdistill.nets.splitting_map import SplittingMap
from mdistill.training.fit import TRAINING, fit
from mdistill.training.kicks import first_kick, load_moment
from mdistill.training.limits import set_limits
from mdistill.training.settings import StrideSettings
from mdistill.training.split import split_segments
from mdistill.training.stride_objective import StrideMap, StrideObjective, squares
from mdistill.training.uncertainty import calibrate_uncertainty, typical_impulses, typical_speed
from mdistill.training.windows import Window, join_windows, windows_hash, windows_of

MODEL = "stride.mdistill"
Settle = Callable[[StrideNet], dict[str, float]]
_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StrideResult:
    """What training gave.

    Attributes:
        path, sha256: The model file; of its weights.
        errors: On held-out segments, relative errors after one stride by name: "position" and "momentum" overall and of each
            element ("momentum Li"), root mean squares over √(3 k_B T), "momentum, median" over structs; and of the training
            windows "wrong", the share that the map gets wrong, and "wrong, noticed" (`training.limits`).
        history: Rows of {step, epoch, minutes, train, validation}.
        parameters: Number of trained numbers.
        train_windows, held_out_windows: Counts.
        settled: Facts of what was done to the map after training.
    """

    path: Path
    sha256: str
    errors: dict[str, float]
    history: list[dict[str, Any]]
    parameters: int
    train_windows: int
    held_out_windows: int
    settled: dict[str, float] = field(default_factory=dict)


def train_stride(
    segments: Sequence[Segment],
    potential: Path,
    settings: StrideSettings,
    folder: Path,
    *,
    settle: Settle | None = None,
    stop: StopRequest = NEVER,
    provenance: dict[str, Any] | None = None,
) -> StrideResult:
    """Train a long-stride map; writes `stride.mdistill`, `training.ckpt` and `history.json`, or resumes.

    Args:
        segments: Of the exact flow of `potential`.
        potential: Model file of the potential that the segments were made with.
        settings: How.
        folder, stop: Where; asked between steps.
        settle: What to do to the trained map in place, its limits set, before it is saved; gives facts to be kept with it.
        provenance: Kept in the model file.
    Raises:
        BadInput: Too short segments, nothing to hold out, or a model file that holds no moment potential.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    train, apart = split_segments(segments, held_out=settings.held_out)
    held_out, windows = ([w for t in settings.strides_fs for w in windows_of(part, t, strides=settings.strides, every_fs=every)]
                         for part, every in ((apart, 0.0), (train, segments[0].every_fs)))  # fmt: skip
    begin = first_kick(train, potential, settings, Path(folder), stop=stop) if settings.net == "splitting" else potential
    net = map_of(load_moment(begin), settings, windows)
    energy = load_moment(potential).requires_grad_(False) if settings.energy_weight > 0.0 else None
    turning = net.kind == OneStepAttentionNet.kind if settings.turning is None else settings.turning
    objective = StrideObjective(reversal=settings.reversal, turning=turning, seed=settings.fit.seed, energy=energy,
                                energy_weight=settings.energy_weight)  # fmt: skip
    begun = [read_metadata(path)["sha256"] for path in (begin, potential)]
    inputs = {"train": windows_hash(windows), "held_out": windows_hash(held_out), "start": begun[0], "potential": begun[1]}
    work = replace(TRAINING, settings=settings, inputs=inputs)
    if not settings.float64:
        net = net.in_type(torch.float32)
    how = settings.fit.suited(net.kind)
    result = fit(net, objective, windows, held_out, how, folder=Path(folder), stop=stop, work=work, title="train stride")
    final = result.module.folded()
    caught = set_trust(final, load_moment(potential), windows, held_out)
    if settled := settle(final) if settle is not None else {}:
        caught = set_trust(final, load_moment(potential), windows, held_out)
    made_from = (provenance or {}) | {"steps": result.steps, "settings": asdict(settings), "potential": begun[1]}
    digest = save_model(Path(folder) / MODEL, final, made_from | {"settled": settled})
    return StrideResult(
        path=Path(folder) / MODEL,
        sha256=digest,
        errors=one_stride_errors(final, [w for w in held_out if w.stride_fs == settings.stride_fs]) | caught,
        history=result.history,
        parameters=sum(p.numel() for p in final.parameters()),
        train_windows=len(windows),
        held_out_windows=len(held_out),
        settled=settled,
    )


def set_trust(net: StrideNet, potential: MomentNet, windows: Sequence[Window], held_out: Sequence[Window]) -> dict[str, float]:
    """Set where a trained map is to be trusted; gives what `StrideResult.errors` says of it."""
    if isinstance(net, SplittingMap):
        return set_limits(net, potential, windows)
    if isinstance(net, OneStepNet | OneStepAttentionNet):
        calibrate_uncertainty(net, windows, held_out)
    return {}


def map_of(potential: MomentNet, settings: StrideSettings, windows: Sequence[Window]) -> StrideNet:
    """A map before training.

    Args:
        potential: What it is taught, or what a composition's kicks begin as.
        settings: Which kind, at which strides.
        windows: From which sizes of impulses are taken.
    """
    size, strides, seed = asdict(potential.settings), settings.strides_fs, settings.fit.seed
    if settings.net == "splitting":
        return splitting_map_of(potential, settings)
    if settings.net == "one_step_attention":
        attention = OneStepAttentionNet(OneStepAttentionSettings(elements=size["elements"], strides_fs=strides), seed=seed)
        attention.speed.copy_(typical_speed(windows))
        return attention
    direct = OneStepNet(OneStepSettings(strides_fs=strides, **size), seed=seed)
    direct.start_from(potential)
    direct.scale.copy_(typical_impulses(direct, [w for w in windows if w.stride_fs == settings.stride_fs]))
    return direct


def splitting_map_of(net: MomentNet, settings: StrideSettings) -> SplittingMap:
    """A map all of whose kicks are those of this potential: velocity Verlet of step stride/kicks."""
    size = asdict(net.settings)
    composition = SplittingMap(SplittingMapSettings(stride_fs=settings.stride_fs, kicks=settings.evaluations, **size))
    composition.begin_as(net)
    return composition.requires_grad_(True)


def one_stride_errors(net: StrideMap, windows: Sequence[Window]) -> dict[str, float]:
    """Relative errors after one stride (see `StrideResult`)."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(windows), _AT_ONCE):
            batch = join_windows(windows[start : start + _AT_ONCE])
            positions, momenta = net(batch.system, batch.momenta, batch.masses, batch.stride_fs)
            parts.append((*squares(batch, positions, momenta), batch.system.numbers, batch.system.owner + start))
    position, momentum, numbers, owner = (torch.cat(column) for column in zip(*parts, strict=True))
    found = {"position": float(position.mean()) ** 0.5, "momentum": float(momentum.mean()) ** 0.5}
    for number in numbers.unique().tolist():
        own = numbers == number
        found[f"position {chemical_symbols[number]}"] = float(position[own].mean()) ** 0.5
        found[f"momentum {chemical_symbols[number]}"] = float(momentum[own].mean()) ** 0.5
    counts = torch.bincount(owner)
    each = torch.zeros(len(counts), dtype=momentum.dtype).index_add(0, owner, momentum) / counts
    return found | {"momentum, median": float(each.median()) ** 0.5}

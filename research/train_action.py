"""Training of a generating function on segments of the exact flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mdistill.data.segments import Segment
from mdistill.data.split import split_segments
from mdistill.errors import BadInput
from mdistill.graph import edge_vectors
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import read_metadata, save_model
from mdistill.nets.moment import MomentNet
from mdistill.training.fit import TRAINING, fit
from mdistill.training.settings import StrideSettings
from mdistill.training.stride import MODEL, StrideResult, load_moment, one_stride_errors
from mdistill.training.windows import Window, join_windows, windows_hash, windows_of
from research.action_net import ActionNet
from research.action_objective import ActionObjective, middle_of
from research.action_settings import ActionSettings

_CALIBRATED = 64


def train_action(
    segments: Sequence[Segment],
    potential: Path,
    settings: StrideSettings,
    folder: Path,
    *,
    stop: StopRequest = NEVER,
    provenance: dict[str, Any] | None = None,
) -> StrideResult:
    """Train a generating function; writes `stride.mdistill`, `training.ckpt` and `history.json`, or resumes.

    Args:
        segments: Of the exact flow of `potential`.
        potential: Model file of the moment potential that the segments were made with; the map begins as its midpoint rule.
        settings: How; `kicks` has no meaning here.
        folder, stop: Where; asked between steps.
        provenance: Kept in the model file.
    Raises:
        BadInput: Too short segments, nothing to hold out, several strides or an energy term, or no moment potential.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    if settings.strides != 1 or settings.energy_weight > 0.0:
        raise BadInput(
            "settings",
            f"{settings.strides} strides in a row, energy_weight {settings.energy_weight:g}",
            allowed="one stride, no energy term: a generating function is compared at midpoints",
            fix="leave both out",
        )
    train, apart = split_segments(segments, held_out=settings.held_out)
    held_out = windows_of(apart, settings.stride_fs)
    windows = windows_of(train, settings.stride_fs, every_fs=segments[0].every_fs)
    net = action_of(load_moment(potential), settings.stride_fs)
    calibrate_motion(net, windows)
    begun = read_metadata(potential)["sha256"]
    inputs = {"train": windows_hash(windows), "held_out": windows_hash(held_out), "potential": begun}
    work = replace(TRAINING, settings=settings, inputs=inputs)
    if not settings.float64:
        net = net.in_type(torch.float32)
    how = settings.fit.suited("action")
    result = fit(net, ActionObjective(), windows, held_out, how, folder=Path(folder), stop=stop, work=work, title="train action")
    final = result.module.folded()
    made_from = (provenance or {}) | {"steps": result.steps, "settings": asdict(settings), "potential": begun}
    digest = save_model(Path(folder) / MODEL, final, made_from)
    return StrideResult(
        path=Path(folder) / MODEL,
        sha256=digest,
        errors=one_stride_errors(final, held_out),
        history=result.history,
        parameters=sum(p.numel() for p in final.parameters()),
        train_windows=len(windows),
        held_out_windows=len(held_out),
    )


def action_of(net: MomentNet, stride_fs: float) -> ActionNet:
    """A map that is the implicit midpoint rule of this potential."""
    action = ActionNet(ActionSettings(stride_fs=stride_fs, **asdict(net.settings)))
    action.begin_as(net)
    return action.requires_grad_(True)


def calibrate_motion(net: ActionNet, windows: Sequence[Window]) -> None:
    """Set mean and spread of the invariants of each species by a few windows; those of the motion keep mean 0."""
    batch = join_windows(windows[:: max(1, len(windows) // _CALIBRATED)])
    graph, momenta = middle_of(batch, net.cutoff)
    moves = batch.stride_fs * momenta / batch.masses.unsqueeze(1)
    moving = moves.index_select(0, graph.sender) - moves.index_select(0, graph.receiver)
    motion, species = net.motion, net.potential.species(batch.system.numbers)
    with torch.no_grad():
        invariants = motion.invariants(graph, edge_vectors(graph), moving)
        at_rest = motion.at_rest
        for place in species.unique().tolist():
            own = invariants[species == place]
            motion.mean[place, 0, :at_rest] = own[:, :at_rest].mean(0)
            size = (own - motion.mean[place, 0]).square().mean(0).sqrt()
            motion.spread[place, 0] = torch.where(size > 0.0, size, torch.ones_like(size))

"""Initial potential of the kicks of a splitting map, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.data.segments import Segment
from mdistill.derivatives import EnergyNet, forces_through
from mdistill.graph import build_graph, edge_vectors
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import load_model
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import SplittingMapSettings, lighter
from mdistill.nets.splitting_map import Forces, SplittingMap, build_graph_at, compose
from mdistill.training.potential import train_potential
from mdistill.training.settings import KICK_SHARE, FitSettings, StrideSettings, TrainSettings
from mdistill.training.stride import load_moment
from mdistill.training.stride_objective import errors
from mdistill.training.windows import Window, join_windows
from mdistill.types import LabelledFrame, Potential, System
from mdistill.units import KINETIC

_FOLDER = "kick"
_FRAMES = 800
"""Number of frames for training a lighter potential."""
_RIGHT = 4.0
"""Largest error of an accurate stride, as a multiple of the median error."""
_FORCE_MARGIN, _ENERGY_MARGIN, _UNSEEN = 1.05, 1.2, 0.98
_JUDGED = 800


def first_kick(
    segments: Sequence[Segment], potential: Path, settings: StrideSettings, folder: Path, *, stop: StopRequest = NEVER
) -> Path:
    """Model file of the initial potential of every kick: the student, or a lighter potential trained in `folder`/kick.

    Args:
        segments: NVE segments of `potential`; up to 800 of their frames are labelled with it.
        potential: Model file of the student.
        settings: Settings of the map.
        folder, stop: Folder; stop is checked between steps.
    Raises:
        BadInput: The file holds no moment potential, or there are fewer than two segments at every temperature.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    student = load_moment(potential).settings
    size = student if settings.kick_size == "student" else lighter(student)
    if size == student:
        return potential
    parts = {name: value for name, value in asdict(size).items() if name != "elements"}
    budget = settings.fit.max_minutes * KICK_SHARE
    fit = FitSettings(steps=settings.fit.steps, max_minutes=budget, seed=settings.fit.seed)
    light = TrainSettings(curvature="none", float64=settings.float64, fit=fit, **parts)
    return train_potential(labelled(segments, load_model(potential)), light, folder / _FOLDER, stop=stop).path


def labelled(segments: Sequence[Segment], potential: Potential) -> list[LabelledFrame]:
    """Frames of the segments, evenly spaced, with predictions of the potential; each segment is a block."""
    each = max(1, _FRAMES // len(segments))
    frames = []
    for block, segment in enumerate(segments[:: max(1, len(segments) // _FRAMES)]):
        for positions in segment.positions[:: max(1, segment.frames // each)][:each]:
            system = replace(segment.system, positions=positions)
            target = potential(build_graph(system, potential.cutoff))
            frames.append(LabelledFrame(system=system, target=target, temperature_K=segment.temperature_K, block=block))
    return frames


def splitting_map_of(potential: MomentNet, settings: StrideSettings, windows: Sequence[Window] = ()) -> SplittingMap:
    """A map with this potential in all kicks: velocity Verlet of step stride/kicks."""
    size = SplittingMapSettings(stride_fs=settings.stride_fs, kicks=settings.evaluations, potential=potential.settings)
    net = SplittingMap(size)
    net.begin_as(potential)
    return net.requires_grad_(True)


def set_limits(
    net: SplittingMap, potential: EnergyNet, windows: Sequence[Window], held_out: Sequence[Window] = ()
) -> dict[str, float]:
    """Set the map's limits from its accurate strides; a fiftieth of them change K + V₀ by more than `looked_at`.

    Args:
        net: The trained map, float64; changes in place.
        potential: Its student.
        windows: Its training data; up to 1,600 windows are used.
    Returns:
        "wrong": the share of inaccurate strides; "wrong, noticed": the share of these that exceed a limit (1 without any).
    """
    forces: list[Tensor] = []
    rows: list[list[float]] = []
    for window in windows[:: max(1, len(windows) // _JUDGED)]:
        largest = torch.zeros_like(net.largest_force)
        stages = [_watched(stage, window, largest[k]) for k, stage in enumerate(net.potentials())]
        with torch.no_grad():
            positions, momenta = compose(stages, net.settings, window.system, window.momenta, window.masses)
        batch = join_windows([window])
        position, momentum = errors(batch, positions - window.positions_after[0], momenta - window.momenta_after[0])
        changes = [_change(each, window, positions, momenta) for each in (net.potentials()[0], potential)]
        forces.append(largest)
        rows.append([float((position + momentum).mean()), *changes])
    error, looked, change = torch.tensor(rows, dtype=torch.float64).unbind(1)
    strongest, right = torch.stack(forces), error <= _RIGHT**2 * error.median()
    net.largest_force.copy_(_FORCE_MARGIN * strongest[right].amax(0))
    net.looked_at.copy_(looked[right].quantile(_UNSEEN))
    net.largest_change.copy_(_ENERGY_MARGIN * change[right].max())
    noticed = (strongest > net.largest_force).flatten(1).any(1) | ((looked > net.looked_at) & (change > net.largest_change))
    count = int((~right).sum())
    return {"wrong": count / len(right), "wrong, noticed": float(noticed[~right].float().mean()) if count else 1.0}


def _watched(stage: MomentNet, window: Window, largest: Float[Tensor, " species"]) -> Forces:
    """The forces of a stage, with the largest of each species recorded."""
    species = stage.species(window.system.numbers)

    def forces(system: System) -> Tensor:
        pushed = forces_through(stage, build_graph_at(system, stage.cutoff))
        largest.scatter_reduce_(0, species, pushed.norm(dim=1), "amax")
        return pushed

    return forces


def _change(net: EnergyNet, window: Window, positions: Tensor, momenta: Tensor) -> float:
    """Size of the change of kinetic energy and a potential's over a stride, eV/√atom."""
    energies = []
    for place, speed in ((window.system.positions, window.momenta), (positions, momenta)):
        graph = build_graph_at(replace(window.system, positions=place), net.cutoff)
        with torch.no_grad():
            kinetic = 0.5 * KINETIC * (speed.square().sum(1) / window.masses).sum()
            energies.append(float(net(graph, edge_vectors(graph)).sum() + kinetic))
    return abs(energies[1] - energies[0]) / window.system.n_atoms**0.5

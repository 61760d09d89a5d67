"""The potential that the kicks of a composition begin as: the student, or a lighter one taught by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mdistill.data.segments import Segment
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import load_model, load_net
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import lighter
from mdistill.training.potential import train_potential
from mdistill.training.settings import FitSettings, StrideSettings, TrainSettings
from mdistill.types import LabelledFrame, Potential

_FOLDER = "kick"
_FRAMES, _SHARE = 800, 0.3
"""Frames that a lighter potential is taught on; its time over that of the map."""


def first_kick(
    segments: Sequence[Segment], potential: Path, settings: StrideSettings, folder: Path, *, stop: StopRequest = NEVER
) -> Path:
    """Model file of what every kick begins as: the student, or a lighter potential, trained in `folder`/kick or resumed.

    Args:
        segments: Of the exact flow of `potential`; up to 800 of their frames are labelled with it.
        potential: Model file of the student.
        settings: Of the map.
        folder, stop: Where; asked between steps.
    Raises:
        BadInput: The file holds no moment potential, or there are fewer than two segments at every temperature.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    own = load_moment(potential).settings
    size = own if settings.kick_size == "student" else lighter(own)
    if size == own:
        return potential
    parts = {name: value for name, value in asdict(size).items() if name != "elements"}
    budget = settings.fit.max_minutes * _SHARE
    fit = FitSettings(steps=settings.fit.steps, max_minutes=budget, seed=settings.fit.seed)
    how = TrainSettings(curvature="none", float64=settings.float64, fit=fit, **parts)
    return train_potential(labelled(segments, load_model(potential)), how, folder / _FOLDER, stop=stop).path


def labelled(segments: Sequence[Segment], potential: Potential) -> list[LabelledFrame]:
    """Frames of the segments, evenly spaced, with what the potential says of them; each segment is a block."""
    each = max(1, _FRAMES // len(segments))
    frames = []
    for block, segment in enumerate(segments[:: max(1, len(segments) // _FRAMES)]):
        for positions in segment.positions[:: max(1, segment.frames // each)][:each]:
            system = replace(segment.system, positions=positions)
            target = potential(build_graph(system, potential.cutoff))
            frames.append(LabelledFrame(system=system, target=target, temperature_K=segment.temperature_K, block=block))
    return frames


def learning_minutes(settings: StrideSettings) -> float:
    """Longest time (minutes) that training a map takes, that of its first kick included."""
    light = settings.net == "splitting" and settings.kick_size == "light"
    return settings.fit.max_minutes * (1.0 + _SHARE * light)


def load_moment(path: Path) -> MomentNet:
    """The moment potential of a model file.

    Raises:
        BadInput: It holds another kind.
    """
    net = load_net(path)
    if not isinstance(net, MomentNet):
        fix = "distil a moment student (the default)"
        raise BadInput(path, f"a model of kind {net.kind!r}", allowed="a moment student", fix=fix)
    return net

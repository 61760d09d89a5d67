"""A network that begins as a closed-form student is that student, but for its cubes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from laws import assert_close
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.data.split import split_blocks
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.nets.model_files import load_net, save_model
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import MomentSettings, PainnSettings
from mdistill.training.calibrate import calibrate
from mdistill.training.labels import items_of
from mdistill.training.potential import MODEL, train_potential
from mdistill.training.settings import ClosedFormSettings, FitSettings, TrainSettings
from research.warm_start import begin_from_linear, is_linear_start, train_from_linear
from systems import morse_frames, tiny_net

SMALL = ClosedFormSettings(second=5, third=3, curvature_frames=0, iterations=3)
SETTINGS = TrainSettings(cutoff=4.5, channels=12, radial=6, held_out=0.25, fit=FitSettings(steps=1))


def start(linear: MomentNet, frames, channels: int) -> MomentNet:
    net = MomentNet(replace(linear.settings, channels=channels, hidden=16))
    items = items_of(split_blocks(frames, held_out=SETTINGS.held_out)[0], net.cutoff, torch.float64)
    calibrate(net, items, fresh=True)
    begin_from_linear(net, linear, items, path=Path("linear"))
    return net


def without_cubes(tmp_path, frames) -> MomentNet:
    fit_closed_form(frames, SETTINGS, tmp_path, closed_form=SMALL)
    linear = load_net(tmp_path / MODEL).requires_grad_(False)
    linear.last.weight.view(len(linear.settings.elements), linear.settings.degree + 3, -1)[:, -1] = 0.0
    return linear


def test_with_room_for_all_channels_it_is_the_same_function(tmp_path):
    frames = morse_frames(40)
    linear = without_cubes(tmp_path, frames)
    net = start(linear, frames, channels=linear.settings.channels + 1)
    for frame in frames[::7]:
        graph = build_graph(frame.system, net.cutoff)
        found, wanted = Conservative(net)(graph), Conservative(linear)(graph)
        assert_close(found.energy, wanted.energy, absolute=1e-8, relative=1e-9)
        assert_close(found.forces, wanted.forces, absolute=1e-8, relative=1e-9)


def test_fewer_channels_keep_the_leading_part(tmp_path):
    frames = morse_frames(40)
    linear = without_cubes(tmp_path, frames)
    apart = []
    for channels in (2, 4, 8):
        net = start(linear, frames, channels)
        graphs = [build_graph(frame.system, net.cutoff) for frame in frames[::7]]
        apart.append(sum(float((Conservative(net)(g).forces - Conservative(linear)(g).forces).square().sum()) for g in graphs))
    assert apart[0] > apart[1] > apart[2]


def test_training_starts_there(tmp_path):
    frames = morse_frames(40)
    fit_closed_form(frames, SETTINGS, tmp_path / "linear", closed_form=SMALL)
    cold = train_potential(frames, SETTINGS, tmp_path / "cold")
    warm = train_from_linear(frames, SETTINGS, tmp_path / "warm", linear=tmp_path / "linear" / MODEL)
    assert warm.accuracy.force["all"].mean_absolute.value < 0.5 * cold.accuracy.force["all"].mean_absolute.value


def test_what_is_not_a_closed_form_student_is_refused(tmp_path):
    frames = morse_frames(40)
    strange = tiny_net(0, hidden=0, radial=6)
    assert not is_linear_start(strange.settings, replace(strange.settings, radial=7, hidden=16))
    assert not is_linear_start(PainnSettings(elements=(3,)), strange.settings)
    assert not is_linear_start(replace(strange.settings, hidden=8), replace(strange.settings, hidden=16))
    elements = tuple(sorted({int(z) for frame in frames for z in frame.system.numbers}))
    linear = MomentNet(MomentSettings(elements=elements, cutoff=4.5, channels=4, radial=6, hidden=0))
    linear.spread.fill_(2.0)
    save_model(tmp_path / "strange.mdistill", linear)
    with pytest.raises(BadInput, match="closed-form student"):
        train_from_linear(frames, SETTINGS, tmp_path / "out", linear=tmp_path / "strange.mdistill")

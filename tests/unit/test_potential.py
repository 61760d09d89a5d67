"""Training a potential on a toy teacher: it learns, holds out blocks, fits E0, resumes, refits, refuses bad labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from laws import force_flips
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, Interrupted
from mdistill.graph import build_graph, edge_vectors
from mdistill.interrupt import StopRequest
from mdistill.nets.model_files import load_model, read_metadata
from mdistill.nets.moment import FREEZE, MomentNet
from mdistill.nets.settings import MomentSettings
from mdistill.training import potential as module
from mdistill.training.calibrate import calibrate, closest_distances, reference_energies
from mdistill.training.labels import items_of
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from systems import MorseNet, morse_frames

SMALL = TrainSettings(
    cutoff=5.0,
    channels=6,
    radial=6,
    hidden=16,
    held_out=0.2,
    stress_weight=0.3,
    fit=FitSettings(steps=300, batch_size=6, warmup=10, learning_rate=0.02),
)
"""Stress weighs more than usual: at one single cell, as here, forces say nothing about the pressure."""


@pytest.fixture(scope="module")
def frames():
    return morse_frames(48, probes=2)


@pytest.fixture(scope="module")
def trained(frames, tmp_path_factory):
    return train_potential(frames, SMALL, tmp_path_factory.mktemp("train"), provenance={"teacher": "morse"})


def test_it_learns_the_teacher(trained, frames):
    force = trained.accuracy.force["all"]
    assert force.mean_absolute.value < 0.1 * force.scale
    assert trained.accuracy.energy["all"].mean_absolute.value < 0.01
    first, last = trained.history[0]["validation"], trained.history[-1]["validation"]
    assert all(last[name] < 0.5 * first[name] for name in ("forces", "energy", "stress"))
    assert trained.accuracy.stress["all"].mean_absolute.value == pytest.approx(last["stress"], rel=0.5)
    assert {"all", "600 K", "1000 K"} <= set(trained.accuracy.force)
    assert trained.curvature_error < 1.0
    assert trained.train_frames + trained.held_out_frames == len(frames)
    assert trained.held_out_frames == 12
    assert len(trained.parity["force"]) == 12 * 8 * 3
    metadata = read_metadata(trained.path)
    assert metadata["provenance"]["teacher"] == "morse"
    assert metadata["sha256"] == trained.sha256
    assert trained.history[-1]["step"] == 300


def test_curvature_labels_help_curvature(frames, tmp_path):
    short = replace(SMALL, curvature_weight=1.0, curvature_every=2, fit=replace(SMALL.fit, steps=120))
    with_labels = train_potential(frames, short, tmp_path / "with").curvature_error
    without = train_potential(frames, replace(short, curvature="none"), tmp_path / "without").curvature_error
    assert with_labels < 0.9 * without


def test_the_closest_pair_of_all_labels_is_learned_too(trained, frames):
    """Functions that begin at the closest label have no slope there: this force was off by 15 % then."""
    near = [edge_vectors(build_graph(frame.system, 5.0)).norm(dim=1) for frame in frames]
    which = min(range(len(frames)), key=lambda k: float(near[k].min()))
    atom = int(build_graph(frames[which].system, 5.0).receiver[int(near[which].argmin())])
    found, known = evaluate(load_model(trained.path), [frames[which]])[0].forces[atom], frames[which].target.forces[atom]
    assert float((found - known).norm()) < 0.08 * float(known.norm())


def test_held_out_blocks_are_not_trained_on(trained, frames):
    predictions = evaluate(load_model(trained.path), frames)
    held = [k for k, frame in enumerate(frames) if frame.block in (6, 7)]
    assert len(held) == trained.held_out_frames
    error = np.mean([float((predictions[k].forces - frames[k].target.forces).abs().mean()) for k in held])
    assert error == pytest.approx(trained.accuracy.force["all"].mean_absolute.value, rel=1e-9)


def test_the_trained_core_repels(trained, frames, trust):
    """Every pair that was labelled, from 0.3 Å to its closest labelled distance: the force never turns attractive."""
    net = load_model(trained.path).net
    closest, flips = net.closest, 0
    for a, first in enumerate(net.settings.elements):
        for b, second in enumerate(net.settings.elements[a:], start=a):
            if float(closest[a, b]) < net.cutoff:
                end = min(float(closest[a, b]) - FREEZE, float(net.core.outer[a, b]) - 0.01)
                distances = torch.linspace(0.3, end, 40, dtype=torch.float64)
                count, radial = force_flips(net, first, second, distances)
                flips += count
                assert float(radial.min()) > 0.0
    assert flips == 0
    trust("T11", "trained student, every labelled pair, 0.3 Å to the end of the core: sign changes of the force", flips, "0")


def interrupt_at(step):
    stop = StopRequest()
    right = module.PotentialObjective.__call__

    def watched(self, net, batch, at):
        if at == step:
            stop.signal_number = 2
        return right(self, net, batch, at)

    return stop, watched


def test_resumed_training_gives_the_same_model(frames, tmp_path, monkeypatch, trust):
    settings = replace(SMALL, fit=replace(SMALL.fit, steps=24))
    whole = train_potential(frames, settings, tmp_path / "whole")
    for step in (5, 13):
        stop, watched = interrupt_at(step)
        monkeypatch.setattr(module.PotentialObjective, "__call__", watched)
        with pytest.raises(Interrupted):
            train_potential(frames, settings, tmp_path / "parts", stop=stop)
        monkeypatch.undo()
    assert train_potential(frames, settings, tmp_path / "parts").sha256 == whole.sha256
    trust("T18", "potential with curvature probes, stopped twice and resumed: sha256 of the model", "equal", "bitwise")


def test_a_refit_starts_where_the_first_training_ended(trained, frames, tmp_path):
    before = evaluate(load_model(trained.path), frames[:1])[0]
    fit = replace(SMALL.fit, steps=1, learning_rate=1e-8)
    refit = train_potential(frames, replace(SMALL, fit=fit), tmp_path, start_from=trained.path)
    after = evaluate(load_model(refit.path), frames[:1])[0]
    assert torch.allclose(before.forces, after.forces, atol=2e-3)
    assert torch.allclose(before.energy, after.energy, atol=2e-3)
    with pytest.raises(BadInput, match="was trained with"):
        train_potential(frames, replace(SMALL, fit=fit, hidden=8), tmp_path / "other", start_from=trained.path)


def test_reference_energies_at_one_and_at_several_compositions(frames):
    net = MomentNet(MomentSettings(elements=(3, 15, 16, 17), cutoff=5.0))
    items = items_of(frames, 5.0, torch.float64)
    one = reference_energies(net, items)
    per_atom = float(torch.cat([f.target.energy for f in frames]).mean()) / 8
    assert torch.allclose(one, torch.full((4,), per_atom, dtype=torch.float64), atol=1e-2)
    truth = torch.tensor([-1.0, -2.0, -3.5, -0.5], dtype=torch.float64)
    rng, several = np.random.default_rng(0), []
    for frame in frames[:12]:
        numbers = torch.from_numpy(rng.choice([3, 15, 16, 17], 8))
        energy = truth[net.species(numbers)].sum().reshape(1)
        several.append(replace(frame, system=replace(frame.system, numbers=numbers), target=replace(frame.target, energy=energy)))
    assert torch.allclose(reference_energies(net, items_of(several, 5.0, torch.float64)), truth, atol=1e-9)


def test_closest_distances_set_the_core(frames):
    net = MomentNet(MomentSettings(elements=(3, 15, 16, 17), cutoff=5.0))
    items = items_of(frames, 5.0, torch.float64)
    calibrate(net, items, fresh=True)
    closest = closest_distances(net, items)
    assert torch.equal(closest, closest.T)
    assert torch.equal(net.closest, (closest - net.begins_below).clamp_max(5.0))
    assert bool((net.core.outer <= closest).all())
    graph = items[0].graph
    assert float(net.core(torch.ones((1, 3), dtype=torch.float64) * 9.0, torch.tensor([0]))[0].sum()) == 0.0
    assert float(closest.min()) <= float(torch.linalg.norm(graph.system.positions[0] - graph.system.positions[1]))


def spoiled(frame, **changes):
    return replace(frame, target=replace(frame.target, **changes))


def test_bad_labels_are_refused(frames, tmp_path):
    first = frames[0]
    nan = first.target.forces.clone()
    nan[0, 0] = torch.nan
    cases = [
        [],
        [spoiled(first, forces=nan), *frames[1:]],
        [spoiled(first, energy=torch.tensor([torch.inf], dtype=torch.float64)), *frames[1:]],
        [spoiled(first, forces=first.target.forces[:-1]), *frames[1:]],
        [replace(frame, block=0) for frame in frames],
    ]
    for case in cases:
        with pytest.raises(BadInput):
            train_potential(case, SMALL, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"held_out": 1.0},
        {"force_weight": -1.0},
        {"curvature_every": 0},
        {"curvature": "some"},
        {"curvature_probes": 0},
        {"teacher_error": 0.0},
        {"channels": 0},
        {"cutoff": 0.0},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(BadInput):
        TrainSettings(**wrong)


def test_the_toy_teacher_is_conservative(frames):
    assert isinstance(Conservative(MorseNet())(build_graph(frames[0].system, 5.0)).energy, torch.Tensor)

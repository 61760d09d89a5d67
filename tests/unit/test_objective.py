"""What is made small: kinds of curvature labels, probes drawn anew, annealing, and controls that tie features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

from mdistill.data.probes import draw_probes, probe_kind
from mdistill.data.store import LabelStore
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.nets.model_files import load_net
from mdistill.training.labels import curvature_labels, items_of, with_probes
from mdistill.training.objective import PotentialObjective, loss_terms
from mdistill.training.potential import curvature_error, train_potential
from mdistill.training.settings import FitSettings, PainnSize, TrainSettings
from systems import MorseNet, labelled, morse_frames, tiny_net

FIT = FitSettings(steps=30, batch_size=6, warmup=10, learning_rate=0.02)
SMALL = TrainSettings(cutoff=5.0, channels=6, radial=6, hidden=16, held_out=0.25, fit=FIT)
PAINN = replace(SMALL, net="painn", cutoff=4.0, painn=PainnSize(width=8, layers=1, radial=6))


@pytest.fixture(scope="module")
def frames():
    return morse_frames(48, probes=2)


@pytest.fixture(scope="module")
def both_kinds(frames):
    teacher, generator = Conservative(MorseNet()), Generator().manual_seed(3)
    probed = [
        labelled(f.system, teacher, probes=draw_probes(f.system, 12, generator, kind="rows"), block=f.block) for f in frames
    ]
    return [
        replace(f, probes=torch.cat([f.probes, r.probes]), products=torch.cat([f.products, r.products]))
        for f, r in zip(frames, probed, strict=True)
    ]


def test_rows_are_unit_vectors_of_distinct_coordinates(frames):
    system = frames[0].system
    rows = draw_probes(system, 10**6, Generator().manual_seed(0), kind="rows").flatten(1)
    assert torch.equal(rows.sum(0), torch.ones(3 * system.n_atoms, dtype=rows.dtype)) and rows.shape[0] == rows.shape[1]
    assert {probe_kind(row.view(-1, 3)) for row in rows} == {"rows"}
    assert probe_kind(draw_probes(system, 1, Generator().manual_seed(0))[0]) == "random"


def test_each_kind_of_label_is_told_apart(both_kinds, frames):
    counts = {
        kind: [0 if f.probes is None else len(f.probes) for f in with_probes(both_kinds, kind)]
        for kind in ("any", "rows", "probes", "none")
    }
    first = len(frames[0].probes)
    assert counts["rows"] == [12] * len(frames) and counts["none"] == [0] * len(frames)
    assert counts["probes"][0] == first and counts["any"][0] == first + 12
    for frame in with_probes(both_kinds, "rows"):
        assert all(probe_kind(probe) == "rows" for probe in frame.probes)
    with pytest.raises(BadInput, match="no frame has such labels"):
        with_probes(frames, "rows")


def test_several_probes_of_each_frame(both_kinds):
    like, random = both_kinds[0].system.positions, np.random.default_rng(0)
    probes, products, known = curvature_labels(
        [both_kinds[0], replace(both_kinds[1], probes=None, products=None)], random, like, count=4
    )
    n = both_kinds[0].system.n_atoms
    assert probes.shape == products.shape == (4, len(known), 3)
    assert bool(known[:n].all()) and not bool(known[n:].any()) and float(probes[:, n:].abs().sum()) == 0.0
    held = [p.tolist() for p in both_kinds[0].probes]
    places = [held.index(p.tolist()) for p in probes[:, :n]]
    assert len(set(places)) == 4, "drawn without repeats where there are enough"
    assert all(torch.equal(products[k, :n], both_kinds[0].products[place]) for k, place in enumerate(places))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "probes"])
def test_either_kind_teaches_curvature(kind, both_kinds, tmp_path):
    """Judged by the mean absolute error of held-out labels of its own kind, which is what is made small."""
    strong = replace(SMALL, curvature_weight=1.0, curvature_every=2, curvature_probes=4, fit=replace(SMALL.fit, steps=120))
    held_out = with_probes([frame for frame in both_kinds if frame.block in (6, 7)], kind)
    made = {how: train_potential(both_kinds, replace(strong, curvature=how), tmp_path / how).path for how in (kind, "none")}
    errors = {}
    for how, path in made.items():
        potential = Conservative(load_net(path))
        wrong = [potential.curvature(build_graph(f.system, 5.0), f.probes) - f.products for f in held_out]
        errors[how] = float(torch.cat(wrong).abs().mean())
    assert errors[kind] < 0.95 * errors["none"]


@pytest.mark.slow
def test_probes_drawn_anew_are_the_teachers(frames, tmp_path):
    teacher = Conservative(MorseNet())
    plain = with_probes(frames, "none")
    strong = replace(SMALL, curvature_weight=1.0, curvature_every=1, fit=replace(SMALL.fit, steps=60))
    with_it = train_potential(plain, strong, tmp_path / "with", redraw=teacher)
    without = train_potential(plain, strong, tmp_path / "without")
    assert with_it.curvature_error is None, "the labels hold none"
    found = [curvature_error(load_net(r.path), frames) for r in (with_it, without)]
    assert found[0] < 0.9 * found[1]
    items = items_of(plain[:2], 5.0, torch.float64)
    objective = PotentialObjective(terms=loss_terms(plain, SMALL, redrawn=1.0), every=1, seed=0, teacher=teacher)
    assert [objective(MorseNet(), items, step)[1]["curvature"] for step in (0, 1)] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_curvature_weighs_half_once_the_student_is_as_good_as_its_teacher(both_kinds):
    terms = loss_terms(both_kinds, SMALL)
    objective = PotentialObjective(terms=terms, every=1, seed=0, teacher_error=0.1)
    items, net = items_of(both_kinds[:2], 5.0, torch.float64), tiny_net()
    before = float(objective(net, items, 0)[0])
    objective.observe([{"validation": {"forces": 0.2}}, {"validation": {"forces": 0.106}}])
    assert not objective.halved and float(objective(net, items, 0)[0]) == before
    objective.observe([{"validation": {"forces": 0.2}}, {"validation": {"forces": 0.104}}, {"validation": {"forces": 0.5}}])
    after = float(objective(net, items, 0)[0])
    curved = PotentialObjective(terms=[t for t in terms if t.quantity == "curvature"], every=1, seed=0)
    assert objective.halved and before - after == pytest.approx(0.5 * float(curved(net, items, 0)[0]), rel=1e-6)
    never = PotentialObjective(terms=terms, every=1, seed=0)
    never.observe([{"validation": {"forces": 0.0}}])
    assert not never.halved


@pytest.mark.slow
def test_energies_of_atoms_are_stored_and_learned(frames, tmp_path):
    teacher = Conservative(MorseNet())
    answers = [labelled(f.system, teacher, block=f.block) for f in frames]
    assert answers[0].target.atomic is not None
    assert float(answers[0].target.atomic.sum() - answers[0].target.energy[0]) == pytest.approx(0.0, abs=1e-9)
    store = LabelStore(tmp_path / "store")
    store.append([*answers, replace(answers[0], target=replace(answers[0].target, atomic=None))])
    back = store.read()
    assert torch.equal(back[0].target.atomic, answers[0].target.atomic) and back[-1].target.atomic is None

    def error(path):
        net = Conservative(load_net(path))
        found = [net(build_graph(f.system, net.cutoff)).atomic - f.target.atomic for f in answers]
        return float(torch.cat(found).abs().mean())

    settings = replace(SMALL, fit=replace(SMALL.fit, steps=150))
    told = train_potential(answers, replace(settings, atomic_weight=5.0), tmp_path / "told").path
    untold = train_potential(answers, settings, tmp_path / "untold").path
    assert error(told) < 0.5 * error(untold)

"""The difference of two levels of theory: known softening, offsets and correction come back; hard labels in training."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from laws import assert_close
from mdistill.closed_form.delta import SIZE, Corrected, fit_delta, load_delta, offsets
from mdistill.closed_form.linear_fit import solve
from mdistill.closed_form.ridge import NormalEquations
from mdistill.data.split import split_blocks
from mdistill.derivatives import Conservative, curvature_products
from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors
from mdistill.training import hard_targets
from mdistill.training.hard_targets import FIRST_BLOCK, HARD, fine_tune, share_of, split_hard, together
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, HardFitSettings, TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction
from systems import MorseNet, labelled, morse_frames, random_box

SETTINGS = TrainSettings(cutoff=4.5, radial=4, degree=1, channels=4, hidden=8, held_out=0.25)
SMALL = replace(SIZE, second=3, third=2)
ENERGIES = {3: 0.7, 15: -1.1, 16: 0.2, 17: 2.0}


def harder(frame: LabelledFrame, factor: float = 1.25) -> LabelledFrame:
    """The same structure by a level of theory whose forces are `factor` times as large, with other energies of the elements."""
    extra = sum(ENERGIES[int(z)] for z in frame.system.numbers)
    target = replace(frame.target, energy=factor * frame.target.energy + extra, forces=factor * frame.target.forces, stress=None)
    return replace(frame, target=target, probes=None, products=None)


def pairs(count: int) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Soft frames of different compositions, and the same by the harder level."""
    soft = [labelled(random_box(k, atoms=8 + k % 3, length=6.5), Conservative(MorseNet())) for k in range(count)]
    return soft, [harder(frame) for frame in soft]


def test_a_softening_and_offsets_that_are_known_come_back_from_a_few_labels():
    soft, hard = pairs(12)
    delta = fit_delta(hard[:6], [f.target for f in soft[:6]], SETTINGS, around=soft, size=SMALL)
    assert delta.softening == pytest.approx(0.25, abs=0.02)
    for before, after in zip(soft[6:], hard[6:], strict=True):
        found = delta.corrected(before).target
        assert float((found.forces - after.target.forces).abs().mean()) < 0.05 * float(after.target.forces.abs().mean())
        assert abs(float(found.energy - after.target.energy)) / after.system.n_atoms < 0.05


def closer(frame: LabelledFrame, share: float) -> LabelledFrame:
    """The frame with its two closest atoms nearer by this share of their distance."""
    graph = build_graph(frame.system, 4.5)
    k = int(edge_vectors(graph).norm(dim=1).argmin())
    positions = frame.system.positions.clone()
    positions[graph.sender[k]] -= share * edge_vectors(graph)[k]
    return labelled(replace(frame.system, positions=positions), Conservative(MorseNet()))


def test_a_contact_closer_than_all_labels_is_corrected_by_the_softening_alone(tmp_path):
    """The correction adds no second repulsion to the teacher's own."""
    soft, hard = pairs(8)
    contact = closer(soft[7], 0.35)
    delta = fit_delta(hard[:6], [f.target for f in soft[:6]], SETTINGS, around=soft)
    delta.save(tmp_path / "delta.mdistill")
    for one in (delta, load_delta(tmp_path / "delta.mdistill")):
        change = one.corrected(contact).target.forces - contact.target.forces
        assert float((change - 0.25 * contact.target.forces).abs().max()) < 0.1 * float(contact.target.forces.abs().max())


def test_a_product_that_the_labels_hardly_know_stays_small_where_it_is_large():
    """A column of 10⁻⁴ in the labels and 100 elsewhere: fitted to noise, it would give forces of hundreds there."""
    random = torch.Generator().manual_seed(1)
    rows = torch.randn((200, 2), generator=random, dtype=torch.float64) * torch.tensor([1.0, 1e-4], dtype=torch.float64)
    labels = rows[:, 0] + 0.3 * torch.randn(200, generator=random, dtype=torch.float64)
    normal = {"forces": NormalEquations.empty(2)}
    normal["forces"].add(rows, labels)
    normal["forces"].flush()
    usual = torch.tensor([1.0, 100.0**2], dtype=torch.float64)
    wild, tame = (solve(normal, 30, usual_square=given).weights for given in (None, usual))
    assert abs(float(wild[1])) * 100.0 > 100.0 and abs(float(tame[1])) * 100.0 < 0.1
    assert float(tame[0]) == pytest.approx(1.0, abs=0.1)


def test_offsets_alone_are_exact_where_only_the_zero_of_energy_differs():
    soft = [labelled(random_box(k, atoms=7 + k), Conservative(MorseNet())) for k in range(6)]
    hard = [harder(frame, 1.0) for frame in soft]
    elements = tuple(sorted(ENERGIES))
    found = offsets(hard, [frame.target for frame in soft], elements)
    assert_close(found, torch.tensor([ENERGIES[z] for z in elements], dtype=torch.float64), absolute=1e-8, relative=1e-8)
    one = offsets(hard[:1], [soft[0].target], elements)  # one composition: the same energy for each atom
    assert float(one.std()) < 1e-9


def test_a_corrected_teacher_is_a_potential_with_the_curvature_of_its_forces():
    soft, hard = pairs(6)
    delta = fit_delta(hard, [f.target for f in soft], SETTINGS, around=soft, size=SMALL)
    base: Potential = Conservative(MorseNet())
    corrected, system = Corrected(base, delta), soft[0].system
    probes = torch.randn((2, system.n_atoms, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sides = [
        corrected(build_graph(replace(system, positions=system.positions + sign * 1e-4 * probes[0]), corrected.cutoff)).forces
        for sign in (1.0, -1.0)
    ]
    found = curvature_products(corrected, system, probes)
    assert_close(found[0], (sides[1] - sides[0]) / 2e-4, absolute=1e-4, relative=1e-4)
    stored = replace(soft[0], probes=probes, products=curvature_products(base, system, probes))
    assert_close(delta.corrected(stored).products, found, absolute=1e-6, relative=1e-6)
    sent = pickle.loads(pickle.dumps(corrected))  # to worker processes
    assert_close(
        sent(build_graph(system, sent.cutoff)).forces, corrected(build_graph(system, corrected.cutoff)).forces, absolute=1e-12
    )
    assert corrected.sha256 != Corrected(base, replace(delta, softening=0.1)).sha256


def test_a_difference_survives_its_file_and_a_student_is_no_difference(tmp_path):
    soft, hard = pairs(5)
    delta = fit_delta(hard, [f.target for f in soft], SETTINGS, around=soft, size=SMALL)
    delta.save(tmp_path / "delta.mdistill")
    back = load_delta(tmp_path / "delta.mdistill")
    assert (back.softening, back.labels) == (delta.softening, 5)
    assert torch.equal(back.of(soft[0].target, soft[0].system).forces, delta.of(soft[0].target, soft[0].system).forces)
    train_potential(morse_frames(6), replace(SETTINGS, fit=FitSettings(steps=1)), tmp_path)
    with pytest.raises(BadInput, match="holds no difference"):
        load_delta(tmp_path / "student.mdistill")


def test_labels_and_answers_of_other_number_are_refused():
    soft, hard = pairs(3)
    with pytest.raises(BadInput, match="3 labels and 2 answers"):
        fit_delta(hard, [f.target for f in soft[:2]], SETTINGS)


@pytest.mark.slow
def test_one_label_changes_little_where_it_says_little():
    """The noise has a floor: a single label cannot be fitted exactly by hundreds of weights. Median of five noises."""
    soft, found = pairs(10)[0], list[float]()
    for seed in range(5):
        noise = 0.1 * torch.randn(soft[0].target.forces.shape, generator=torch.Generator().manual_seed(seed))
        noisy = [replace(f, target=replace(f.target, forces=f.target.forces + noise)) for f in soft[:1]]
        delta = fit_delta(noisy, [soft[0].target], SETTINGS, around=soft, size=SIZE)
        moved = [delta.corrected(f).target.forces - f.target.forces for f in soft[1:]]
        found.append(float(torch.cat(moved).square().mean().sqrt()))
    assert sorted(found)[2] < 0.1


@pytest.mark.parametrize(("count", "share", "tested"), [(0, 0.2, 0), (3, 0.2, 0), (4, 0.2, 1), (20, 0.15, 3), (20, 0.0, 0)])
def test_a_share_of_the_hard_labels_is_left_for_the_test(count, share, tested):
    frames = [replace(frame, block=k) for k, frame in enumerate((morse_frames(4) * 5)[:count])]
    train, test = split_hard(frames, share)
    assert len(test) == tested
    assert sorted(f.block for f in [*train, *test]) == list(range(count))


def test_hard_labels_have_their_share_and_a_block_each():
    soft = morse_frames(12)
    everything = together(soft, [harder(f) for f in soft[:2]], 0.4)
    hard = [frame for frame in everything if frame.source == HARD]
    assert len(hard) / len(everything) == pytest.approx(0.4, abs=0.1)
    assert {frame.block for frame in hard} == {FIRST_BLOCK, FIRST_BLOCK + 1}
    assert len(together(soft, [], 0.3)) == 12


def test_the_share_of_hard_labels_grows_with_their_number_unless_it_is_given():
    assert [share_of(n, HardFitSettings()) for n in (0, 10, 30)] == [0.0, 0.5, 0.75]
    assert share_of(10, HardFitSettings(share=0.2)) == 0.2


def test_every_hard_label_is_trained_on_and_its_soft_label_is_not(tmp_path, monkeypatch):
    soft = morse_frames(16, atoms=8)
    hard = [replace(harder(frame), target=replace(frame.target, energy=frame.target.energy + 99.0)) for frame in soft[:5]]
    train = replace(SETTINGS, fit=FitSettings(steps=2, batch_size=4))
    first, seen = train_potential(soft, train, tmp_path / "soft"), {}

    def spy(frames, settings, folder, *, held_blocks, **others):
        seen["train"], seen["held"] = split_blocks(frames, chosen=held_blocks)
        return train_potential(frames, settings, folder, held_blocks=held_blocks, **others)

    monkeypatch.setattr(hard_targets, "train_potential", spy)
    fine_tune(
        first.path, soft, hard, train, HardFitSettings(), folder=tmp_path / "hard", softening=0.0, references=torch.zeros(4)
    )
    energies = {float(f.target.energy) for f in seen["train"]}
    assert {f.block - FIRST_BLOCK for f in seen["train"] if f.source == HARD} == set(range(5))
    assert not energies & {float(f.target.energy) for f in soft[:5]} and energies & {float(f.target.energy) for f in soft[5:]}
    assert len(seen["held"]) == 4 and all(f.source != HARD for f in seen["held"])


def test_a_student_follows_hard_labels_and_keeps_what_it_knew(tmp_path):
    """Forces 1.25 times as large from 4 labels: the fine-tuned student is right on structures without a hard label."""
    soft = morse_frames(40, atoms=8)
    hard = [harder(frame) for frame in soft]
    train = replace(SETTINGS, fit=FitSettings(steps=150, batch_size=8))
    first = train_potential(soft, train, tmp_path / "soft")
    test = [frame for frame in hard if frame.block == 3]
    known = [k for k, frame in enumerate(hard) if frame.block == 0][:4]
    delta = fit_delta([hard[k] for k in known], [soft[k].target for k in known], train, around=soft, size=SMALL)
    from mdistill.nets.model_files import load_model as load

    def error(potential: Potential) -> float:
        wrong = [p.forces - f.target.forces for p, f in zip(evaluate(potential, test), test, strict=True)]
        return float(torch.cat(wrong).abs().mean())

    answers: list[Prediction] = evaluate(load(first.path), [hard[k] for k in known])
    tuned = fine_tune(
        first.path, [delta.corrected(f) for f in soft], [hard[k] for k in known], train, HardFitSettings(time=0.3),
        folder=tmp_path / "hard", softening=delta.softening, references=offsets([hard[k] for k in known], answers, (3, 15, 16, 17)),
    )  # fmt: skip
    assert error(load(tuned.path)) < 0.75 * error(load(first.path))

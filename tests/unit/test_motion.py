"""The predictor of motion on planted crystals: it beats a constant where there is something to learn, and says so where not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from mdistill import cli
from mdistill.errors import BadInput
from mdistill.io.structures import from_atoms
from mdistill.transport.ion_rows import ion_structure, recorded_structure
from mdistill.transport.motion import activation_energy, groups_of, paired, train_motion
from mdistill.transport.motion_file import load_motion, save_motion
from mdistill.transport.predict_motion import predict_motion
from mdistill.transport.settings import MotionSettings
from mdistill.transport.trajectory_set import write_trajectory_set
from planted_motion import KELVINS, planted

QUICK = MotionSettings(members=2, steps=150, folds=3, expansion="none")


@pytest.fixture(scope="module")
def records():
    return planted(24, network=3.0)


@pytest.fixture(scope="module")
def model(records):
    return train_motion(records, QUICK)


def test_planted_motion_is_learned_beyond_a_constant(model, records):
    assert model.honest and model.gain[0] < -0.1
    assert all(model.error[t] < model.constant[t] for t in model.error)
    assert model.groups == len(np.unique(groups_of(records))) == 12 and model.crystals == 24


def test_shuffled_labels_are_no_better_than_a_constant(records):
    """The planted bug: labels of other crystals. It must be told, not hidden."""
    turned = [replace(one, log_msd=other.log_msd) for one, other in zip(records, records[5:] + records[:5], strict=True)]
    model = train_motion(turned, replace(QUICK, members=1, steps=60))
    assert not model.honest
    found = predict_motion(model, recorded_structure(records[0]), KELVINS)
    assert "no better than a constant" in found.motions[0].doubts[0]


def test_analogues_share_a_group(records):
    other = replace(
        records[0], about=records[0].about | {"mobile": "Na"}, numbers=np.where(records[0].numbers == 3, 11, records[0].numbers)
    )
    groups = groups_of([*records, other])
    assert groups[-1] == groups[0]


def test_intervals_doubts_and_the_class_below_detection(model, records):
    structure = recorded_structure(records[0])
    known = predict_motion(model, structure, KELVINS).motions
    assert all(one.interval_95[0] < one.interval_68[0] < one.value < one.interval_68[1] < one.interval_95[1] for one in known)
    assert all(not one.doubts for one in known) and known[0].not_diffusing > known[-1].not_diffusing
    strange = predict_motion(model, replace(structure, composition={3: 1.0, 92: 3.0}), [600.0, 700.0, 800.0, 1500.0]).motions
    assert "U not in the trajectory set" in strange[0].doubts[0] and "far from the trajectory set" in strange[0].doubts[1]
    assert "1500 K is outside training" in strange[-1].doubts[-1]


def test_diffusivity_conductivity_and_activation_energy_by_hand(model, records):
    """D = MSD/(6 τ), σ = N q² D/(V k_B T), E_a = −k_B d ln D/d(1/T), in the units of the docstrings."""
    structure = recorded_structure(records[0])
    found = predict_motion(model, structure, KELVINS)
    for one in found.motions:
        d_m2_s = 10.0**one.value * 1e-20 / (6.0 * 10e-12)
        assert one.diffusivity == pytest.approx(np.log10(1e4 * d_m2_s), abs=1e-6)
        density = structure.composition[3] / (structure.volume * 1e-30)
        sigma = density * 1.602176634e-19**2 * d_m2_s / (1.380649e-23 * one.temperature_K)
        assert one.conductivity == pytest.approx(np.log10(0.01 * sigma), abs=1e-6)
    kelvins = np.array([600.0, 1000.0, 1200.0])
    assert activation_energy(np.log10(np.exp(-0.25 / (8.617333262e-5 * kelvins))), kelvins) == pytest.approx(0.25)
    moving = [one for one in found.motions if one.not_diffusing <= 0.5]
    expected = activation_energy(np.array([one.diffusivity for one in moving]), np.array([one.temperature_K for one in moving]))
    assert found.activation == (pytest.approx(expected) if len(moving) > 1 else None)
    assert len(model.activation) == 2 and 0.0 < model.activation[0] <= model.activation[1]


def test_held_out_intervals_hold_their_share(model, records):
    truth = np.array([one.log_msd for one in records])
    value, spread = (np.array([model.members[one.key][k] for one in records]) for k in (0, 1))
    inside = np.abs(value - truth) <= model.factors[0] * (spread + 0.5)
    assert 0.6 < inside.mean() <= 1.0


def test_bootstrap_of_groups_is_wider_than_of_labels():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 20)
    values = rng.normal(size=10)[groups] + 0.1 * rng.normal(size=200)
    mean, low, high = paired(values, groups)
    assert mean == pytest.approx(values.mean()) and low < mean < high and high - low > 3 * 4 * values.std() / 200**0.5 / 2


def test_a_model_file_gives_the_same_predictions(model, records, tmp_path):
    digest = save_motion(tmp_path / "motion.mdistill", model, {"data": "planted"})
    read = load_motion(tmp_path / "motion.mdistill")
    structure = recorded_structure(records[1])
    assert predict_motion(read, structure, KELVINS) == predict_motion(model, structure, KELVINS)
    assert read.gain == model.gain and read.error == model.error and len(digest) == 64
    content = bytearray((tmp_path / "motion.mdistill").read_bytes())
    content[-100] ^= 255
    (tmp_path / "motion.mdistill").write_bytes(bytes(content))
    with pytest.raises(BadInput):
        load_motion(tmp_path / "motion.mdistill")


def test_too_few_groups_are_refused(records):
    with pytest.raises(BadInput, match="2 usable crystals of 2 in 2 groups"):
        train_motion(records[:2], QUICK)
    with pytest.raises(BadInput, match="0 usable crystals"):
        train_motion([replace(records[0], about=records[0].about | {"gate_passed": False})], QUICK)


def test_crystals_of_other_temperatures_are_refused(records):
    other = replace(records[0], temperatures_K=records[0].temperatures_K + 50.0)
    with pytest.raises(BadInput, match="different temperatures"):
        train_motion([*records, other], QUICK)


def test_a_temperature_that_one_group_alone_knows_is_compared_with_a_constant_of_all(records, tmp_path):
    """log10 D at the lowest temperature of a single crystal: no other group has a constant there."""
    first = next(k for k, one in enumerate(records) if one.diffusing[0])
    rare = [
        one if k == first else replace(one, diffusivity=np.where(np.arange(4) == 0, np.nan, one.diffusivity))
        for k, one in enumerate(records)
    ]
    model = train_motion(rare, replace(QUICK, target="diffusivity", members=1, steps=10))
    assert np.isfinite([*model.gain, *model.constant.values(), *model.error.values()]).all() and 600.0 in model.error
    save_motion(tmp_path / "motion.mdistill", model, {})
    assert load_motion(tmp_path / "motion.mdistill").gain == model.gain


def test_command_line(records, tmp_path, capsys):
    write_trajectory_set(tmp_path / "set.npz", records)
    words = ["--motion.members", "1", "--motion.steps", "10", "--motion.folds", "3", "--threads", "1"]
    out = str(tmp_path / "out")
    assert cli.run(["train", "transport", "--trajectories", str(tmp_path / "set.npz"), "--out", out, *words]) == 0
    shown = capsys.readouterr().out
    assert "of a constant" in shown and "groups are few" in shown and "motion.mdistill" in shown
    assert cli.run(["screen", str(tmp_path), "--model", f"{out}/motion.mdistill"]) == 2
    assert "a model of kind 'motion'" in capsys.readouterr().err
    assert cli.run(["train", "transport", "--trajectories", str(tmp_path / "no.npz"), "--out", out]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--trajectories set.npz --seed 3", "--seed: 3 is not used with --trajectories fix: --motion.seed 3"),
        ("--trajectories set.npz --folds 4", "fix: --motion.folds 4"),
        ("--trajectories set.npz --trees 8", "--trees: 8 fix: leave it out"),
        ("--trajectories set.npz --data obelix", "--data: obelix fix: leave it out"),
        ("--trajectories set.npz --species Li", "--species"),
        ("--trajectories set.npz --make.rounds 1", "--make.rounds"),
        ("--structures a.cif --trajectories set.npz --seed 3", "fix: --make.seed 3"),
        ("--structures a.cif --trajectories set.npz --motion.steps 9", "--motion.steps fix: leave it out"),
        ("--species Li", "not used with --data"),
        ("--motion.folds 4", "fix: --folds 4"),
        ("--max-hours 1", "--max-hours"),
    ],
)
def test_flags_of_another_job_are_refused(words, said, tmp_path, capsys):
    assert cli.run(["train", "transport", "--out", str(tmp_path / "out"), *words.split()]) == 2
    shown = capsys.readouterr().err
    assert all(part in shown for part in said.split(" fix: ")) and not (tmp_path / "out").exists(), shown


@pytest.mark.slow
def test_a_structure_alone_is_enough(records):
    """Features of a real crystal with scales of its own kind: ordered or not, the rows have the model's width."""
    pytest.importorskip("sevenn")
    from mdistill.teachers.models import load

    salt = from_atoms(bulk("LiF", "rocksalt", a=4.03, cubic=True))
    teacher = load("sevennet-0")
    wide = [replace(one, features=np.random.default_rng(k).normal(size=(2, 456))) for k, one in enumerate(records)]
    model = train_motion(wide, replace(QUICK, steps=10, members=1, expansion="pca"))
    found = predict_motion(model, ion_structure(salt, teacher, mobile=3), (600.0, 900.0)).motions
    assert len(found) == 2 and all(np.isfinite(one.value) for one in found)

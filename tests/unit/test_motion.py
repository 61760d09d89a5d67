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
from mdistill.transport.motion import activation_energy, activation_errors, groups_of, paired, train_motion
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
    strange = predict_motion(model, replace(structure, composition={3: 1.0, 92: 3.0}), [600.0, 700.0, 800.0, 1500.0])
    assert "U not in the trajectory set" in strange.doubts[0] and "far from the trajectory set" in strange.doubts[1]
    assert strange.motions[-1].doubts == ("1500 K is outside training, 600 to 1200 K",) and not strange.motions[0].doubts


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
    assert model.activation == () and found.activation is None, "all planted crystals have one slope: a constant is as good"


def test_activation_energies_are_told_where_they_beat_a_constant(records):
    """Slopes that differ by crystal: predictions near them have small errors, shuffled ones are not told."""
    slopes, groups = np.linspace(0.3, 2.0, len(records)), groups_of(records)
    hot = 1.0 + slopes[:, None] * (1.0 - 600.0 / KELVINS)
    moving = [replace(one, diffusivity=np.full(4, 1e-5)) for one in records]
    near = activation_errors(hot + 0.01, hot, moving, groups, (2.0, 0.0))
    assert near == pytest.approx((0.0, 0.0), abs=1e-9)
    rough = activation_errors(hot * 1.2, hot, moving, groups, (2.0, 0.0))
    assert 0.0 < rough[0] < rough[1] < 0.1
    assert activation_errors(hot[::-1], hot, moving, groups, (2.0, 0.0)) == ()
    assert activation_errors(hot, hot, records[:6], groups[:6], (2.0, 0.0)) == (), "too few groups"


def test_a_model_tells_an_activation_energy_of_the_temperatures_of_training(model, records):
    told = replace(model, activation=(0.05, 0.1), curve=(2.0, -10.0))
    structure = recorded_structure(records[0])
    found, other = (predict_motion(told, structure, kelvins) for kelvins in (KELVINS, (600.0, 601.0)))
    expected = activation_energy(np.array([one.diffusivity for one in found.motions]), KELVINS)
    assert found.activation == pytest.approx(expected) == other.activation and found.activation_error == (0.05, 0.1)
    assert predict_motion(replace(told, curve=(2.0, 10.0)), structure, KELVINS).activation is None, "nothing diffuses"


def test_held_out_intervals_hold_their_share(model, records):
    truth = np.array([one.log_msd for one in records])
    value, spread = (np.array([model.members[one.key][k] for one in records]) for k in (0, 1))
    inside = np.abs(value - truth) <= np.array(model.factors)[:, 0] * (spread + 0.5)
    assert all(0.6 < share <= 1.0 for share in inside.mean(0))


def test_a_temperature_without_skill_is_doubted(model, records):
    """Where held-out errors are not below those of a constant, the numbers there are not to be used."""
    worse = replace(model, error=model.error | {1200.0: 2.0})
    found = predict_motion(worse, recorded_structure(records[0]), KELVINS)
    assert [bool(one.doubts) for one in found.motions] == [False, False, False, True] and not found.doubts


def test_orderings_and_ions_share_a_group(records):
    """Li27Y9Cl54 and Li26Y9Cl54 are one crystal, Li3OCl and Na3OCl one with the ion left open, and LiNaS whichever moves."""

    def of(mobile, *counts):
        numbers = np.repeat([z for z, _ in counts], [n for _, n in counts])
        return replace(records[0], numbers=numbers, about=records[0].about | {"mobile": mobile})

    made = [of("Li", (3, 27), (39, 9), (17, 54)), of("Li", (3, 26), (39, 9), (17, 54)), of("Li", (3, 2), (40, 1), (17, 6)),
            of("Li", (3, 3), (8, 1), (17, 1)), of("Na", (11, 3), (8, 1), (17, 1)), of("Na", (11, 3), (8, 1), (35, 1)),
            of("Li", (3, 1), (11, 1), (16, 1)), of("Na", (3, 1), (11, 1), (16, 1))]  # fmt: skip
    groups = groups_of(made).tolist()
    assert groups[0] == groups[1] and groups[3] == groups[4] and groups[6] == groups[7] and len(set(groups)) == 5


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

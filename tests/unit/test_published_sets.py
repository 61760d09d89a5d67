"""Published sets: LiFlow's layout and structures with D, made here; motion in closed form, units, wrapping, damage, training."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from mdistill import cli
from mdistill.campaign import published_sets
from mdistill.campaign.published_sets import add_published
from mdistill.campaign.settings import TrajectorySettings
from mdistill.errors import BadInput, Interrupted
from mdistill.transport.ion_rows import ion_rows, scales_of
from mdistill.transport.motion import train_motion
from mdistill.transport.settings import MotionSettings
from mdistill.transport.taught import ACROSS, train_alone, train_both
from mdistill.transport.trajectory_set import read_trajectory_set
from planted_motion import planted

KELVINS = (600, 800, 1000, 1200)
ASKED = TrajectorySettings()
QUICK = MotionSettings(members=1, steps=5, folds=2)
SPEED = 0.4
"""Å/ps: in 25 ps an ion crosses the cell of 5.1 Å twice."""


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    """Features of an ion without SevenNet: distances to the first two atoms."""
    seen = []

    def features(systems, potential, *, mobile):
        seen.append(mobile)
        ions = systems[0].positions[systems[0].numbers == mobile].numpy()
        return [np.linalg.norm(ions[:, None] - systems[0].positions.numpy()[:2], axis=-1)]

    teacher = SimpleNamespace(elements=frozenset(range(1, 90)), name="sevennet-0", cutoff=5.0)
    monkeypatch.setattr(published_sets, "load_featured", lambda name: teacher)
    monkeypatch.setattr(published_sets, "ion_features", features)
    return SimpleNamespace(seen=seen)


def salt(name="LiCl", *, a=5.1):
    return bulk(name, "rocksalt", a=a, cubic=True)


def moving(atoms, *, frames=2501, speed=SPEED, mobile=3):
    """Frames every 10 fs in which each mobile ion flies straight at a speed (Å/ps), the host stands still."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(atoms), 3))
    directions *= (atoms.numbers == mobile)[:, None] / np.linalg.norm(directions, axis=1, keepdims=True)
    return atoms.positions + 0.01 * np.arange(frames)[:, None, None] * speed * directions


def wrapped(frames, cell):
    scaled = frames @ np.linalg.inv(cell)
    return (scaled - np.floor(scaled)) @ cell


def publish(folder, crystals, trajectories, *, kelvins=KELVINS, dtype=np.float32):
    """Files as LiFlow's: {name: Atoms}, {(name, kelvin): frames}."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "lattice.npy", {name: one.cell.array for name, one in crystals.items()})
    np.save(folder / "atomic_numbers.npy", {name: np.asarray(one.numbers) for name, one in crystals.items()})
    np.save(folder / "element_index.npy", np.arange(100))
    for kelvin in kelvins:
        held = {name: frames.astype(dtype) for (name, k), frames in trajectories.items() if k == kelvin}
        np.savez(folder / f"positions_{kelvin}K.npz", **held)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two crystals; ions are faster the hotter, by √T."""
    folder = tmp_path_factory.mktemp("liflow") / "data" / "universal"
    crystals = {"mp-1": salt(), "mp-2": salt("LiF", a=4.0)}
    fast = {(name, k): moving(one, speed=SPEED * np.sqrt(k / 600)) for name, one in crystals.items() for k in KELVINS}
    publish(folder, crystals, fast)
    return folder.parent.parent


def the_one(tmp_path, trajectories, *, asked=ASKED, crystals=None, **options):
    publish(tmp_path / "u", crystals or {"mp-1": salt()}, trajectories, **options)
    add_published(tmp_path / "u", tmp_path / "set.npz", asked, tmp_path / "run")
    (record,) = read_trajectory_set(tmp_path / "set.npz")
    return record


def test_motion_in_closed_form(two, tmp_path):
    """MSD = (v τ)² at 10 ps in Å², v in Å/ps, whatever the folder above `universal` that is named."""
    results = add_published(two, tmp_path / "set.npz", ASKED, tmp_path / "run")
    assert results.values["crystals"].value == 2 and results.values["structures_refused"].value == 0
    first, second = read_trajectory_set(tmp_path / "set.npz")
    for one in (first, second):
        assert one.log_msd == pytest.approx(2 * np.log10(10 * SPEED * np.sqrt(np.array(KELVINS) / 600)), abs=1e-4)
        assert one.msd[:, 0] == pytest.approx((0.01 * SPEED) ** 2 * np.array(KELVINS) / 600, rel=1e-2) and one.lags_ps[0] == 0.01
        assert one.spectra.shape == (4, 4, 40) and np.isfinite(one.spectra).all() and one.usable.all() and one.followed
    assert first.about["formula"] == "LiCl" and second.about["source"] == "mp-2" and first.about["mobile"] == "Li"
    assert np.allclose(first.positions, salt().positions, atol=1e-5) and np.allclose(first.cell, 5.1 * np.eye(3))
    assert first.about["settings"]["every_fs"] == 10.0 and "zenodo.14889658" in first.about["published"]


def test_wrapped_coordinates_and_other_spacings_give_the_same_motion(tmp_path):
    """A skewed cell, coordinates put back into it, double precision, and every second frame."""
    atoms = Atoms("Li2ClF", scaled_positions=np.array([[1, 1, 1], [3, 1, 1], [1, 3, 3], [3, 3, 3]]) / 4, pbc=True,
                  cell=[[4.2, 0.0, 0.0], [1.0, 4.4, 0.0], [0.3, 0.8, 4.6]])  # fmt: skip
    frames = moving(atoms)
    plain = the_one(tmp_path / "1", {("mp-1", k): frames for k in KELVINS}, crystals={"mp-1": atoms}, dtype=np.float64)
    back = wrapped(frames, atoms.cell.array)
    again = the_one(tmp_path / "2", {("mp-1", k): back for k in KELVINS}, crystals={"mp-1": atoms}, dtype=np.float64)
    coarse = replace(ASKED, every_fs=20.0)
    rare = the_one(tmp_path / "3", {("mp-1", k): back for k in KELVINS}, crystals={"mp-1": atoms}, dtype=np.float64, asked=coarse)
    assert np.abs(back - frames).max() > 4.0
    for one in (plain, again, rare):
        assert one.log_msd == pytest.approx(np.full(4, 2 * np.log10(10 * SPEED)), abs=1e-6)
    assert np.allclose(again.spectra, plain.spectra, atol=2e-3)


def test_an_ion_that_hops_over_the_boundary_does_not_jump(tmp_path):
    """One Li swings by 0.3 Å through the face of the cell: its largest square displacement is 0.36 Å², not that of the cell."""
    atoms = salt()
    frames = np.repeat(atoms.positions[None], 2501, axis=0)
    frames[:, np.flatnonzero(atoms.numbers == 3)[0], 0] += 0.3 * np.sin(2 * np.pi * 0.01 * np.arange(2501) / 0.37)
    record = the_one(tmp_path, {("mp-1", k): wrapped(frames, atoms.cell.array) for k in KELVINS}, dtype=np.float64)
    assert record.msd.max() <= 0.36 / 4 + 1e-6 and record.about["flags"]["600"] == ["not diffusing"]


def test_the_set_is_continued_and_a_stop_loses_nothing(two, tmp_path, stub, monkeypatch):
    path, calls = tmp_path / "set.npz", []
    stop = SimpleNamespace(raise_if_pending=lambda: calls.append(1) if not calls else (_ for _ in ()).throw(Interrupted("stop")))
    with pytest.raises(Interrupted):
        add_published(two, path, ASKED, tmp_path / "run", stop=stop)
    assert [one.about["source"] for one in read_trajectory_set(path)] == ["mp-1"] and len(stub.seen) == 1
    monkeypatch.setattr(published_sets, "_BATCH", 1)
    for _ in range(2):
        add_published(two, path, ASKED, tmp_path / "run")
    assert [one.about["source"] for one in read_trajectory_set(path)] == ["mp-1", "mp-2"] and len(stub.seen) == 2


def test_a_set_of_other_settings_is_left_alone(two, tmp_path):
    path = tmp_path / "set.npz"
    add_published(two, path, ASKED, tmp_path / "run")
    content = path.read_bytes()
    with pytest.raises(BadInput, match="holds crystals of lag_ps"):
        add_published(two, path, replace(ASKED, lag_ps=5.0), tmp_path / "run")
    with pytest.raises(BadInput, match="a multiple of 10 fs"):
        add_published(two, tmp_path / "new.npz", replace(ASKED, every_fs=16.0), tmp_path / "run")
    assert path.read_bytes() == content and not (tmp_path / "new.npz").exists()


class Harm:
    """Code that a pickle would run."""

    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def stored(value, *, protocol=4):
    """A pickled object in an npy file, as numpy 1 names its modules."""
    text = pickle.dumps(np.array(value, dtype=object), protocol=protocol)
    return pickled_header() + (text.replace(b"numpy._core", b"numpy.core") if protocol < 3 else text)


def pickled_header():
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def test_dictionaries_of_older_numpy_are_read_and_code_in_them_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "u"
    publish(folder, {"mp-1": salt()}, {("mp-1", k): moving(salt()) for k in KELVINS})
    (folder / "lattice.npy").write_bytes(stored({"mp-1": salt().cell.array}, protocol=2))
    add_published(folder, tmp_path / "set.npz", ASKED, tmp_path / "run")
    (folder / "lattice.npy").write_bytes(stored({"mp-1": Harm()}))
    with pytest.raises(BadInput, match=r"lattice.npy: cannot be read \(it asks for posix.mkdir\)"):
        add_published(folder, tmp_path / "set.npz", ASKED, tmp_path / "run")
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("no folder", "no such folder"),
        ("empty", "no lattice.npy and no .*extxyz"),
        ("no positions", "positions_1000K.npz: no such file"),
        ("cut positions", "positions_800K.npz: cannot be read"),
        ("cut lattice", "lattice.npy: cannot be read"),
        ("no numbers", "atomic_numbers.npy: cannot be read"),
        ("text", "lattice.npy: cannot be read"),
        ("a list", "lattice.npy: holds a list"),
        ("nothing usable", "no crystal that can be used"),
    ],
)
def test_files_that_are_not_as_published_are_refused(damage, said, tmp_path):
    folder = tmp_path / "u"
    publish(folder, {"mp-1": salt()}, {("mp-1", k): moving(salt(), frames=200) for k in KELVINS})
    if damage == "no folder":
        folder = tmp_path / "elsewhere"
    if damage == "empty":
        folder = tmp_path / "empty"
        folder.mkdir()
    if damage == "no positions":
        (folder / "positions_1000K.npz").unlink()
    if damage == "no numbers":
        (folder / "atomic_numbers.npy").unlink()
    for name in ("positions_800K.npz", "lattice.npy"):
        if damage == f"cut {name.split('_')[0].removesuffix('.npy')}":
            (folder / name).write_bytes((folder / name).read_bytes()[:-200])
    if damage == "text":
        (folder / "lattice.npy").write_text("mp-1: 5.1", encoding="utf-8")
    if damage == "a list":
        (folder / "lattice.npy").write_bytes(pickled_header() + pickle.dumps([1, 2]))
    with pytest.raises(BadInput, match=said) as told:
        add_published(folder, tmp_path / "set.npz", ASKED, tmp_path / "run")
    assert told.value.allowed and told.value.fix and not (tmp_path / "set.npz").exists()


def test_crystals_that_cannot_be_used_are_listed_and_the_others_come_out(tmp_path, capsys):
    """Each kind of bad crystal with its reason; the exit status says it."""
    good, folder = salt(), tmp_path / "u"
    bad = {
        "short": (good, moving(good, frames=2400), "24 ps at 600 K"),
        "missing": (good, None, "no trajectory at 800 K"),
        "other atoms": (good, moving(good)[:, :5], "[2501, 5, 3]"),
        "not finite": (good, np.full((2501, 8, 3), np.nan), "not finite"),
        "no element": (good, moving(good), "atomic numbers [0, 17"),
        "unknown": (salt("LiPu", a=5.6), None, "Pu is not known"),
        "metal": (bulk("Li", "bcc", a=3.5, cubic=True) * (2, 2, 2), None, "a metal"),
        "no ion": (salt("NaCl", a=5.6), None, "no mobile ion"),
        "flipped": (good, moving(good), "cannot be read"),
    }
    crystals = {"mp-1": good} | {name: one[0] for name, one in bad.items()}
    runs = {(name, k): moving(one) for name, one in crystals.items() for k in KELVINS}
    for name, (_, frames, _) in bad.items():
        if frames is not None:
            runs |= {(name, k): frames for k in KELVINS}
    del runs["missing", 800]
    publish(folder, crystals, runs)
    numbers = {name: np.asarray(one.numbers) for name, one in crystals.items()}
    np.save(folder / "atomic_numbers.npy", numbers | {"no element": np.array([0, 17] * 4)})
    archive = folder / "positions_600K.npz"
    content = archive.read_bytes()
    at = content.index(b"flipped.npy") + 5000
    archive.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    results = add_published(folder, tmp_path / "set.npz", ASKED, tmp_path / "run")
    listed = {row[0]: " ".join(map(str, row[1:])) for row in next(t for t in results.tables if t.name == "unread").rows}
    assert set(listed) == set(bad) and [one.about["source"] for one in read_trajectory_set(tmp_path / "set.npz")] == ["mp-1"]
    for name, (_, _, reason) in bad.items():
        assert reason in listed[name], (name, listed[name])
    words = ["--published", str(folder), "--trajectories", str(tmp_path / "set.npz"), "--out", str(tmp_path / "out")]
    assert cli.run(["train", "transport", *words]) == 2
    assert "Not in the set: 9 files" in capsys.readouterr().out


def glasses(count=6):
    """Structures of three stoichiometries with D at two temperatures; D rises with the cell."""
    found = []
    for k in range(count):
        for kelvin in (1000, 1500):
            atoms = salt(("LiCl", "LiBr", "LiF")[k % 3], a=5.2 + 0.01 * k)
            lithium = np.flatnonzero(atoms.numbers == 3)
            atoms.numbers[lithium[: k % 3 * len(lithium) // 4]] = 12
            atoms.rattle(0.05, seed=k + kelvin)
            atoms.info.update(temperature_K=kelvin, diffusivity_cm2_s=1e-5 * kelvin / 1000 * (1 + k), mobile="Li")
            found.append(atoms)
    return found


HOT = replace(ASKED, temperatures=(1000.0, 1500.0))


def test_structures_with_diffusivity_have_labels_and_no_trajectories(tmp_path):
    write(tmp_path / "glass.extxyz", glasses())
    results = add_published(tmp_path, tmp_path / "set.npz", HOT, tmp_path / "run")
    records = read_trajectory_set(tmp_path / "set.npz")
    assert len(records) == 12 and results.values["crystals_usable"].value == 12
    told = [one.info for one in glasses()]
    wanted = sorted((info["temperature_K"], info["diffusivity_cm2_s"]) for info in told)
    found = sorted((float(one.temperatures_K[one.usable][0]), float(one.diffusivity[one.usable][0])) for one in records)
    assert np.asarray(found) == pytest.approx(np.asarray(wanted))
    for one in records:
        assert one.usable.sum() == 1 and np.isnan(one.diffusivity[~one.usable]).all()
        assert np.isnan(one.log_msd).all() and not one.followed
    add_published(tmp_path, tmp_path / "set.npz", HOT, tmp_path / "run")
    assert len(read_trajectory_set(tmp_path / "set.npz")) == 12


def test_they_train_without_teaching_and_start_from_another_set(tmp_path):
    write(tmp_path / "glass.extxyz", glasses())
    add_published(tmp_path, tmp_path / "set.npz", HOT, tmp_path / "run")
    records = read_trajectory_set(tmp_path / "set.npz")
    with pytest.raises(BadInput, match="12 of 12 crystals have D but no trajectory.*\n.*\n.*--motion.teaching none"):
        train_motion(records, replace(QUICK, target="diffusivity"))
    with pytest.raises(BadInput, match="--motion.target diffusivity"):
        train_motion(records, replace(QUICK, teaching="none"))
    model = train_motion(records, replace(QUICK, target="diffusivity", teaching="none"))
    assert model.crystals == 12 and set(model.error) == {1000.0, 1500.0} and np.isfinite([*model.error.values()]).all()
    items = [ion_rows(one, scales_of(records), target="diffusivity") for one in records]
    with pytest.raises(BadInput, match="0 of 12 crystals have trajectories"):
        train_both(items)
    start = train_alone(items, QUICK.fit())
    assert train_alone(items, QUICK.fit(), start=start, rates=ACROSS).structure.weight.shape == start.structure.weight.shape


def test_a_mixed_set_is_not_taught_by_trajectories_that_are_not_there(tmp_path):
    """Spectra that are not there do not count as zeros, and do not move the scales of those that are."""
    records = planted(12)
    bare = [replace(one, key=f"{k}-D", spectra=np.full_like(one.spectra, np.nan)) for k, one in enumerate(records[:3])]
    mixed = [*records, *bare]
    assert np.array_equal(scales_of(mixed).bin_mean, scales_of(records).bin_mean)
    assert (
        ion_rows(mixed[-1], scales_of(mixed)).trajectory is None and ion_rows(mixed[0], scales_of(mixed)).trajectory is not None
    )
    with pytest.raises(BadInput, match="3 of 15 crystals have D but no trajectory"):
        train_motion(mixed, QUICK)
    assert train_motion(mixed, replace(QUICK, teaching="none")).crystals == 15


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"temperature_K": None}, "no temperature_K"),
        ({"temperature_K": 1300}, "temperature_K is 1300"),
        ({"temperature_K": "hot"}, "temperature_K is hot"),
        ({"diffusivity_cm2_s": -1e-6}, "diffusivity_cm2_s is -1e-06"),
        ({"diffusivity_cm2_s": 0.5}, "diffusivity_cm2_s is 0.5"),
        ({"diffusivity_cm2_s": "nan"}, "diffusivity_cm2_s is nan"),
        ({"mobile": "Na"}, "no mobile ion"),
    ],
)
def test_comment_lines_that_do_not_tell_are_listed(changed, said, tmp_path):
    frames = glasses(1)
    for name, value in changed.items():
        frames[0].info.pop(name)
        frames[0].info |= {} if value is None else {name: value}
    write(tmp_path / "glass.extxyz", frames)
    (tmp_path / "cut.extxyz").write_text((tmp_path / "glass.extxyz").read_text(encoding="utf-8")[:-300], encoding="utf-8")
    results = add_published(tmp_path, tmp_path / "set.npz", HOT, tmp_path / "run")
    listed = {row[0]: row[1] for row in next(t for t in results.tables if t.name == "unread").rows}
    assert said in listed["glass.extxyz, frame 1"] and "cannot be read after frame 1" in listed["cut.extxyz"]
    assert len(read_trajectory_set(tmp_path / "set.npz")) == 1


def test_another_species_than_the_file_says_is_not_labelled(tmp_path):
    both = glasses(1)
    both[0].symbols[0] = "Na"
    write(tmp_path / "glass.extxyz", both)
    with pytest.raises(BadInput, match="mobile=Li"):
        add_published(tmp_path, tmp_path / "set.npz", HOT, tmp_path / "run", species="Na")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--published u", "--trajectories"),
        ("--published u --trajectories s.npz --make.rounds 1", "--make.rounds"),
        ("--published u --trajectories s.npz --make.seed 1", "fix: leave it out"),
        ("--published u --trajectories s.npz --structures a.cif", "not used with --structures"),
        ("--published u --trajectories s.npz --motion.steps 9", "--motion.steps"),
        ("--published u --trajectories s.npz", "no such folder"),
    ],
)
def test_command_line_refuses(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", "transport", "--out", "out", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_command_line_learns_from_a_published_set(tmp_path, capsys):
    write(tmp_path / "glass.extxyz", glasses())
    path, out = str(tmp_path / "set.npz"), str(tmp_path / "out")
    words = ["train", "transport", "--trajectories", path, "--out", out, "--threads", "1"]
    hot = ["--make.temperatures", "1000", "1500"]
    assert cli.run([*words, "--published", str(tmp_path), *hot]) == 0
    assert "Trajectory set: 12 crystals" in capsys.readouterr().out
    quick = ["--motion.members", "1", "--motion.steps", "5", "--motion.folds", "2", "--motion.target", "diffusivity"]
    assert cli.run([*words, *quick]) == 2 and "--motion.teaching none" in capsys.readouterr().err
    assert cli.run([*words, *quick, "--motion.teaching", "none"]) == 0

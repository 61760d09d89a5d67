"""The trajectory set: what is written is read, damage is named, failures are listed, and a job of one crystal end to end."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk

from mdistill import cli
from mdistill.analysis.gates import force_gates
from mdistill.analysis.settings import GateLimits
from mdistill.campaign import trajectories, trajectory_job
from mdistill.campaign.settings import TrajectorySettings
from mdistill.campaign.trajectory_job import _drifted, _mean_of, _Student, crystal_record, measured, mobile_of
from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.io.structures import from_atoms
from mdistill.settings import to_json
from mdistill.transport.trajectory_set import ARRAYS, FORCE_GATE, add_to_set, read_trajectory_set, write_trajectory_set
from mdistill.types import Trajectory
from planted_motion import planted


def test_what_is_written_is_read(tmp_path):
    records, path = planted(3), tmp_path / "set.npz"
    write_trajectory_set(path, records[2:0:-1])
    add_to_set(path, records[0])
    add_to_set(path, replace(records[0], about=records[0].about | {"formula": "again"}))
    read = read_trajectory_set(path)
    assert [one.key for one in read] == [one.key for one in records] and read[0].about["formula"] == "again"
    for name in ARRAYS:
        assert np.allclose(getattr(read[1], name), getattr(records[1], name), rtol=1e-3, atol=1e-3, equal_nan=True), name
    assert np.array_equal(read[1].log_msd, records[1].log_msd) and not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "array missing", "kind out of range", "no set"])
def test_damage_is_named(tmp_path, damage):
    path = tmp_path / "set.npz"
    records = planted(2)
    if damage == "kind out of range":
        records[1] = replace(records[1], kind=records[1].kind + 7)
    write_trajectory_set(path, records)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    if damage == "flipped":
        path.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    if damage == "no set":
        path.unlink()
    if damage == "array missing":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.npz", "w") as new:
            for name in old.namelist():
                if not name.endswith("0/msd.npy"):
                    new.writestr(name, old.read(name))
        path = tmp_path / "new.npz"
    with pytest.raises(BadInput, match="no such file" if damage == "no set" else "cannot be read"):
        read_trajectory_set(path)


def test_flags_decide_what_teaches():
    one = planted(1)[0]
    flags = one.about["flags"] | {"600": ["melted"], "800": ["drifted"], "1000": ["not diffusing"]}
    marked = replace(one, about=one.about | {"flags": flags}, log_msd=np.array([1.0, 1.0, 1.0, np.nan]))
    marked = replace(marked, diffusivity=np.where([True, True, True, False], marked.diffusivity, np.nan))
    assert marked.usable.tolist() == [False, False, True, False]
    failed = replace(marked, about=marked.about | {"flags": flags | {"1000": ["not diffusing", FORCE_GATE]}})
    assert not failed.usable.any()
    assert not replace(marked, about=marked.about | {"gate_passed": False}).usable.any()


def walk(d_host, d_ion, *, frames=2500, ions=12):
    """A host that vibrates or walks, ions that walk; D in Å²/ps, frames every 10 fs."""
    rng = np.random.default_rng(0)
    numbers = np.array([3] * ions + [8] * 20)
    steps = rng.normal(size=(frames, len(numbers), 3)) * np.sqrt(2 * 0.01 * np.where(numbers == 3, d_ion, d_host))[:, None]
    return Trajectory(
        numbers=torch.from_numpy(numbers), positions=torch.from_numpy(np.cumsum(steps, axis=0)),
        cell=torch.eye(3).repeat(frames, 1, 1) * 12.0, times=torch.arange(frames) * 10.0,
    )  # fmt: skip


def test_motion_of_known_diffusivity():
    """⟨Δr²⟩ = 6 D τ at 10 ps, D of the walk within its errors, and a host that walks counts as melted."""
    settings = TrajectorySettings()
    found = measured(walk(1e-6, 0.5), "Li", np.array([1, 100, 1000]), settings)
    assert found["flags"] == [] and found["log_msd"] == pytest.approx(np.log10(6 * 0.5 * 10), abs=0.12)
    assert found["diffusivity"] == pytest.approx(0.5e-4, abs=4 * found["error"]) and np.isnan(found["limit"])
    assert found["spectra"].shape == (12, 40) and found["slope"] == pytest.approx(1.0, abs=0.3)
    assert "melted" in measured(walk(0.5, 0.5), "Li", np.array([1]), settings)["flags"]
    still = measured(walk(1e-6, 1e-6), "Li", np.array([1]), settings)
    assert still["flags"] == ["not diffusing"] and np.isnan(still["diffusivity"]) and still["limit"] > 0.0


def test_a_run_at_another_temperature_or_level_has_drifted(monkeypatch):
    def states(kelvin, jump):
        return [
            SimpleNamespace(
                kelvin=kelvin,
                system=SimpleNamespace(n_atoms=10),
                prediction=SimpleNamespace(energy=torch.tensor([jump if k > 50 else 0.0])),
            )
            for k in range(100)
        ]

    monkeypatch.setattr("mdistill.campaign.trajectory_job.temperature", lambda one: torch.tensor([one.kelvin]))
    assert _drifted(states(1000.0, 0.0), 1000.0) == [] and _drifted(states(950.0, 0.0), 1000.0) == ["drifted"]
    assert _drifted(states(1000.0, 0.3), 1000.0) == ["drifted"]


def test_mobile_ion():
    salt = from_atoms(bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    assert mobile_of(salt) == "Na"
    with pytest.raises(BadInput, match="no mobile ion"):
        mobile_of(salt, "Li")


@pytest.fixture
def folder(tmp_path):
    """Two salts, a broken file and one without a usual ion."""
    for name, a in (("LiF", 4.0), ("NaCl", 5.6), ("MgO", 4.2)):
        bulk(name, "rocksalt", a=a, cubic=True).write(tmp_path / f"{name}.cif")
    (tmp_path / "broken.cif").write_text("data_\n_cell_length_a no\n", encoding="utf-8")
    return tmp_path


def listed(folder):
    return [(path, path.name) for path in sorted(folder.glob("*.cif"))]


@pytest.fixture
def stub(monkeypatch):
    """crystal_record in no time; NaCl fails at first."""
    done, failing = [], {"NaCl.cif"}

    def record(path, teacher, settings, home, *, species, stop):
        home.mkdir(parents=True, exist_ok=True)
        done.append(path.name)
        if path.name in failing:
            raise MdistillError("the student's dynamics broke")
        stop.raise_if_pending()
        one = planted(1)[0]
        return replace(
            one, key=trajectories.key_of(crystal := trajectories.read_structure(path), trajectories.mobile_of(crystal, species))
        )

    elements = frozenset(range(1, 90))
    monkeypatch.setattr(trajectories, "load", lambda name, subject: SimpleNamespace(elements=elements, name=name))
    monkeypatch.setattr(trajectories, "first_block", lambda teacher, flag: 1)
    monkeypatch.setattr(trajectories, "crystal_record", record)
    return SimpleNamespace(done=done, failing=failing)


def test_a_teacher_without_features_is_refused_before_a_crystal_is_run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "crystal_record", None)
    emt = replace(TrajectorySettings(), teacher="ase.calculators.emt:EMT")
    with pytest.raises(BadInput, match=r"(?s)--make.teacher: .*EMT has no interaction blocks.*fix: --make.teacher sevennet-0"):
        trajectories.make_trajectory_set(listed(folder), tmp_path / "set.npz", emt, tmp_path / "run")
    assert not (tmp_path / "set.npz").exists()


def test_a_set_is_made_continued_and_what_failed_is_listed(folder, stub, tmp_path):
    path, out = tmp_path / "set.npz", tmp_path / "run"
    results = trajectories.make_trajectory_set(listed(folder), path, TrajectorySettings(), out)
    unread = {row[0]: row[1] for row in next(t for t in results.tables if t.name == "unread").rows}
    assert sorted(stub.done) == ["LiF.cif", "NaCl.cif"] and set(unread) == {"MgO.cif", "NaCl.cif", "broken.cif"}
    assert "dynamics broke" in unread["NaCl.cif"] and "no mobile ion" in unread["MgO.cif"]
    assert len(list((out / "work").glob("*"))) == 1 and len(read_trajectory_set(path)) == 1
    stub.done.clear()
    trajectories.make_trajectory_set(listed(folder), path, TrajectorySettings(), out)
    assert stub.done == []
    (out / trajectories.FAILED).write_text(json.dumps({}), encoding="utf-8")
    stub.failing.clear()
    trajectories.make_trajectory_set(listed(folder), path, TrajectorySettings(), out)
    assert stub.done == ["NaCl.cif"] and len(read_trajectory_set(path)) == 2


def test_a_crystal_is_added_once_for_each_mobile_ion(folder, stub, tmp_path):
    """Li and Na of one salt are two crystals of a set."""
    both = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    both.symbols[0] = "Li"
    both.write(tmp_path / "LiNaCl.cif")
    for species in ("Na", "Li", "Li"):
        trajectories.make_trajectory_set(
            [(tmp_path / "LiNaCl.cif", "LiNaCl.cif")],
            tmp_path / "set.npz",
            TrajectorySettings(),
            tmp_path / "run",
            species=species,
        )
    assert len(stub.done) == 2 and len({one.key for one in read_trajectory_set(tmp_path / "set.npz")}) == 2


@pytest.mark.parametrize("name", ["time_ps", "temperatures", "teacher"])
def test_a_set_of_other_settings_is_left_alone(name, folder, stub, tmp_path):
    path, asked = tmp_path / "set.npz", TrajectorySettings()
    write_trajectory_set(path, [replace(one, about=one.about | {"settings": to_json(asked)}) for one in planted(1)])
    content = path.read_bytes()
    other = replace(
        asked, **{"time_ps": {"time_ps": 50.0}, "temperatures": {"temperatures": (500.0,)}}.get(name, {name: "chgnet"})
    )
    with pytest.raises(BadInput, match=f"holds crystals of {name}"):
        trajectories.make_trajectory_set(listed(folder), path, other, tmp_path / "run")
    assert stub.done == [] and path.read_bytes() == content
    trajectories.make_trajectory_set(listed(folder), path, replace(asked, steps=20), tmp_path / "run")


@pytest.mark.parametrize(
    "changed",
    [
        {"temperatures": ()},
        {"temperatures": (600.0, 600.0)},
        {"temperatures": (800.0, 600.0)},
        {"every_fs": 5.0},
        {"time_ps": 15.0},
    ],
)
def test_settings_that_would_be_misread_are_refused(changed):
    with pytest.raises(BadInput, match="allowed"):
        TrajectorySettings(**changed)


def test_labels_of_a_crystal_that_failed_are_kept(folder, stub, tmp_path):
    """And other settings do not find them."""
    trajectories.make_trajectory_set(listed(folder), tmp_path / "set.npz", TrajectorySettings(), tmp_path / "run")
    (kept,) = (tmp_path / "run" / "work").glob("*")
    (tmp_path / "run" / trajectories.FAILED).unlink()
    trajectories.make_trajectory_set(listed(folder), tmp_path / "set.npz", TrajectorySettings(steps=20), tmp_path / "run")
    assert kept.is_dir() and len(list((tmp_path / "run" / "work").glob("*"))) == 2


def test_a_stop_keeps_the_labels_of_the_crystal_at_work(folder, stub, tmp_path):
    stop = SimpleNamespace(raise_if_pending=lambda: (_ for _ in ()).throw(Interrupted("stopped")))
    with pytest.raises(Interrupted):
        trajectories.make_trajectory_set(listed(folder), tmp_path / "set.npz", TrajectorySettings(), tmp_path / "run", stop=stop)
    assert len(list((tmp_path / "run" / "work").glob("*-Li-*"))) == 1


def test_nothing_usable_is_refused(folder, stub, tmp_path):
    with pytest.raises(BadInput, match="no crystal that can be used"):
        trajectories.make_trajectory_set([(folder / "MgO.cif", "MgO.cif")], tmp_path / "set.npz", TrajectorySettings(), tmp_path)


def test_command_line(folder, stub, tmp_path, capsys):
    out = str(tmp_path / "run")
    words = ["train", "transport", "--structures", str(folder / "LiF.cif"), "--out", out]
    assert cli.run(words) == 2 and "--trajectories" in capsys.readouterr().err
    assert cli.run([*words, "--trajectories", str(tmp_path / "set.npz")]) == 0
    assert "Trajectory set: 1 crystals" in capsys.readouterr().out
    assert (
        cli.run(["train", "transport", "--structures", str(folder), "--trajectories", str(tmp_path / "s.npz"), "--out", out]) == 2
    )
    shown = capsys.readouterr().out
    assert "broken.cif" in shown and "Not in the set: 3 files" in shown


def student(log_msd, *, good):
    flags = {str(k): [] if well else [FORCE_GATE] for k, well in enumerate(good)}
    moved = {"log_msd": np.array(log_msd)}
    return _Student(path=Path(), labels=1, moved=moved, flags=flags, gates={}, checked=[])


def test_motion_is_the_mean_of_the_students_that_can_teach():
    pair = [student([1.0, 2.0, 3.0], good=[True, True, False]), student([1.4, 9.0, 4.0], good=[True, False, False])]
    found = _mean_of(pair, pair[0])
    assert found["log_msd"] == pytest.approx([1.2, 2.0, 3.0])
    assert found["log_msd_error"] == pytest.approx([0.2, np.nan, np.nan], nan_ok=True)


@pytest.mark.slow
def test_one_crystal_end_to_end(tmp_path, monkeypatch):
    """LiF, hasty students: both learn frames of their own trajectories and run again; nothing teaches at 400 K, where the limit is 0."""
    from mdistill.teachers.models import load

    def limits(errors, _):
        return force_gates(errors, replace(GateLimits(), force_eV_A=1e-9 if "400 K" in errors else 0.3, force_relative=1e-9))

    monkeypatch.setattr(trajectory_job, "force_gates", limits)
    monkeypatch.setattr(trajectory_job, "OFF_K", 0.3)  # 64 atoms for 2 ps
    bulk("LiF", "rocksalt", a=4.03, cubic=True).write(tmp_path / "LiF.cif")
    settings = TrajectorySettings(
        temperatures=(300.0, 400.0), time_ps=2.0, lag_ps=1.0, explore_ps=2.0, frames=3, on_policy=4, steps=240, cutoff=3.9
    )
    record = crystal_record(tmp_path / "LiF.cif", load("sevennet-0"), settings, tmp_path / "work")
    students, flags = record.about["students"], record.about["flags"]
    assert [one["labels"] - students[0]["labels"] for one in students] == [0, 0, 16, 16]
    assert record.about["mobile"] == "Li" and record.features.shape == (1, 456) and not record.diffusing.any()
    assert students[2]["log_msd"] != students[3]["log_msd"] and (record.log_msd < 0.0).all()
    assert all(one["force_error"]["300"] < 1.0 < one["force_error"]["400"] for one in students[2:])
    assert FORCE_GATE not in flags["300"] and FORCE_GATE in flags["400"] and record.about["gate_passed"]
    assert record.usable.tolist() == np.isfinite(record.log_msd_error).tolist() == [True, False]
    write_trajectory_set(tmp_path / "set.npz", [record])
    assert read_trajectory_set(tmp_path / "set.npz")[0].usable.any() and (tmp_path / "set.npz").stat().st_size < 60_000

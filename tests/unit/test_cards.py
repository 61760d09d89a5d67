"""`mdistill info` on a run folder and on the package's own trajectory."""

from __future__ import annotations

import numpy as np
import pytest

from mdistill.estimates import exactly
from mdistill.export.frames import Frames
from mdistill.export.write_frames import write_frames
from mdistill.report.cards import card
from mdistill.runs.folder import keep_settings
from mdistill.runs.lock import locked
from mdistill.runs.results import Results, write_results
from mdistill.units import BOLTZMANN, KINETIC


def test_a_run_tells_status_inputs_and_values_before_settings(tmp_path):
    keep_settings(tmp_path, "train potential", {"seed": 2726019645, "test_file": [], "redraw": None, "labels": ["a.extxyz"]})
    (tmp_path / "run.toml").write_text('labels = ["a.extxyz", "b.extxyz"]\n')
    assert card(tmp_path).tables[0].rows[0] == ["status", "interrupted: the same command resumes it"]
    write_results(tmp_path, Results(command="train", values={"force_mae": exactly(12.0, "meV/Å")}))
    made = card(tmp_path).tables
    assert [table.name for table in made] == ["status", "measured", "settings"]
    assert made[0].rows == [["status", "done"], ["labels", "a.extxyz, b.extxyz"]] and made[1].rows[0][0] == "force_mae"
    settings = dict(made[2].rows)
    assert settings["seed"] == "2726019645" and settings["redraw"] == "not given" and settings["labels"] == "a.extxyz"
    assert not any(text in str(value) for value in settings.values() for text in ("None", "["))
    with locked(tmp_path):
        assert card(tmp_path).tables[0].rows[0] == ["status", "running"]


def test_a_trajectory_is_described(tmp_path):
    momenta = np.zeros((3, 2, 3))
    momenta[:, 0, 0], momenta[:, 1, 0] = 0.1, -0.1
    frames = Frames(
        numbers=np.array([3, 3]), positions=np.random.default_rng(0).random((3, 2, 3)), pbc=(True, True, True),
        cells=np.tile(5.0 * np.eye(3), (3, 1, 1)), masses=np.array([7.0, 7.0]), times=np.array([0.0, 4.0, 8.0]), momenta=momenta,
    )  # fmt: skip
    write_frames(tmp_path / "run.h5", frames)
    rows = dict(card(tmp_path / "run.h5").tables[0].rows)
    kelvin = KINETIC * 0.1**2 / 7.0 * 2.0 / (3.0 * BOLTZMANN)
    assert float(str(rows["temperature"]).split()[0]) == pytest.approx(kelvin, abs=0.06)
    assert (rows["atoms"], rows["frames"], rows["time between frames"]) == ("2", "3", "4 fs")
    assert rows["cell"] == "5.0000, 5.0000, 5.0000 Å" and rows["velocities"] == "yes" and rows["time"] == "0.008 ps"

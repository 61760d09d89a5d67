"""The committee: members differ, do not depend on processes, resume, and their spread tells the true error."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import mdistill
from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.interrupt import StopRequest
from mdistill.io.structures import to_atoms
from mdistill.judge.committee import committee_results
from mdistill.judge.fit_tables import training_results
from mdistill.judge.spread import calibration, energy_spread, forces_spread, spearman
from mdistill.nets.model_files import load_model
from mdistill.training import committee as module
from mdistill.training.committee import member_file, members_beside, train_committee
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import Prediction
from systems import morse_frames

SMALL = TrainSettings(cutoff=4.0, channels=4, radial=5, hidden=8, held_out=0.2, fit=FitSettings(steps=12, warmup=5, seed=7))
LONG = replace(SMALL, fit=replace(SMALL.fit, steps=100_000))


@pytest.fixture(scope="module")
def frames():
    return morse_frames(16, atoms=4)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 2)


@pytest.fixture(scope="module")
def one_after_the_other(frames, tmp_path_factory):
    return train_committee(frames, SMALL, tmp_path_factory.mktemp("serial"), count=3)


def test_members_have_other_weights_and_other_held_out_blocks(one_after_the_other):
    assert [result.path.name for result in one_after_the_other] == [
        "student.mdistill",
        "student-2.mdistill",
        "student-3.mdistill",
    ]
    assert len({result.sha256 for result in one_after_the_other}) == 3
    weights = [torch.cat([p.flatten() for p in load_model(result.path).net.parameters()]) for result in one_after_the_other]
    assert float((weights[0] - weights[1]).abs().max()) > 0.1, "from other first weights"
    assert len({str(result.parity["force"][0]) for result in one_after_the_other}) == 3


def test_a_committee_of_one_is_the_student_alone(frames, one_after_the_other, tmp_path):
    assert train_committee(frames, SMALL, tmp_path, count=1)[0].sha256 == one_after_the_other[0].sha256
    assert members_beside(tmp_path / "student.mdistill") == []


def test_processes_give_the_same_bits_and_resume(frames, one_after_the_other, tmp_path, two_cores):
    together = train_committee(frames, SMALL, tmp_path, count=3)
    assert [result.sha256 for result in together] == [result.sha256 for result in one_after_the_other]
    assert members_beside(tmp_path / "student.mdistill") == [tmp_path / member_file(2), tmp_path / member_file(3)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("training.ckpt")}
    again = train_committee(frames, SMALL, tmp_path, count=3)
    assert [result.sha256 for result in again] == [result.sha256 for result in together]
    assert len(before) == 3 and before == {path: path.stat().st_mtime_ns for path in before}, "none was trained again"


class Soon(StopRequest):
    """Pending once all members have written a checkpoint or a time has passed."""

    def pending(self) -> bool:
        self.deadline = self.deadline or time.monotonic() + 1.0
        return time.monotonic() > self.deadline


def test_a_stop_request_reaches_every_member_which_saves(frames, tmp_path, two_cores):
    with pytest.raises(Interrupted):
        train_committee(frames, LONG, tmp_path, count=2, stop=Soon())
    assert len(list(tmp_path.rglob("training.ckpt"))) == 2


def test_a_member_that_dies_is_reported_and_the_others_saved(frames, tmp_path, monkeypatch, two_cores):
    right = module._Fit.run

    def dying(self, stop):
        if self.member == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return right(self, stop)

    monkeypatch.setattr(module._Fit, "run", dying)
    with pytest.raises(MdistillError, match=r"student 2 died \(exit status -9\)(.|\n)*resumes"):
        train_committee(frames, LONG, tmp_path, count=2)
    assert (tmp_path / "training.ckpt").is_file()


def test_bad_input_of_a_member_is_bad_input(frames, tmp_path, two_cores):
    with pytest.raises(BadInput, match="block"):
        train_committee([replace(frame, block=0) for frame in frames], SMALL, tmp_path, count=2)


def answers(frames, rng, own: float, shared: float, members: int = 4):
    """Predictions with errors of each member (eV/Å per component, larger from frame to frame) and one that all share."""
    made = [[] for _ in range(members)]
    for k, frame in enumerate(frames):
        common = shared * rng.normal(size=frame.target.forces.shape)
        for member in made:
            error = common + own * (1 + k) * rng.normal(size=common.shape)
            member.append(
                Prediction(energy=frame.target.energy, forces=frame.target.forces + torch.from_numpy(error), stress=None)
            )
    return made


def test_spread_equals_independent_errors_and_misses_shared_ones():
    frames, rng = morse_frames(40, atoms=8), np.random.default_rng(0)
    found = calibration(frames, answers(frames, rng, 0.01, 0.0))
    assert abs(found.ratio - 1.0) < 0.05 and found.rank > 0.4 and found.atoms == 320
    assert all(abs(wrong / wide - 1.0) < 0.35 for wide, wrong in found.by_spread[2:-2])
    biased = calibration(frames, answers(frames, rng, 0.01, 0.5))
    assert biased.ratio > 1.5
    with pytest.raises(BadInput, match="committee"):
        calibration(frames, answers(frames, rng, 0.01, 0.0)[:1])


def test_spread_is_that_of_vectors_and_ranks_are_spearmans():
    forces = [torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]]), torch.zeros(1, 3)]
    members = [Prediction(energy=torch.tensor([e]), forces=f, stress=None) for e, f in zip((1.0, 2.0, 3.0), forces, strict=True)]
    assert float(forces_spread(members)) == pytest.approx(1.0)
    assert float(energy_spread(members)) == pytest.approx(1.0)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(x, x**3) == pytest.approx(1.0) and spearman(x, torch.tensor([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(0.8)


def test_the_calculator_tells_the_spread_when_asked(frames, one_after_the_other):
    atoms = to_atoms(frames[0].system)
    atoms.calc = mdistill.calculator(one_after_the_other[0].path)
    forces = atoms.get_forces()
    assert "forces_spread" not in atoms.calc.results, "not evaluated before it is asked for"
    spread = atoms.calc.get_property("forces_spread", atoms)
    alone = []
    for result in one_after_the_other:
        atoms.calc = mdistill.calculator(mdistill.load(result.path))
        alone.append(atoms.get_forces())
    assert np.array_equal(alone[0], forces)
    assert np.allclose(spread, np.sqrt(np.var(alone, axis=0, ddof=1).sum(1)), atol=1e-12) and spread.min() > 0.0
    named = mdistill.calculator(one_after_the_other[0].path, committee=[one_after_the_other[1].path])
    assert named.get_property("energy_spread", atoms) > 0.0
    with pytest.raises(NotImplementedError):
        mdistill.calculator(one_after_the_other[0].path, committee=[]).get_property("forces_spread", atoms)


def test_the_table_of_a_fit_tells_the_steps_of_each_member_and_a_short_fit_is_noted(one_after_the_other):
    told = training_results(one_after_the_other[0], "first fit", others=one_after_the_other[1:])
    assert [row[:2] for row in told.tables[0].rows] == [["student 1", 12], ["student 2", 12], ["student 3", 12]]
    assert told.values["fit_steps"].value == 12 and len(told.notes) == 3
    assert told.notes[0] == "student: the fit had 12 steps, fewer than the 1000 of a usable student"
    assert told.notes[1].startswith("student 2:")
    table = committee_results(one_after_the_other, None, frames="none").tables[0]
    assert len(table.rows) == 3 and all(row[1].value > 0.0 for row in table.rows)

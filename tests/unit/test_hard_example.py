"""The CP2K labels of examples/: sane numbers, and that a difference fitted to some of them helps on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill import cli
from mdistill.closed_form.delta import fit_delta
from mdistill.labelling.import_labels import import_labels
from mdistill.labelling.settings import LabelFileSettings
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame, Prediction
from mdistill.units import GPA

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = {name: EXAMPLES / f"{name}.extxyz" for name in ("li3ps4_cp2k", "li3ps4_cp2k_test")}
TEACHER = LabelFileSettings(energy_key="sevennet_energy", forces_key="sevennet_forces")


def labels(name: str) -> list[LabelledFrame]:
    return import_labels(FILES[name], hold_out=False).frames


def teacher(name: str) -> list[Prediction]:
    return [frame.target for frame in import_labels(FILES[name], TEACHER, hold_out=False).frames]


def mean_error(answers: list[Prediction], frames: list[LabelledFrame]) -> float:
    return float(np.mean([float((p.forces - f.target.forces).abs().mean()) for p, f in zip(answers, frames, strict=True)]))


@pytest.mark.parametrize(("name", "least"), [("li3ps4_cp2k", 20), ("li3ps4_cp2k_test", 8)])
def test_the_labels_are_sane(name: str, least: int) -> None:
    """Forces of a periodic cell sum to zero; pressures of a solid near its volume are a few GPa; nothing is far from 20 Å³."""
    frames = labels(name)
    assert len(frames) >= least and FILES[name].stat().st_size < 100_000
    for frame in frames:
        system, target = frame.system, frame.target
        assert sorted(system.numbers.tolist()) == 6 * [3] + 2 * [15] + 8 * [16] and bool(system.pbc.all())
        assert target.stress is not None
        assert all(bool(torch.isfinite(part).all()) for part in (target.energy, target.forces, target.stress))
        assert float(target.forces.mean(0).norm()) < 0.01, "eV/Å"
        assert 0.1 < float(target.forces.norm(dim=1).max()) < 15.0
        assert float(target.stress.abs().max()) / GPA < 10.0
        torch.testing.assert_close(target.stress[0], target.stress[0].T)
        assert 17.0 < float(torch.linalg.det(system.cell[0])) / system.n_atoms < 23.0
    energies = torch.cat([frame.target.energy for frame in frames]) / 16
    assert float(energies.max() - energies.min()) < 1.0, "eV/atom"


def test_no_structure_is_in_both_files() -> None:
    first, second = (torch.stack([frame.system.positions for frame in labels(name)]) for name in FILES)
    assert float((first[:, None] - second[None]).abs().amax((2, 3)).min()) > 1e-3


def test_a_difference_fitted_in_closed_form_helps_on_other_frames() -> None:
    """The teacher is too soft; ten labels say by how much, and mend a good part of its error on frames that the fit has not seen."""
    hard, other = labels("li3ps4_cp2k")[:10], labels("li3ps4_cp2k_test")
    soft, answers = teacher("li3ps4_cp2k")[:10], teacher("li3ps4_cp2k_test")
    delta = fit_delta(hard, soft, TrainSettings())
    before, after = (
        mean_error(answers, other),
        mean_error([delta.of(p, f.system) for p, f in zip(answers, other, strict=True)], other),
    )
    assert after < 0.8 * before
    assert 0.0 < delta.softening < 0.5


def test_the_command_tests_a_ready_student_on_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["test", "li6ps5cl-sevennet-0", str(FILES["li3ps4_cp2k_test"])]) == 0
    assert "force" in capsys.readouterr().out

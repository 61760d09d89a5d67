"""What a user is told at once: consoles that are not UTF-8, molecules and slabs, a missing conductivity."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import fcc111, molecule
from ase.io import write

from mdistill import cli
from mdistill.errors import BadInput
from mdistill.io.structures import read_structure
from mdistill.observables.points import Runs
from mdistill.observables.trajectories import transport_results
from mdistill.types import Trajectory
from mdistill.workflows.distill_settings import quick_settings, resolved


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_help_on_a_console_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """The arrows and Greek letters of the help are replaced; no traceback."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["mdistill", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sys.stdout.flush()
    assert ended.value.code == 0 and b"usage: mdistill" in shown.getvalue() and b"?" in shown.getvalue()


def test_paragraphs_of_a_help_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["train", "transport", "--help"])
    assert "\n\nWith --structures a trajectory set" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("atoms", "kind"), [(molecule("H2O", vacuum=6.0), "molecule"), (fcc111("Ag", (1, 1, 2), vacuum=8.0), "slab")]
)
def test_molecule_and_slab_are_told_what_they_are_before_anything_else(tmp_path: Path, atoms: object, kind: str) -> None:
    path = tmp_path / "structure.extxyz"
    atoms.info.clear()  # type: ignore[attr-defined]
    write(path, atoms)
    settings = resolved(quick_settings(path), read_structure(path))
    assert (settings.matter, settings.mobile, settings.production.fixed_cell) == (kind, "none", True)
    with pytest.raises(BadInput, match="liquid, but the widest gaps"):
        resolved(replace(quick_settings(path), matter="liquid"), read_structure(path))


@pytest.mark.parametrize(("kelvin", "side", "reason"), [(None, 10.0, "no temperature is stated"), (300.0, 0.0, "has no volume")])
def test_a_missing_conductivity_has_its_reason(kelvin: float | None, side: float, reason: str) -> None:
    steps = np.random.default_rng(0).standard_normal((60, 4, 3))
    run = Trajectory(
        numbers=torch.tensor([3, 3, 16, 16]), positions=torch.from_numpy(np.cumsum(0.1 * steps, axis=0) * [[[1], [1], [0], [0]]]),
        cell=torch.eye(3, dtype=torch.float64).repeat(60, 1, 1) * side, times=100.0 * torch.arange(60, dtype=torch.float64),
    )  # fmt: skip
    notes = transport_results([Runs(temperature_K=kelvin, trajectories=[run])], species="Li", charge=1.0).notes
    assert any(f"no σ: {'' if kelvin else 'no'}" in note and reason in note for note in notes)

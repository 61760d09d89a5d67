"""Averages, drift and speed of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistill.simulation.summary import summarise


def test_only_time_after_equilibration_counts(tmp_path: Path) -> None:
    rows = [f"{n},{2.0 * n},{900.0 if n <= 0 else 300.0},{-4.0},{2.0},{-2.0 + 1e-3 * n},,,{300.0}" for n in range(-20, 41)]
    header = "step,time_fs,temperature_K,potential_eV,kinetic_eV,total_eV,pressure_GPa,volume_A3,T_Li_K"
    (tmp_path / "log.csv").write_text("\n".join([header, *rows]) + "\n")
    values = summarise(tmp_path / "log.csv", atoms=2, time_step=2.0, steps_taken=60, seconds=0.6, conserved=True)
    assert values["temperature"].value == 300.0 and values["T_Li"].value == 300.0
    assert "pressure" not in values and values["potential_energy"].value == -2.0
    assert values["energy_drift"].value == pytest.approx(1e-3 / 2 / 2e-3)
    assert values["us_per_atom_step"].value == pytest.approx(5000.0)
    assert values["ns_per_day"].value == pytest.approx(2e-6 * 86400 / 0.01)
    assert "energy_drift" not in summarise(
        tmp_path / "log.csv", atoms=2, time_step=2.0, steps_taken=1, seconds=1.0, conserved=False
    )

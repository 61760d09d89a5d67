"""The benchmark of pre-training: its power law on made numbers, and its rows, stored one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import edge_pretraining
from benchmarks.edge_pretraining import laws, power_law


def test_a_power_law_is_found_with_its_error() -> None:
    sizes = [300, 1000, 3000, 10_000]
    exact = power_law(sizes, [40.0 * n**-0.25 for n in sizes], beyond=3e7)
    assert exact["exponent"] == pytest.approx(-0.25) and exact["error"] < 1e-9
    assert exact["there"] == pytest.approx(40.0 * 3e7**-0.25) and exact["within a factor of"] == pytest.approx(1.0)
    random = np.random.default_rng(0)
    found = [power_law(sizes, [40.0 * n**-0.25 * np.exp(random.normal(0.0, 0.1)) for n in sizes]) for _ in range(2000)]
    slopes, errors = (np.array([one[name] for one in found]) for name in ("exponent", "error"))
    assert np.mean(slopes) == pytest.approx(-0.25, abs=0.005)
    assert np.mean(errors**2) == pytest.approx(np.var(slopes), rel=0.1)
    there = np.log([one["there"] for one in found])
    assert np.mean(np.log([one["within a factor of"] for one in found]) ** 2) == pytest.approx(np.var(there), rel=0.1)


def test_a_law_needs_three_sizes() -> None:
    rows = [
        {"steps": 9, "fitted structures": n, "force MAE (meV/Å)": 5.0, "E_eq (meV/Å)": {"value": 3.0}, "λ": {"value": 0.1}}
        for n in (1, 2, 4)
    ]
    assert laws(rows[:2]) == []
    assert {row["quantity"]: row["exponent"] for row in laws(rows)} == {"force MAE (meV/Å)": 0.0, "E_eq (meV/Å)": 0.0, "λ": 0.0}


def test_rows_of_pre_training_are_stored_and_not_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit")
    pytest.importorskip("tblite")
    for name, value in {"SIZES": (24, 36, 48), "PRE_STEPS": 2, "TESTED": 2, "FEW": 1}.items():
        monkeypatch.setattr(edge_pretraining, name, value)
    edge_pretraining.pretraining(tmp_path, tmp_path)
    rows = json.loads((tmp_path / "pretraining.json").read_text())
    assert [row.get("size") for row in rows] == [24, 36, 48, None, None, None]
    assert all(row["fitted structures"] < row["size"] and row["E_eq (meV/Å)"]["samples"] > 1 for row in rows[:3])
    assert {row["quantity"] for row in rows[3:]} == {"force MAE (meV/Å)", "E_eq (meV/Å)", "λ"}
    monkeypatch.setattr(edge_pretraining, "pretrained", None)
    edge_pretraining.pretraining(tmp_path, tmp_path)
    assert json.loads((tmp_path / "pretraining.json").read_text()) == rows


def test_longer_pre_training_takes_its_largest_size_from_a_second_folder_with_the_same_molecules_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rdkit")
    pytest.importorskip("tblite")
    changed = {
        "SIZES": (24,),
        "LONG_SIZES": (18, 24, 90),
        "PRE_STEPS": 1,
        "LONG_STEPS": 2,
        "TESTED": 2,
        "FEW": 1,
        "PER_MOLECULE": 18,
    }
    for name, value in changed.items():
        monkeypatch.setattr(edge_pretraining, name, value)
    edge_pretraining.long_pretraining(tmp_path, tmp_path)
    rows = json.loads((tmp_path / "long-pretraining.json").read_text())
    assert [(row.get("size"), row.get("molecules")) for row in rows[:3]] == [(18, 2), (24, 2), (90, 3)]
    held = [
        json.loads((tmp_path / folder / "molecules.json").read_text()) for folder in ("pretraining-molecules", "pretraining-many")
    ]
    assert held[0]["molecules"][:2] == held[1]["molecules"][:2]
    assert [row["steps"] for row in rows] == [2] * 6
    fewer = json.loads((tmp_path / "pretraining.json").read_text())
    assert [(row["size"], row["steps"]) for row in fewer] == [(90, 1)]

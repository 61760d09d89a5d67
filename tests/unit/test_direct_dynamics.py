"""MD of the molecules that direct forces learn from: frames are labels, none costs a further one, the temperature is met."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mdistill.direct import generate as direct_generate
from mdistill.direct.conformers import ORIGINS, TEMPERATURES, conformers
from mdistill.direct.dynamics import langevin_frames
from mdistill.direct.generate import generate, label_molecule, xtb
from mdistill.direct.molecules import parsed
from mdistill.direct.settings import MoleculeSettings
from mdistill.direct.shards import shard
from mdistill.errors import BadInput
from mdistill.units import BOLTZMANN

pytest.importorskip("rdkit")


def test_frames_of_md_are_labels_of_their_structures_and_cost_no_further_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[np.ndarray] = []

    def counted(numbers, positions, **state):
        asked.append(positions.copy())
        return xtb(numbers, positions, **state)

    monkeypatch.setattr(direct_generate, "xtb", counted)
    settings = MoleculeSettings(per_molecule=12, torsions=0, dynamics=2, dynamics_fs=6.0)
    task = (3, parsed("C[O-]"), settings, 7)
    _, numbers, rows, failures, _ = label_molecule(task)
    moved = [(one, answer) for one, answer in rows if one.origin == "dynamics"]
    assert len(moved) == 4 and len(rows) == 12 and not +failures
    assert len(asked) == 8 + 4 * 3  # eight other structures, three steps for each frame; starts are displacements with a label
    starts = [next(one for one, _ in rows[k:] if one.origin == "displaced") for k in (0, 6)]
    for k, (one, (energy, forces)) in enumerate(moved):
        again = xtb(numbers, one.positions, charge=-1, unpaired=0)
        assert energy == pytest.approx(again[0], abs=1e-5) and np.abs(forces - again[1]).max() < 1e-4
        assert one.temperature_K == starts[k // 2].temperature_K in TEMPERATURES
    places = [starts[0].positions, *(one.positions for one, _ in moved[:2])]
    gaps = [np.abs(b - a).max() for a, b in itertools.pairwise(places)]
    assert min(gaps) > 0.01 and max(gaps) < 0.5
    same = [one.positions for one, _ in label_molecule(task)[2]]
    assert all(np.array_equal(one.positions, other) for (one, _), other in zip(rows, same, strict=True))


def test_md_of_a_molecule_reaches_its_temperature_from_a_cold_start() -> None:
    """Equipartition on springs to places, stiff and soft: each coordinate has ½ k_B T."""
    numbers, place = np.array([6, 1, 1, 8, 1, 1, 7, 1]), np.random.default_rng(0).normal(size=(8, 3))
    stiffness = np.linspace(5.0, 40.0, 24).reshape(8, 3)

    def label(positions):
        away = positions - place
        return 0.5 * float((stiffness * away**2).sum()), -stiffness * away

    run = langevin_frames(label, numbers, place, temperature_K=400.0, every_fs=20.0, seed=1)
    energies = np.array([energy for _, (energy, _) in itertools.islice(run, 1500)])[100:]
    blocks = [part.mean() for part in np.array_split(energies, 10)]
    expected = 24 * 0.5 * BOLTZMANN * 400.0
    assert abs(np.mean(blocks) - expected) < 4.0 * np.std(blocks, ddof=1) / 10**0.5 < 0.1 * expected


def test_md_ends_where_a_step_has_no_label() -> None:
    answers = iter([(0.0, np.zeros((2, 3)))] * 4)
    run = langevin_frames(
        lambda _: next(answers, None), np.array([8, 1]), np.eye(3)[:2], temperature_K=300.0, every_fs=4.0, seed=1
    )
    assert len(list(run)) == 1


def test_shares_of_six_structures() -> None:
    with pytest.raises(BadInput, match="at most 2 beside --torsions 3"):
        MoleculeSettings(torsions=3, dynamics=3)
    made = [one.origin for one in conformers(parsed("FCCF"), 12, 1, torsions=2, dynamics=3)[1]]
    assert {name: made.count(name) for name in ORIGINS} == dict(zip(ORIGINS, (2, 0, 2, 2, 6), strict=True))


def test_shards_tell_how_their_structures_were_made(tmp_path: Path) -> None:
    settings = MoleculeSettings(structures=24, per_molecule=12, dynamics_fs=4.0)
    totals = generate(settings, tmp_path, seed=1, workers=1, listed=[parsed("CO"), parsed("O")])
    assert totals["dynamics"] == 4 and sum(totals[name] for name in ORIGINS if name in totals) == totals["structures"] == 24
    with np.load(shard(tmp_path, 0)) as arrays:
        moved = arrays["origin"] == ORIGINS.index("dynamics")
        assert moved.sum() == 4 and set(arrays["temperature_K"][moved]) <= set(TEMPERATURES)
        assert not arrays["temperature_K"][arrays["origin"] == 0].any()

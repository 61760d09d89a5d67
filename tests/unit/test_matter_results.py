"""Density, layers and internal coordinates of production, each against a made trajectory of known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc110, molecule

from mdistill.hardening.changes import changes
from mdistill.io.structures import from_atoms, to_system
from mdistill.io.trajectories import TrajectoryWriter
from mdistill.matter.kinds import KINDS, recognised
from mdistill.observables.internal import internal_results
from mdistill.observables.layers import AXES, displacements_by_layer, layer_results, layers_of, order_by_layer
from mdistill.observables.matter import density_results, matter_results
from mdistill.observables.production import Production
from mdistill.runs.results import Results
from mdistill.types import LabelledFrame, Prediction, State, System, Trajectory

WIDTHS = np.array([[0.10, 0.12, 0.15], [0.08, 0.08, 0.09], [0.06, 0.06, 0.06]])
"""Å along each axis: surface layer, second, middle."""


def slab() -> System:
    return to_system(from_atoms(fcc110("Al", (6, 6, 5), vacuum=8.0)))


def shaken(seed: int, *, drift: float = 0.0, frames: int = 400, factor: float = 1.0) -> Trajectory:
    """Gaussian displacements of each layer about the lattice, and a drift of the whole (Å a frame)."""
    system, draw = slab(), np.random.default_rng(seed)
    width = np.zeros((system.n_atoms, 3))
    for k, layer in enumerate(layers_of(system)):
        width[layer] = factor * WIDTHS[min(k, 4 - k)]
    places = system.positions.numpy() + width * draw.normal(size=(frames, system.n_atoms, 3))
    places += drift * np.arange(frames)[:, None, None]
    cell = system.cell[0].repeat(frames, 1, 1)
    times = 50.0 * torch.arange(frames, dtype=torch.float64)
    return Trajectory(numbers=system.numbers, positions=torch.from_numpy(places), cell=cell, times=times)


def produced(runs: list[Trajectory], start: System, kelvin: float = 300.0) -> Production:
    n = len(runs)
    return Production(temperature_K=kelvin, trajectories=runs, students=[1] * n, values=[{}] * n, start=start, sites=[start] * n)


def test_layers_of_a_slab_are_found_from_face_to_face():
    assert [len(layer) for layer in layers_of(slab())] == [36] * 5


@pytest.mark.parametrize("drift", [0.0, 0.01])
def test_u2_of_layers_is_that_of_the_made_slab(drift, trust):
    found = displacements_by_layer(shaken(1, drift=drift), slab())
    assert found == pytest.approx(WIDTHS**2, rel=0.05)
    trust("physics", f"u² of layers of a made slab, drift {drift}", float(np.abs(found / WIDTHS**2 - 1).max()), "< 5 %")


@pytest.mark.planted
def test_a_slab_whose_drift_is_left_in_would_be_seen():
    """Without the centre of mass taken off, a drift of 4 Å dwarfs every vibration."""
    run = shaken(1, drift=0.01)
    places = run.positions.numpy()
    wrong = ((places - places.mean(0)) ** 2).mean((0, 1))
    assert wrong.min() > 5 * WIDTHS.max() ** 2


def test_layer_results_have_a_row_a_layer_and_say_where_the_surface_melts():
    start = slab()
    cold = produced([shaken(k) for k in range(3)], start)
    hot = produced([shaken(9 + k, factor=10.0) for k in range(3)], start, 700.0)
    found = layer_results([cold, hot])
    assert len(found.tables[0].rows) == 6 and len(found.figures[0].series) == 6
    ratio = found.tables[0].rows[0][5]
    assert ratio.value == pytest.approx((0.15 / 0.10) ** 2, abs=4 * ratio.error)
    assert found.values["surface_u2_normal_300K"].value == pytest.approx(0.15**2, rel=0.05)
    assert any(note.startswith("700 K") for note in found.notes) and not any(note.startswith("300") for note in found.notes)
    assert len(AXES) == 3


def moved(run: Trajectory, atoms: np.ndarray, shift: np.ndarray) -> Trajectory:
    """Atoms displaced by shift [frame, 3] or [frame, atom, 3]."""
    places = run.positions.numpy().copy()
    places[:, atoms] += shift if shift.ndim == 3 else shift[:, None]
    return replace(run, positions=torch.from_numpy(places))


@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_a_slab_that_vibrates_keeps_its_order(drift):
    """At drift 0.05 it moves by 20 Å in every direction."""
    order, gone = order_by_layer(shaken(1, drift=drift), slab())
    assert order == pytest.approx(np.ones(3)) and gone == 0
    found = layer_results([produced([shaken(k, drift=drift) for k in range(3)], slab())])
    assert found.values["surface_order_300K"].value == 1.0 and found.values["atoms_that_left_300K"].value == 0.0
    assert not found.notes and not found.headlines[0].doubts


@pytest.mark.planted
def test_atoms_that_evaporate_are_counted_and_told(trust):
    """Three atoms of one face and one of the other leave at 0.05 Å a frame, after half of one of two runs; the rest recoils."""
    start, run = slab(), shaken(1)
    away = np.clip(np.arange(400) - 200, 0, None)[:, None] * np.array([0.0, 0.0, 0.05])
    top, bottom = layers_of(start)[-1][:3], layers_of(start)[0][:1]
    hot = moved(moved(moved(run, np.arange(180), -0.1 * away), top, away), bottom, -away)
    order, gone = order_by_layer(hot, start)
    assert gone == 4 and 0.9 < order[0] < 0.99 and order[1:] == pytest.approx(np.ones(2))
    found = layer_results([produced([shaken(2), run], start), produced([shaken(3), hot], start, 700.0)])
    assert found.values["atoms_that_left_700K"].value == 4.0 and found.values["atoms_that_left_300K"].value == 0.0
    assert len(found.notes) == 1 and found.notes[0].startswith("700 K: 4 of 360 atoms left the slab")
    assert [len(one.doubts) for one in found.headlines] == [0, 1]
    trust("physics", "atoms that were made to leave a slab, of 4", gone, "4", planted=True)


@pytest.mark.planted
def test_a_surface_that_melts_is_told_by_its_layer(trust):
    """Atoms of one face diffuse in the plane; the layers below stay, and the other face too."""
    start, run = slab(), shaken(1)
    top = layers_of(start)[-1]
    steps = 0.15 * np.random.default_rng(3).normal(size=(400, len(top), 3)) * np.array([1.0, 1.0, 0.0])
    order, gone = order_by_layer(moved(run, top, np.cumsum(steps, axis=0)), start)
    assert gone == 0 and order[0] < 0.7 and order[1:] == pytest.approx(np.ones(2))
    found = layer_results([produced([run, moved(run, top, np.cumsum(steps, axis=0))], start, 500.0)])
    assert found.notes[0].startswith("500 K: the surface lost its order") and found.headlines[0].doubts
    assert found.tables[0].rows[0][6].value == pytest.approx(0.5 * (1.0 + order[0])) and found.tables[0].columns[6] == "order"
    trust("physics", "order of a made surface of which one face diffuses", float(order[0]), "< 0.7", planted=True)


def test_atoms_that_hop_to_sites_keep_the_order_and_are_told():
    """Half of the atoms of a face move along by one row: all stand on sites, yet none vibrates about its place."""
    start, run = slab(), shaken(1)
    row = layers_of(start)[-1]
    hop = (np.arange(400) >= 200)[:, None] * 2.0 * (start.cell[0, 0] / 6).numpy()
    found = layer_results([produced([moved(run, row, hop)], start)])
    assert found.values["surface_order_300K"].value == pytest.approx(1.0)
    assert "leave their places (u² above 1" in found.notes[0]


def write_run(path: Path, atoms: Atoms, lengths: np.ndarray) -> None:
    writer = TrajectoryWriter(path, {})
    system = to_system(from_atoms(atoms))
    for k, length in enumerate(lengths):
        factor = float(length) / float(atoms.cell[0, 0])
        scaled = System(positions=system.positions * factor, numbers=system.numbers, cell=system.cell * factor, pbc=system.pbc,
                        owner=system.owner)  # fmt: skip
        nothing = Prediction(energy=torch.zeros(1), forces=torch.zeros_like(system.positions), stress=None)
        masses = torch.ones(system.n_atoms)
        state = State(system=scaled, momenta=0.0 * system.positions, masses=masses, time=100.0 * k, prediction=nothing)
        writer.add(k, state)
    writer.flush()


def ethanol_frames(width: float, seed: int, frames: int = 300) -> Trajectory:
    atoms = molecule("CH3CH2OH")
    places = atoms.positions + width * np.random.default_rng(seed).normal(size=(frames, 9, 3))
    cells = torch.zeros((frames, 3, 3), dtype=torch.float64)
    return Trajectory(numbers=torch.from_numpy(atoms.numbers), positions=torch.from_numpy(places), cell=cells,
                      times=torch.arange(frames, dtype=torch.float64))  # fmt: skip


def label(positions: torch.Tensor, start: System, source: str = "md") -> LabelledFrame:
    system = System(positions=positions, numbers=start.numbers, cell=start.cell, pbc=start.pbc, owner=start.owner)
    target = Prediction(energy=torch.zeros(1), forces=torch.zeros_like(positions), stress=None)
    return LabelledFrame(system=system, target=target, source=source, temperature_K=300.0, block=0)


def test_bonds_angles_and_torsions_stand_beside_the_teachers():
    start = to_system(from_atoms(molecule("CH3CH2OH")))
    ours, theirs = ethanol_frames(0.03, 1), ethanol_frames(0.03, 2, frames=40)
    taught = [label(frame, start) for frame in theirs.positions]
    found = internal_results([produced([ours], start)], taught)
    rows = {row[0]: row for row in found.tables[0].rows}
    assert rows["bond C–C"][2] == pytest.approx(molecule("CH3CH2OH").get_distance(0, 1), abs=0.01)
    assert rows["bond C–C"][3] == pytest.approx(0.03 * 2**0.5, rel=0.15) and rows["bond C–C"][6] < 0.02
    assert any(series.label == "teacher" for series in found.figures[0].series)
    alone = internal_results([produced([ours], start)])
    assert alone.tables[0].rows[0][4] is None and len(alone.figures[0].series) == 1
    wide = internal_results([produced([ethanol_frames(0.09, 3)], start)], taught)
    assert {row[0]: row for row in wide.tables[0].rows}["bond C–C"][6] > 0.03


def test_a_crystal_has_no_further_results_and_a_molecule_has(tmp_path):
    start = to_system(recognised(from_atoms(molecule("CH3CH2OH")))[1])
    run = [produced([ethanol_frames(0.03, 1)], start)]
    assert not matter_results(run, KINDS["crystal"], folder=tmp_path).tables
    assert [table.name for table in matter_results(run, KINDS["molecule"], folder=tmp_path).tables] == ["internal"]


def salt(first: str, second: str) -> Atoms:
    """27 atoms on a simple cubic lattice of 2.5 Å."""
    return Atoms([first, second, second] * 9, 2.5 * np.argwhere(np.ones((3, 3, 3))), cell=[7.5] * 3, pbc=True)


def test_rdfs_are_of_runs_with_the_elements_of_the_first(tmp_path):
    """Orderings of one crystal have other elements at the same places: here layers, and the same in another direction."""
    first, second = salt("Li", "Cl"), salt("Li", "Cl")
    second.numbers = second.numbers.reshape(3, 3, 3).transpose(2, 1, 0).reshape(-1)
    assert (first.numbers != second.numbers).any()
    start, *runs = (to_system(from_atoms(atoms)) for atoms in (first, first, second))
    still = [Trajectory(numbers=one.numbers, positions=one.positions[None], cell=one.cell, times=torch.zeros(1)) for one in runs]
    shifted = replace(still[1], positions=still[1].positions * torch.tensor([1.0, 1.0, 1.01], dtype=torch.float64))
    alone, both = (
        [one for one in matter_results([produced(part, start)], KINDS["liquid"], folder=tmp_path).figures if "rdf" in one.name]
        for part in ([still[0]], [still[0], shifted])
    )
    assert len(alone) == 3 and alone == both
    for side, atoms in (("soft", [second, first]), ("hard", [first, first])):
        for k, one in enumerate(atoms, 1):
            (tmp_path / side / f"run-{k}").mkdir(parents=True)
            write_run(tmp_path / side / f"run-{k}" / "trajectory.h5", one, np.full(2, 7.5))
    nothing = Results(command="production")
    found = changes(nothing, nothing, (tmp_path / "soft", tmp_path / "hard"), kelvin=300.0)
    peaks = [row for row in found.tables[0].rows if str(row[0]).startswith("g(r)")]
    assert len(peaks) == 3 and all(row[1] == row[2] for row in peaks)


def test_the_density_is_that_of_the_npt_runs(tmp_path):
    atoms = molecule("H2O")
    atoms.set_cell([3.1] * 3)
    atoms.pbc = True
    atoms = atoms.repeat(2)
    start = to_system(from_atoms(atoms))
    (tmp_path / "300K").mkdir()
    for k, length in enumerate((6.2, 6.25, 6.15), 1):
        (tmp_path / "300K" / f"npt-{k}").mkdir()
        write_run(tmp_path / "300K" / f"npt-{k}" / "trajectory.h5", atoms, np.full(6, length))
    still = Trajectory(numbers=start.numbers, positions=start.positions[None], cell=start.cell, times=torch.zeros(1))
    found = density_results([produced([still], start)], tmp_path)
    expected = np.mean([8 * 18.015 * 1.66053906660 / length**3 for length in (6.2, 6.25, 6.15)])
    assert found.values["density_300K"].value == pytest.approx(expected, rel=1e-4)
    assert found.values["density_300K"].error > 0.0 and not found.notes
    for k in (1, 2, 3):
        (tmp_path / "300K" / f"npt-{k}" / "trajectory.h5").unlink()
        write_run(tmp_path / "300K" / f"npt-{k}" / "trajectory.h5", atoms, np.linspace(6.4, 6.1, 6))
    assert any("still changes" in note for note in density_results([produced([still], start)], tmp_path).notes)

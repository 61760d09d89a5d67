"""Production: cells, lengths, independent runs, and the order of the host."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.data.supercell import enlarged
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, BlowUp, Interrupted
from mdistill.estimates import exactly
from mdistill.graph import make_system
from mdistill.interrupt import StopRequest
from mdistill.io.structures import repeated, to_atoms
from mdistill.io.trajectories import read_hdf5
from mdistill.matter.kinds import KINDS
from mdistill.observables.host_order import LEAST, host_order
from mdistill.observables.phase_changes import crossed, one_phase, phase_changes
from mdistill.observables.production import Production, production_results
from mdistill.parallel import side_by_side
from mdistill.runs.results import Results
from mdistill.types import System, Trajectory
from mdistill.workflows.production import _Job, _Lengths, produce
from mdistill.workflows.settings import ProductionSettings
from springs import NearestSprings

HOST, MOBILE = 16, 3


def crystal(repeats: int = 2, spacing: float = 2.0) -> System:
    """Simple cubic, one site in eight mobile."""
    sites = np.array([[x, y, z] for x in range(repeats) for y in range(repeats) for z in range(repeats)], dtype=float)
    numbers = np.where(np.arange(len(sites)) % 8 == 0, MOBILE, HOST)
    return make_system(spacing * sites, numbers, repeats * spacing * np.eye(3), [True] * 3)


def moving(start: System, positions: np.ndarray) -> Trajectory:
    return Trajectory(
        numbers=start.numbers, positions=torch.from_numpy(positions), cell=start.cell.expand(len(positions), 3, 3),
        times=torch.arange(len(positions), dtype=torch.float64),
    )  # fmt: skip


def test_repeated_is_what_ase_repeats():
    start, repeats = crystal(), (2, 1, 3)
    ours, theirs = to_atoms(repeated(start, repeats)), to_atoms(start).repeat(repeats)
    assert np.allclose(ours.positions, theirs.positions) and np.allclose(ours.cell, theirs.cell)
    assert (ours.numbers == theirs.numbers).all()


def test_a_cell_is_enlarged_along_its_shortest_height_until_it_has_enough_atoms_and_ions():
    long = make_system(np.zeros((1, 3)), np.array([3]), np.diag([2.0, 3.0, 9.0]), [True] * 3)
    assert enlarged(long, atoms=4, ions=1, mobile=3).cell[0].diagonal().tolist() == [4.0, 6.0, 9.0]
    assert enlarged(crystal(), atoms=1, ions=3, mobile=3).n_atoms == 32
    assert enlarged(crystal(), atoms=9, ions=1, mobile=None).n_atoms == 16
    with pytest.raises(BadInput, match="no Na"):
        enlarged(crystal(), atoms=1, ions=1, mobile=11)


def test_jobs_side_by_side_keep_their_order_and_a_failure_stops_the_others():
    assert side_by_side([lambda _, k=k: k for k in range(5)]) == list(range(5))

    def fails(_stop):
        raise BlowUp(3, "too hot", "")

    stopped = []

    def waits(stop):
        for _ in range(500):
            if stop.pending():
                stopped.append(True)
                stop.raise_if_pending()
            time.sleep(0.01)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(BlowUp):
            side_by_side([waits, fails])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert stopped == [True]
    with pytest.raises(Interrupted):
        side_by_side([lambda _: 1], stop=StopRequest(signal_number=2))


def test_the_order_of_the_host_tells_a_crystal_from_a_melt():
    start, random = crystal(4), np.random.default_rng(0)
    sites = start.positions.numpy()
    rattled = moving(start, sites + 0.12 * random.normal(size=(40, *sites.shape)) + np.linspace(0, 3, 40)[:, None, None])
    melted = moving(start, 8.0 * random.random((40, *sites.shape)))
    swapped = sites.copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    solid, liquid = (host_order(run, start, mobile="Li") for run in (rattled, melted))
    assert solid.value > 0.95 and solid.error is not None
    assert liquid.value < 0.5 < LEAST
    assert host_order(moving(start, np.stack([swapped] * 8)), start, mobile="Li").value == pytest.approx(1.0)


def salt(*, periodic: tuple[bool, bool, bool] = (True, True, True), ordering: int = 0) -> System:
    """64 atoms listed by element: mobile ions, and two anions that change places from ordering to ordering."""
    start = crystal(4)
    parity = (start.positions / 2.0).round().sum(1).long() + ordering
    numbers = torch.where(start.numbers == MOBILE, MOBILE, HOST + parity % 2)
    cell, by_element = start.cell[0] * torch.tensor(periodic)[:, None], numbers.argsort(stable=True)
    return make_system(start.positions[by_element].numpy(), numbers[by_element].numpy(), cell.numpy(), list(periodic))


def salt_results(*starts: System) -> Results:
    """Results of a rattled run of each start at two temperatures."""
    runs = []
    for seed, start in enumerate(starts):
        places = start.positions.numpy() + 0.1 * np.random.default_rng(seed).normal(size=(40, start.n_atoms, 3))
        runs.append(replace(moving(start, places), times=50.0 * torch.arange(40, dtype=torch.float64)))
    values = [dict.fromkeys(("temperature", "volume", "us_per_atom_step"), exactly(1.0))] * len(runs)
    students = [1] * len(runs)
    made = [
        Production(temperature_K=t, trajectories=runs, students=students, values=values, start=starts[0], sites=starts)
        for t in (600.0, 700.0)
    ]
    given = {"mobile": MOBILE, "charge": 0.0, "pressure_GPa": None, "stride_fs": None, "thermostat": "bussi", "seed": 0}
    return production_results(made, **given)


@pytest.mark.parametrize("periodic", [(True, True, False), (False, True, False), (False, False, False)])
def test_a_slab_wire_or_cluster_of_a_salt_has_d_but_neither_order_nor_conductivity(periodic):
    results = salt_results(salt(periodic=periodic))
    assert "diffusivity_600K" in results.values and not any(name.startswith("conductivity") for name in results.values)
    assert results.tables[0].rows[0][4].value is None and any("was checked" in note for note in results.notes)


def test_runs_of_another_ordering_do_not_count_as_molten():
    first, second = salt(), salt(ordering=1)
    results = salt_results(first, second)
    assert results.tables[0].rows[0][4].value > 0.9 and not any("left its sites" in note for note in results.notes)
    assert host_order(moving(second, second.positions[None].numpy()), first, mobile="Li").value < LEAST, "else this shows nothing"


def job(**changed) -> _Job:
    settings = replace(ProductionSettings(runs=2, time_ps=10.0, target=0.1, max_minutes=10.0), **changed)
    return _Job([crystal()], [], (500.0, 700.0), settings, None, MOBILE, KINDS["crystal"], 0.0, 0, None, (), StopRequest())  # type: ignore[arg-type]


def test_runs_grow_where_the_target_is_missed_as_far_as_the_time_allows():
    spent = _Lengths(time_ps={"500": 10.0, "700": 10.0}, minutes={"500": 1.0, "700": 1.0})
    assert job()._next(spent, {500.0: 0.09, 700.0: 0.1}) == {}
    assert job()._next(spent, {500.0: 0.12, 700.0: 0.05}) == {"500": pytest.approx(15.9)}
    assert job()._next(spent, {500.0: 1.0, 700.0: math.inf}) == {"500": pytest.approx(30.0), "700": pytest.approx(20.0)}
    scarce = (2.0 + 1.5) / torch.get_num_threads()
    assert job(max_minutes=scarce)._next(spent, {500.0: 1.0, 700.0: math.inf}) == pytest.approx({"500": 20.0, "700": 15.0})
    assert job(max_minutes=1.0 / torch.get_num_threads())._next(spent, {500.0: 1.0, 700.0: math.inf}) == {}


SPRINGS = Conservative(NearestSprings())


def fcc(length: float = 2.0) -> System:
    """32 atoms, neighbours at 2 Å, four mobile."""
    corners = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)], dtype=float)
    sites = (corners[:, None] + [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]).reshape(-1, 3)
    edge = length * 2**0.5
    return make_system(edge * sites, np.where(np.arange(32) % 8 == 0, MOBILE, HOST), 2.0 * edge * np.eye(3), [True] * 3)


SHORT = ProductionSettings(
    runs=2, time_ps=0.6, equilibration_ps=0.1, cell_ps=0.2, atoms=1, ions=1, every_fs=20.0, max_minutes=1e-4, time_step_fs=4.0
)


def trajectories(folder) -> list[np.ndarray]:
    return [read_hdf5(folder / "600K" / f"run-{k}" / "trajectory.h5").positions.numpy() for k in (1, 2)]


def test_a_slab_has_no_cell_eight_times_as_large(tmp_path):
    bulk = fcc()
    start = make_system(bulk.positions.numpy(), bulk.numbers.numpy(), bulk.cell[0].numpy() * [[1], [1], [0]], [True, True, False])
    short = replace(SHORT, runs=1)
    results = produce([start], [SPRINGS], [30.0], short, tmp_path, mobile=MOBILE, seed=1)
    assert "diffusivity_30K" in results.values and not (tmp_path / "30K" / "large").exists()


@pytest.fixture(scope="module")
def produced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("production")
    results = produce([fcc()], [SPRINGS, SPRINGS], [600.0], SHORT, folder, mobile=MOBILE, seed=1)
    return folder, results


def test_runs_are_independent_and_their_state_is_told(produced):
    folder, results = produced
    first, second = trajectories(folder)
    assert not np.allclose(first[0], second[0])
    row = next(table for table in results.tables if table.name == "production").rows[0]
    assert row[0] == "600" and row[2].unit == "GPa" and row[4].value > 0.9
    assert any("before D was known" in note for note in results.notes)
    assert results.values["diffusivity_600K"].value is None, "no ion hops"


def test_an_interrupted_production_continues_bit_for_bit(produced, tmp_path):
    folder, _ = produced
    calls = iter(range(10**6))

    class Soon(StopRequest):
        def pending(self) -> bool:
            return next(calls) > 500

    again = [[fcc()], [SPRINGS, SPRINGS], [600.0], SHORT, tmp_path]
    with pytest.raises(Interrupted):
        produce(*again, mobile=MOBILE, seed=1, stop=Soon(signal_number=2))
    produce(*again, mobile=MOBILE, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(trajectories(folder), trajectories(tmp_path), strict=True))


def test_a_fixed_cell_stays_and_tells_its_pressure(tmp_path):
    start = fcc(1.95)
    results = produce([start], [SPRINGS], [300.0], replace(SHORT, fixed_cell=True, runs=1), tmp_path, mobile=None)
    assert not (tmp_path / "300K" / "npt-1").exists()
    assert np.allclose(read_hdf5(tmp_path / "300K" / "run-1" / "trajectory.h5").cell[-1].numpy(), start.cell[0].numpy())
    assert any("the cell was fixed" in note for note in results.notes)


def test_no_line_is_drawn_across_a_measured_phase_change():
    salt = make_system(np.zeros((8, 3)), np.array([11] * 3 + [15] + [16] * 4), 9.0 * np.eye(3), [True] * 3)
    changes = phase_changes(repeated(salt, (2, 1, 1)))
    assert [change.kelvin for change in changes] == [523.0, 773.0] and phase_changes(crystal()) == []
    assert one_phase([500.0, 600.0, 700.0, 900.0], changes) == {600.0, 700.0}
    assert one_phase([500.0, 900.0], changes) == {900.0} and one_phase([], changes) == set()
    assert [change.kelvin for change in crossed([600.0, 800.0], changes)] == [773.0]

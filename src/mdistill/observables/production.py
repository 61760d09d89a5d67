"""Results of production: state of its runs, transport, shift by the size of the cell, order of the host, phase changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ase.data import chemical_symbols

from mdistill.analysis.diffusion import diffusivity
from mdistill.estimates import Estimate, unknown
from mdistill.observables.barostat import off_target
from mdistill.observables.host_order import LEAST, host_order
from mdistill.observables.phase_changes import PhaseChange, crossed, one_phase, phase_changes
from mdistill.observables.points import Runs
from mdistill.observables.trajectories import transport_results
from mdistill.runs.results import Cell, Results, Table, merge
from mdistill.types import System, Trajectory

SIZE_SHIFT = "finite_size_ratio"
"""D in a cell eight times as large over D, both of the first student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """Runs at one temperature.

    Attributes:
        temperature_K: Temperature set, K.
        trajectories: One a run.
        students: Number of the student of each run, from 1.
        values: Averages of each run, as of `simulate`.
        start: Structure of the first ordering.
        sites: Structure with the sites of the host of each run: its ordering.
        large: A run in a cell eight times as large, by student 1.
    """

    temperature_K: float
    trajectories: Sequence[Trajectory]
    students: Sequence[int]
    values: Sequence[Mapping[str, Estimate]]
    start: System
    sites: Sequence[System]
    large: Trajectory | None = None

    def mean(self, name: str) -> Estimate:
        """Mean over the runs of an average; its error is that of the runs."""
        known = [one[name] for one in self.values if name in one and one[name].value is not None]
        if not known:
            return unknown()
        total = known[0]
        for one in known[1:]:
            total = total + one
        return total.scaled(1.0 / len(known), total.unit)

    @property
    def pressure(self) -> Estimate | None:
        """Mean pressure, GPa; None where there is no stress."""
        mean = self.mean("pressure")
        return None if mean.value is None else mean


def production_results(
    produced: Sequence[Production], *, mobile: int | None, charge: float, pressure_GPa: float | None, stride_fs: float | None,
    thermostat: str, seed: int, notes: Sequence[str] = (),
) -> Results:  # fmt: skip
    """State, transport and caveats of all temperatures.

    Args:
        produced: Runs by temperature.
        mobile: Atomic number of the mobile ion; None for dynamics only.
        charge: Its charge, e; 0: its usual charge.
        pressure_GPa: Pressure asked for; None: the cell was fixed.
        stride_fs: Stride of the map that student 1 used.
        thermostat: Thermostat, for its citation.
        seed: Seed of the draws of the collective diffusivity.
        notes: Notes of the runs.
    """
    symbol = None if mobile is None else chemical_symbols[mobile]
    orders = {p.temperature_K: unknown() if symbol is None else _order(p, symbol) for p in produced}
    solid = [kelvin for kelvin, order in orders.items() if order.value is None or order.value >= LEAST]
    changes = phase_changes(produced[0].start)
    said = [*notes, *_state_notes(produced, pressure_GPa), *_order_notes(orders), *_change_notes(list(orders), changes)]
    if symbol is not None and not bool(produced[0].start.pbc.all()):
        said.append("a direction is open: neither whether the host left its sites (a melt) nor the size of the cell was checked")
    citations = [*{change.citation: None for change in crossed(list(orders), changes)}]
    citations += ["bussi" if thermostat == "bussi" else "baoab", *([] if pressure_GPa is None else ["cell-rescaling"])]
    table = _table(produced, orders, stride_fs=stride_fs, pressure_GPa=pressure_GPa)
    dynamics = Results(command="production", tables=[table], citations=citations, notes=said)
    if symbol is None:
        return dynamics
    runs = [
        Runs(temperature_K=p.temperature_K, trajectories=p.trajectories, students=p.students, pressure=p.pressure)
        for p in produced
    ]
    transport = transport_results(runs, species=symbol, charge=charge, seed=seed, phase=one_phase(solid, changes))
    return merge(dynamics, merge(transport, _size_results(produced, symbol)))


def _table(
    produced: Sequence[Production], orders: Mapping[float, Estimate], *, stride_fs: float | None, pressure_GPa: float | None
) -> Table:
    rows: list[list[Cell]] = []
    for p in produced:
        runs, duration = p.trajectories, float((p.trajectories[0].times[-1] - p.trajectories[0].times[0]) / 1000.0)
        row: list[Cell] = [f"{p.temperature_K:g}", p.mean("temperature"), p.mean("pressure")]
        row += [p.mean("volume").scaled(1.0 / p.start.n_atoms, "Å³/atom"), orders[p.temperature_K], str(p.start.n_atoms)]
        rows.append([*row, f"{len(runs)} × {duration:.4g}", p.mean("us_per_atom_step")])
    cell = "in the relaxed cell" if pressure_GPa is None else f"in the mean cell of NpT runs at {pressure_GPa:g} GPa"
    strides = "" if stride_fs is None else f" Student 1 in strides of {stride_fs:g} fs."
    return Table(
        name="production", title="Production MD", section="dynamics", rows=rows,
        columns=[
            "T set (K)", "T measured (K)", "P (GPa)", "volume (Å³/atom)", "host order", "atoms", "runs (ps)",
            "speed (µs/atom/step)",
        ],
        caption=f"NVT {cell}.{strides} Host order: share of host atoms near a site of the relaxed structure; 1: crystal.",
    )  # fmt: skip


def _order(p: Production, symbol: str) -> Estimate:
    """The lowest order of the runs."""
    orders = [host_order(run, sites, mobile=symbol) for run, sites in zip(p.trajectories, p.sites, strict=True)]
    known = [order for order in orders if order.value is not None]
    return min(known, key=lambda order: order.value or 0.0, default=unknown())


def _change_notes(temperatures_K: Sequence[float], changes: Sequence[PhaseChange]) -> list[str]:
    """Measured phase changes within the range."""
    return [
        f"measured phase change at {change.kelvin:g} K, {change.phases}: the Arrhenius line stays on one side of it, though "
        "these runs may stay in the phase that they began in"
        for change in crossed(temperatures_K, changes)
    ]


def _order_notes(orders: Mapping[float, Estimate]) -> list[str]:
    lost = [f"{kelvin:g} K" for kelvin, order in orders.items() if order.value is not None and order.value < LEAST]
    if not lost:
        return []
    return [f"{', '.join(lost)}: the host left its sites: a melt or another phase. No Arrhenius line is drawn through it"]


def _state_notes(produced: Sequence[Production], pressure_GPa: float | None) -> list[str]:
    """Pressures that are not those asked for."""
    notes = []
    for p in produced:
        pressure, target = p.pressure, pressure_GPa or 0.0
        if pressure is not None and off_target(pressure, target):
            why = "the cell was fixed" if pressure_GPa is None else "equilibrate longer: --production.cell-ps"
            notes.append(f"{p.temperature_K:g} K: the runs are at {pressure.value:.2f} GPa, not at {target:g} GPa ({why})")
    return notes


def _size_results(produced: Sequence[Production], symbol: str) -> Results:
    """D in the large cell over D of the same student in the small one."""
    for p in produced:
        if p.large is None:
            continue
        small = diffusivity([t for t, k in zip(p.trajectories, p.students, strict=True) if k == 1], species=symbol).tracer
        large = diffusivity(p.large, species=symbol).tracer
        if small.value is None or large.value is None:
            which = "large" if large.value is None else "small"
            said = f"{p.temperature_K:g} K: cells of two sizes were not compared: D in the {which} one is only a bound"
            return Results(command="size", notes=[said])
        ratio = large.over(small, "")
        row: list[Cell] = [f"{p.temperature_K:g}", str(p.start.n_atoms), small, str(8 * p.start.n_atoms), large, ratio]
        columns = ["T (K)", "atoms", f"D({symbol}) (cm²/s)", "atoms", f"D({symbol}) (cm²/s)", "ratio"]
        caption = "Both of student 1. D and σ above are those of the smaller cell and are not corrected."
        table = Table("size", "Size of the cell", "transport", columns, [row], caption)
        shifted = abs((ratio.value or 1.0) - 1.0) > 2.0 * (ratio.error or 0.0)
        said = f"D is {ratio.value:.2f} times as large in a cell eight times as large: raise --production.atoms"
        return Results(command="size", values={SIZE_SHIFT: ratio}, tables=[table], notes=[said] if shifted else [])
    return Results(command="size")

"""Production MD with the student at each temperature, and transport from its trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.trajectories import read_hdf5
from mdistill.judge.trajectories import Runs, transport_results
from mdistill.nets.network import StrideMap
from mdistill.runs.results import Cell, Results, Table, merge
from mdistill.settings import child_seed
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import SimulationResult, simulate
from mdistill.types import Potential, System
from mdistill.workflows.settings import ProductionSettings


def produce(
    system: System, student: Potential, temperatures_K: Sequence[float], settings: ProductionSettings, folder: Path, *,
    mobile: int | None, seed: int = 0, stride: StrideMap | None = None, stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """NVT dynamics at each temperature, each in `folder/<T>K`, then MSD, diffusivity, conductivity and Arrhenius fit.

    Args:
        system: One structure to start from (the trained cell).
        student: Any potential.
        temperatures_K: Temperatures, K.
        settings: Length, thermostat, frames.
        folder: Finished runs in it are not repeated; an interrupted one continues.
        mobile: Atomic number of the mobile ion; None for dynamics only.
        seed: Seed of everything random.
        stride: A long-stride map to use in place of time steps.
        stop: Checked between steps.
    """
    rows: list[list[Cell]] = []
    runs: list[Runs] = []
    for temperature in temperatures_K:
        md = SimulateSettings(
            ensemble="nvt", thermostat=settings.thermostat, temperature_K=temperature, time_ps=settings.time_ps,
            equilibration_ps=settings.equilibration_ps, time_step_fs=None if stride is not None else settings.time_step_fs,
            every_fs=settings.every_fs, seed=child_seed(seed, f"{temperature:g} K"),
        )  # fmt: skip
        done = simulate(system, student, md, folder / f"{temperature:g}K", stride=stride, stop=stop)
        rows.append([f"{temperature:g}", *_row(done)])
        runs.append(Runs(temperature_K=temperature, trajectories=[read_hdf5(done.trajectory)]))
    table = Table(
        name="production",
        title="Production MD" if stride is None else f"Production MD in strides of {stride.settings.stride_fs:g} fs",
        section="dynamics",
        rows=rows,
        columns=["T set (K)", "T measured (K)", "pressure (GPa)", "speed (ns/day)", "speed (µs/atom/step)"],
    )
    dynamics = Results(command="production", tables=[table], citations=["bussi" if settings.thermostat == "bussi" else "baoab"])
    if mobile is None:
        return replace(dynamics, notes=["No mobile ion was named: no transport properties were computed."])
    return merge(dynamics, transport_results(runs, species=mobile, charge=settings.charge, seed=child_seed(seed, "diffusivity")))


def _row(done: SimulationResult) -> list[Cell]:
    values = done.values
    picked = [values.get(name) for name in ("temperature", "pressure", "ns_per_day", "us_per_atom_step")]
    return list(picked)

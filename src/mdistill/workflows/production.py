"""Production MD: independent runs of a committee of students at each temperature, and transport from them.

Each run equilibrates at its pressure with its own student (NpT), then runs in the mean cell of its student (NVT). All runs are
made longer, by temperature, until the statistical error of D meets its target or their CPU time is spent.

Files: `<T>K/npt-<k>/`, `<T>K/run-<k>/` (k from 1), `<T>K/large/`; lengths and CPU time are in the ledger.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from ase.data import chemical_symbols

from mdistill.analysis.diffusion import diffusivity
from mdistill.data.explore import in_cell
from mdistill.data.supercell import enlarged
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.structures import repeated
from mdistill.io.trajectories import read_hdf5
from mdistill.matter.kinds import KINDS, Matter
from mdistill.matter.masses import repartitioned, usual_time_step
from mdistill.nets.network import StrideMap
from mdistill.observables.barostat import barostat_notes
from mdistill.observables.matter import matter_results
from mdistill.observables.production import Production, production_results
from mdistill.parallel import side_by_side
from mdistill.progress import Advance, progress
from mdistill.runs.ledger import Ledger, Work
from mdistill.runs.results import Results, merge
from mdistill.settings import child_seed
from mdistill.simulation.settings import QUICK_BAROSTAT_PS, SimulateSettings
from mdistill.simulation.simulate import SimulationResult, simulate
from mdistill.types import LabelledFrame, Potential, System, Trajectory
from mdistill.workflows.settings import ProductionSettings

_SHORT_PS = 1.0
"""Equilibration of an NVT run that starts from its NpT run, ps."""
_FRICTION = 5.0
_LENGTHS = Work(key="lengths")
_LARGEST_GROWTH, _SMALLEST_GROWTH, _MARGIN = 3.0, 1.05, 1.1
_FINEST_PS, _LARGE_PS = 0.1, 40.0
_Timed = tuple[SimulationResult, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run: its temperature, number from 1, and the numbers of its student and ordering from 0."""

    kelvin: float
    number: int
    student: int
    ordering: int

    @property
    def name(self) -> str:
        return f"{self.kelvin:g} K, run {self.number}"


@dataclass(slots=True)
class _Lengths:
    """Length of the runs (ps) and their CPU time (min) by temperature, as kept in the ledger."""

    time_ps: dict[str, float] = field(default_factory=dict)
    minutes: dict[str, float] = field(default_factory=dict)


def produce(
    systems: Sequence[System], students: Sequence[Potential], temperatures_K: Sequence[float], settings: ProductionSettings,
    folder: Path, *, mobile: int | None, matter: Matter = KINDS["crystal"], heavy_h: float = 0.0, seed: int = 0,
    stride: StrideMap | None = None, taught: Sequence[LabelledFrame] = (), stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Independent runs at each temperature, then MSD, diffusivity, conductivity and Arrhenius fit.

    Args:
        systems: Orderings to start from, one struct each.
        students: The committee; the first is the main one.
        temperatures_K: Temperatures, K.
        settings: Pressure, number and length of the runs.
        folder: Finished runs in it are not repeated; interrupted ones continue.
        mobile: Atomic number of the mobile ion; None for dynamics only.
        matter: Kind of matter: barostat and further results.
        heavy_h: Mass of hydrogen, u; 0: standard masses.
        seed: Seed of everything random.
        stride: A long-stride map of the first student, used in its runs in place of time steps.
        taught: Labels, with the teacher's frames that results of molecules are compared with.
        stop: Checked between steps.
    Raises:
        BlowUp: The guard stopped a run; the others are saved.
        Interrupted: A stop was requested; everything is saved.
    """
    starts = [enlarged(system, atoms=settings.atoms, ions=settings.ions, mobile=mobile) for system in systems]
    job = _Job(starts, students, tuple(temperatures_K), settings, folder, mobile, matter, heavy_h, seed, stride, taught, stop)
    return job.all()


@dataclass(frozen=True, slots=True)
class _Job:
    """Data that all runs share."""

    systems: Sequence[System]
    students: Sequence[Potential]
    temperatures: tuple[float, ...]
    settings: ProductionSettings
    folder: Path
    mobile: int | None
    matter: Matter
    heavy_h: float
    seed: int
    stride: StrideMap | None
    taught: Sequence[LabelledFrame]
    stop: StopRequest

    def all(self) -> Results:
        """Every run, made longer until its target is met; then the results."""
        runs = [self._run(kelvin, k) for kelvin in self.temperatures for k in range(self.settings.runs)]
        starts = self._starts(runs)
        lengths, first = self._lengths(), self.settings.time_ps
        wanted = {f"{kelvin:g}": lengths.time_ps.get(f"{kelvin:g}", first) for kelvin in self.temperatures}
        while True:
            done = self._lengthen(runs, starts, wanted, lengths)
            trajectories = {kelvin: self._trajectories(kelvin) for kelvin in self.temperatures}
            errors = {kelvin: self._error(mine) for kelvin, mine in trajectories.items()}
            longer = self._next(lengths, errors)
            if not longer:
                break
            wanted |= longer
        compared = self.settings.size_check and self.mobile is not None and bool(self.systems[0].pbc.all())
        large = self._large(starts, lengths) if compared else None
        produced = [
            Production(
                temperature_K=kelvin, trajectories=trajectories[kelvin],
                students=[run.student + 1 for run in runs if run.kelvin == kelvin], start=self.systems[0],
                sites=[self.systems[run.ordering] for run in runs if run.kelvin == kelvin],
                values=[one.values for run, one in zip(runs, done, strict=True) if run.kelvin == kelvin],
                large=large if kelvin == max(self.temperatures) else None,
            )
            for kelvin in self.temperatures
        ]  # fmt: skip
        settings = self.settings
        transport = production_results(
            produced, mobile=self.mobile, charge=settings.charge, pressure_GPa=None if self._fixed else settings.pressure_GPa,
            stride_fs=None if self.stride is None else self.stride.settings.stride_fs, thermostat=settings.thermostat,
            seed=child_seed(self.seed, "diffusivity"), notes=[*self._cell_notes(runs), *self._notes(lengths, errors)],
        )  # fmt: skip
        return merge(matter_results(produced, self.matter, folder=self.folder, taught=self.taught), transport)

    @property
    def _fixed(self) -> bool:
        return self.settings.fixed_cell or not all(bool(system.pbc.all()) for system in self.systems)

    def _run(self, kelvin: float, k: int) -> _Run:
        members, orderings = len(self.students), len(self.systems)
        return _Run(kelvin=kelvin, number=k + 1, student=k % members, ordering=k // members % orderings)

    def _home(self, run: _Run, kind: str) -> Path:
        return self.folder / f"{run.kelvin:g}K" / f"{kind}-{run.number}"

    def _trajectories(self, kelvin: float) -> list[Trajectory]:
        homes = (self._home(self._run(kelvin, k), "run") for k in range(self.settings.runs))
        return [read_hdf5(home / "trajectory.h5") for home in homes]

    def _starts(self, runs: Sequence[_Run]) -> list[System]:
        """Start of each run: its last NpT structure in the mean cell of its student, or the structure as it is."""
        if self._fixed:
            return [self.systems[run.ordering] for run in runs]
        settings = self.settings
        length = self.matter.settling * (settings.equilibration_ps + settings.cell_ps)
        jobs = [self._job(run, "npt", self.systems[run.ordering], self._npt(run)) for run in runs]
        title = f"production: {len(runs)} runs of {length:g} ps at {settings.pressure_GPa:g} GPa"
        done = [result for result, _ in self._together(title, jobs, steps=len(runs) * self._steps(length))]
        cells = [read_hdf5(one.trajectory).cell.double().mean(0) for one in done]
        same = [[j for j, other in enumerate(runs) if _alike(run, other)] for run in runs]
        return [
            in_cell(one.state.system, torch.stack([cells[j] for j in mine]).mean(0)) for one, mine in zip(done, same, strict=True)
        ]

    def _lengthen(
        self, runs: Sequence[_Run], starts: Sequence[System], wanted: dict[str, float], lengths: _Lengths
    ) -> list[SimulationResult]:
        """Bring every run to the length wanted at its temperature; its CPU time is added up."""
        jobs = []
        for run, start in zip(runs, starts, strict=True):
            md = self._nvt(run.kelvin, wanted[f"{run.kelvin:g}"], child_seed(self.seed, run.name))
            jobs.append(self._job(run, "run", start, md))
        more = {name: ps - lengths.time_ps.get(name, -_SHORT_PS) for name, ps in wanted.items()}
        steps = self.settings.runs * self._steps(sum(more.values()))
        lengths.time_ps |= wanted
        self._keep(lengths)
        title = "production: " + ", ".join(f"{kelvin} K to {ps:g} ps" for kelvin, ps in wanted.items())
        done = self._together(title, jobs, steps=steps)
        for run, (_, minutes) in zip(runs, done, strict=True):
            name = f"{run.kelvin:g}"
            lengths.minutes[name] = lengths.minutes.get(name, 0.0) + minutes
        self._keep(lengths)
        return [result for result, _ in done]

    def _keep(self, lengths: _Lengths) -> None:
        Ledger(self.folder).keep(_LENGTHS, {"time_ps": lengths.time_ps, "minutes": lengths.minutes})

    def _npt(self, run: _Run) -> SimulateSettings:
        settings, longer = self.settings, self.matter.settling
        return SimulateSettings(
            ensemble="npt", barostat=self.matter.barostat or "anisotropic", barostat_ps=QUICK_BAROSTAT_PS, thermostat="langevin",
            compressibility_per_GPa=self.matter.compressibility_per_GPa, temperature_K=run.kelvin, friction_per_ps=_FRICTION,
            pressure_GPa=settings.pressure_GPa, time_ps=longer * settings.cell_ps, time_step_fs=settings.time_step_fs,
            equilibration_ps=longer * settings.equilibration_ps, every_fs=100.0,
            seed=child_seed(self.seed, run.name, "cell"),
        )  # fmt: skip

    def _cell_notes(self, runs: Sequence[_Run]) -> list[str]:
        """Warnings about the NpT runs that gave the cells."""
        runs = () if self._fixed else runs
        found = {run.name: barostat_notes(self._home(run, "npt") / "log.csv", self._npt(run)) for run in runs}
        return [f"{name}, NpT for its cell: {note}" for name, notes in found.items() for note in notes]

    def _nvt(self, kelvin: float, time_ps: float, seed: int) -> SimulateSettings:
        settings = self.settings
        return SimulateSettings(
            ensemble="nvt", thermostat=settings.thermostat, temperature_K=kelvin, time_ps=time_ps,
            equilibration_ps=settings.equilibration_ps if self._fixed else _SHORT_PS, time_step_fs=settings.time_step_fs,
            every_fs=settings.every_fs, seed=seed,
        )  # fmt: skip

    def _job(self, run: _Run, kind: str, start: System, md: SimulateSettings) -> Callable[[Advance, StopRequest], _Timed]:
        """A run as a job that returns its result and its CPU minutes."""
        stride = self.stride if run.student == 0 and kind == "run" else None
        md = md if stride is None else replace(md, time_step_fs=None)
        student, home = self.students[run.student], self._home(run, kind)

        def job(advance: Advance, stop: StopRequest) -> _Timed:
            begin = time.thread_time()
            masses = repartitioned(start, self.heavy_h)
            done = simulate(start, student, md, home, stride=stride, advance=advance, stop=stop, masses=masses)
            return done, (time.thread_time() - begin) / 60.0

        return job

    def _together(self, title: str, jobs: Sequence[Callable[[Advance, StopRequest], _Timed]], *, steps: float) -> list[_Timed]:
        with progress(title, round(steps)) as advance:

            def shown(n: float = 1, _note: str = "") -> None:
                advance(n)

            return side_by_side([partial(job, shown) for job in jobs], stop=self.stop)

    def _steps(self, time_ps: float) -> int:
        step = self.settings.time_step_fs or usual_time_step(self.systems[0])
        return round(1000.0 * time_ps / step)

    def _lengths(self) -> _Lengths:
        known = Ledger(self.folder).kept(_LENGTHS)
        return _Lengths() if known is None else _Lengths(**known)

    def _error(self, trajectories: Sequence[Trajectory]) -> float:
        """Relative statistical error of D; infinite below detection; 0 without a mobile ion."""
        if self.mobile is None:
            return 0.0
        tracer = diffusivity(trajectories, species=chemical_symbols[self.mobile]).tracer
        return (tracer.error or math.inf) / tracer.value if tracer.value else math.inf

    def _next(self, lengths: _Lengths, errors: dict[float, float]) -> dict[str, float]:
        """Longer lengths where the target is not met, as far as the CPU time allows; empty: production is over."""
        target, growth = self.settings.target, {}
        for kelvin, error in errors.items():
            if error > target:
                growth[f"{kelvin:g}"] = min(_MARGIN * (error / target) ** 2, _LARGEST_GROWTH) if math.isfinite(error) else 2.0
        left = self._allowed() - sum(lengths.minutes.values())
        cost = sum((factor - 1.0) * lengths.minutes[name] for name, factor in growth.items())
        share = min(1.0, left / cost) if cost > 0.0 else 0.0
        grown = {name: 1.0 + share * (factor - 1.0) for name, factor in growth.items()}
        return {
            name: math.ceil(factor * lengths.time_ps[name] / _FINEST_PS) * _FINEST_PS
            for name, factor in grown.items() if factor > _SMALLEST_GROWTH
        }  # fmt: skip

    def _allowed(self) -> float:
        """CPU minutes of all runs."""
        return self.settings.max_minutes * torch.get_num_threads()

    def _notes(self, lengths: _Lengths, errors: dict[float, float]) -> list[str]:
        target, missed = self.settings.target, []
        for kelvin, error in errors.items():
            if error > target:
                reached = "no value" if math.isinf(error) else f"{100.0 * error:.0f} %"
                missed.append(f"{kelvin:g} K ({reached} after {lengths.time_ps[f'{kelvin:g}']:g} ps)")
        spent, fix = f"{sum(lengths.minutes.values()):.1f} CPU minutes", "raise --production.max-minutes for a smaller error"
        known = f"before D was known to {100.0 * target:g} % at {', '.join(missed)}"
        return [f"production ended with its time ({spent}) {known}: {fix}"] if missed else []

    def _large(self, starts: Sequence[System], lengths: _Lengths) -> Trajectory:
        """One run at the highest temperature in a cell eight times as large, by the first student."""
        kelvin = max(self.temperatures)
        start = starts[self.temperatures.index(kelvin) * self.settings.runs]
        mine = sum(self._run(kelvin, k).student == 0 for k in range(self.settings.runs))
        time_ps = max(lengths.time_ps[f"{kelvin:g}"] * mine / 8.0, min(_LARGE_PS, lengths.time_ps[f"{kelvin:g}"]))
        md = replace(self._nvt(kelvin, time_ps, child_seed(self.seed, "large")), equilibration_ps=2.0)
        with progress(f"production: a cell eight times as large, {kelvin:g} K", self._steps(time_ps + 2.0)) as advance:
            home = self.folder / f"{kelvin:g}K" / "large"
            done = simulate(repeated(start, (2, 2, 2)), self.students[0], md, home, advance=advance, stop=self.stop)
        return read_hdf5(done.trajectory)


def _alike(first: _Run, second: _Run) -> bool:
    return (first.kelvin, first.student, first.ordering) == (second.kelvin, second.student, second.ordering)

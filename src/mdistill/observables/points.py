"""Runs of one temperature: tracer diffusivity, conductivity, motion, and the errors of a committee of students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mdistill.analysis.committee import Committee, committee_estimate, with_model_error
from mdistill.analysis.conductivity import conductivity, mean_volume
from mdistill.analysis.diffusion import Diffusion, diffusivity
from mdistill.analysis.settings import DiffusionSettings
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.observables.motion import Motion, measure_motion
from mdistill.runs.results import Cell, Quantity
from mdistill.types import Trajectory

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Independent runs of one state.

    Attributes:
        temperature_K: Temperature (K); None where unknown: no conductivity.
        trajectories: Unwrapped trajectories of the same atoms, one a run.
        students: Number of the student that made each run; empty: one model.
        pressure: Mean pressure, GPa; None where it is not known.
    Raises:
        BadInput: No trajectory, or another number of students than of trajectories.
    """

    temperature_K: float | None
    trajectories: Sequence[Trajectory]
    students: Sequence[int] = ()
    pressure: Estimate | None = None

    def __post_init__(self) -> None:
        runs, students = len(self.trajectories), len(self.students)
        if not runs or students not in (0, runs):
            allowed = "at least one run, and a student for each or none"
            raise BadInput(
                "runs", f"{runs} trajectories, {students} students", allowed=allowed, fix="name the student of each run"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One temperature.

    Attributes:
        temperature: Temperature (K); None where unknown.
        tracer: Tracer diffusivity of all runs together, with its statistical error.
        volume: Mean volume (Å³); None: an open cell.
        estimates: The headline quantities; with a committee their errors are total ones.
        motion: Collective motion, directions, hops.
        students: Tracer diffusivity of the runs of each student; empty without a committee.
        committee: Statistical and model error of the diffusivity; None where fewer than two students have measured it.
        pressure: Mean pressure, GPa; None where it is not known.
    """

    temperature: float | None
    tracer: Diffusion
    volume: float | None
    estimates: dict[Quantity, Estimate]
    motion: Motion
    students: dict[int, Diffusion] = field(default_factory=dict)
    committee: Committee | None = None
    pressure: Estimate | None = None

    @property
    def suffix(self) -> str:
        return f"_{self.temperature:g}K" if self.temperature else ""

    @property
    def label(self) -> str:
        return f"{self.temperature:g} K" if self.temperature else self.tracer.species

    @property
    def values(self) -> dict[str, Estimate]:
        """All named estimates of results.json, without the temperature in the name."""
        values: dict[str, Estimate] = {str(kind): estimate for kind, estimate in self.estimates.items()}
        for kind, estimate in self.estimates.items():
            values |= {f"{kind}_{name}": part for name, part in self._parts(estimate).items()}
        if self.motion.collective.haven.interval is not None:
            values["haven_ratio"] = self.motion.collective.haven
        if self.motion.correlated is not None and self.motion.correlated.interval is not None:
            values["conductivity_collective"] = self.motion.correlated
        return values

    def shown(self, kind: Quantity) -> Cell:
        """An estimate as a table cell; with a committee "value ± statistical ± model"."""
        estimate = self.estimates.get(kind)
        if estimate is None or estimate.value is None or self.committee is None:
            return estimate
        return parts_text(estimate.value, *(float(part.value or 0.0) for part in self._parts(estimate).values()))

    def _parts(self, estimate: Estimate) -> dict[str, Estimate]:
        """Statistical and model error in the unit of the estimate, which is proportional to the diffusivity."""
        if self.committee is None:
            return {}
        factor = float(estimate.value or 0.0) / float(self.committee.total.value or 1.0)
        parts = {"statistical": self.committee.statistical, "model": self.committee.model}
        return {name: part.scaled(factor, estimate.unit) for name, part in parts.items()}


def measure(runs: Sequence[Runs], symbol: str, charge: float, settings: DiffusionSettings) -> list[Point]:
    """Everything that is measured from the runs of each temperature; see `transport_results`.

    Three students say little about their own scatter: the relative model error of a temperature is at least the median over all
    temperatures (`benchmarks/studies/committee_intervals.py`).
    """
    found = [_tracer(one, symbol, settings) for one in runs]
    models = [_model(committee) for _, _, committee in found if committee is not None]
    least = float(np.median(models)) if models else 0.0
    points = []
    for one, (tracer, students, own) in zip(runs, found, strict=True):
        committee = None if own is None else with_model_error(own, least)
        total = tracer.tracer if committee is None else committee.total
        estimates: dict[Quantity, Estimate] = {"diffusivity": total}
        temperature, volume = one.temperature_K, _volume(one.trajectories)
        if temperature and volume:
            whole = replace(tracer, tracer=total)
            estimates["conductivity"] = conductivity(whole, charge=charge, temperature_K=temperature, volume=volume)
        motion = measure_motion(
            one.trajectories, tracer, settings, label=f"{temperature:g}" if temperature else "–", charge=charge,
            temperature_K=temperature, volume=volume, model=0.0 if committee is None else _model(committee),
        )  # fmt: skip
        points.append(
            Point(
                temperature=temperature, tracer=tracer, volume=volume, estimates=estimates, motion=motion, students=students,
                committee=committee, pressure=one.pressure,
            )
        )  # fmt: skip
    return points


def _tracer(runs: Runs, symbol: str, settings: DiffusionSettings) -> tuple[Diffusion, dict[int, Diffusion], Committee | None]:
    """Tracer diffusivity of all runs and of those of each student, and both errors where two or more students measured it."""
    tracer, students = diffusivity(runs.trajectories, species=symbol, settings=settings), _students(runs, symbol, settings)
    own = {number: of.tracer for number, of in students.items()}
    return tracer, students, committee_estimate(tracer.tracer, own, {number: of.runs for number, of in students.items()})


def _model(committee: Committee) -> float:
    """Model error as a share of the value."""
    return float(committee.model.value or 0.0) / float(committee.total.value or 1.0)


def _students(runs: Runs, symbol: str, settings: DiffusionSettings) -> dict[int, Diffusion]:
    """The diffusivity of each student's runs, where there are two or more students."""
    numbers = sorted(set(runs.students))
    if len(numbers) < 2:
        return {}
    pairs = list(zip(runs.students, runs.trajectories, strict=True))
    return {
        number: diffusivity([run for student, run in pairs if student == number], species=symbol, settings=settings)
        for number in numbers
    }


def _volume(trajectories: Sequence[Trajectory]) -> float | None:
    """Mean volume (Å³) over all runs; None: an open cell."""
    volumes = [np.abs(np.linalg.det(t.cell.double().cpu().numpy())).min() for t in trajectories]
    return float(np.mean([mean_volume(t) for t in trajectories])) if min(volumes) > 1e-3 else None


def parts_text(value: float, statistical: float, model: float) -> str:
    """ "510 ± 30 ± 60": value, statistical and model error to the same digit."""
    if not value or not max(statistical, model) > 0:
        return f"{value:.4g}"
    power = math.floor(math.log10(abs(value)))
    power = 0 if -4 <= power <= 5 else power
    least, most = (math.floor(math.log10(pick(e for e in (statistical, model) if e > 0))) for pick in (min, max))
    digits = max(0, min(power - least, power - most + 1))
    text = " ± ".join(f"{number / 10.0**power:.{digits}f}" for number in (value, statistical, model))
    return f"({text}) × 10{str(power).translate(SUPERSCRIPTS)}" if power else text

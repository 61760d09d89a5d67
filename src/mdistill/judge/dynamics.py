r"""Dynamics of one structure under any NVE step, by itself and thermostatted: temperatures, structure, energy, momentum, speed.

The heat Q from a thermostat over n steps measures the error of the mean temperature, far more precisely than the mean itself.
Each time it acts it replaces a share of the kinetic energy K of f degrees of freedom by one drawn at T: its heat is on
average that share of f k_B T/2 − K. Over a run

    ⟨T_now⟩ = T − 2 Q / (n s f k_B)       s = 2 (1 − exp(−γh)) for OBABO of friction γ and step h, 1 − exp(−h/τ) for Bussi's

up to noise of mean zero, which is left out. Q = ΔH − W: W is the energy change by the steps themselves (a step that heats must be
cooled all the time). ΔH has the size of the fluctuations of H, however long the run, and sets the error. An element is
measured against all atoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Generator

from mdistill.analysis.gates import Drift, Overlap, energy_drift, rdf_overlaps
from mdistill.errors import BlowUp
from mdistill.estimates import Estimate, mean_of
from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.settings import JudgeSettings
from mdistill.matter.masses import usual_time_step
from mdistill.observables.open_cells import boxed
from mdistill.progress import Advance, silent
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.energy_correction import unheated
from mdistill.simulation.guard import Guard, total_energy
from mdistill.simulation.initial_state import without_drift
from mdistill.simulation.kinetics import degrees_of_freedom
from mdistill.simulation.langevin import Baoab, Obabo
from mdistill.simulation.propagators import Evaluate, Thermostat, innermost, inside
from mdistill.simulation.rollout import Collect, rollout
from mdistill.simulation.running_sums import means, no_steps
from mdistill.simulation.sample import at_temperature, dynamics, sample
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Propagator, State, System, Trajectory
from mdistill.units import BOLTZMANN, PS

ENSEMBLES = ("NVE", "Langevin", "Bussi")
BLOCKS = 20
"""Number of blocks of a run; more where it continues."""
Longer = Literal["", "all", "elements"]
_RDF_FRAMES = 500
_KNOWN = 0.4
"""Largest error of a mean as a share of its limit: so one of a dozen means of a correct map seldom fails by chance."""
_EQUILIBRATION_FRICTION = 10.0
_ALL, _BY_WORK, _CHANGE = "mean_temperature_K", "temperature_by_work_K", "energy_change_K"
"""Quantities of a block: mean temperature; T and W, T and ΔH of the head of this file as temperatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One run.

    Attributes:
        temperatures: Mean temperature (K) over all steps, "all" and by element, under a thermostat from its heat; errors from
            20 blocks or more that may be correlated: in a crystal near its minimum elements exchange energy slowly.
        trajectory: Frames; None where it broke.
        drift: Drift of the total energy, in NVE.
        momentum: Largest total momentum per atom at a frame, u·Å/fs, in NVE.
        broken: Why the guard stopped it, "" where it did not.
        steps: Steps taken.
    """

    temperatures: dict[str, Estimate]
    trajectory: Trajectory | None = None
    drift: Drift | None = None
    momentum: float = 0.0
    broken: str = ""
    steps: int = 0


def judged(
    nve: Propagator, ensemble: str, start: State, evaluate: Evaluate, settings: JudgeSettings, *, seed: int = 0,
    longer: Longer = "", target_K: float | None = None, stop: StopRequest = NEVER, advance: Advance = silent,
) -> Judged:  # fmt: skip
    """Run an NVE step alone or under a thermostat.

    Args:
        nve: Velocity Verlet or a long stride, with or without energy correction.
        ensemble: "NVE", "Langevin" or "Bussi".
        start: An equilibrated state at the settings' temperature.
        evaluate: The potential: energies of the frames.
        settings: Lengths.
        seed: Seed of the thermostat.
        longer: Continue, up to `longest_ps`, until the mean temperature of all atoms, or also of each element, is certain enough
            for its gate; the frames are those of the first `time_ps`.
        target_K: Target of the means. The run also continues while a mean is within its error of the limit, on either side.
            Without a target only errors count.
        stop: Checked between blocks.
        advance: Called after every block.
    """
    guard = Guard(temperature_K=settings.temperature_K or 0.0)
    plain = thermostatted(nve, ensemble, settings)
    moving = dynamics(plain, evaluate, guard, sums=True)
    every = max(1, round(settings.every_fs / nve.stride_fs))
    per_block = max(every, round(settings.time_ps * PS / nve.stride_fs / BLOCKS) // every * every)
    frames, generator = Collect(every=every), Generator().manual_seed(seed + 1)
    state = replace(evaluated(without_drift(start), evaluate), time=0.0, running_sums=no_steps(start.system))
    rows: list[dict[str, float]] = []
    most = math.ceil(BLOCKS * settings.longest_ps / settings.time_ps) if longer else BLOCKS
    for block in range(max(BLOCKS, most)):
        if block >= BLOCKS and _known(mean_temperatures(rows), settings, longer, target_K):
            break
        stop.raise_if_pending()
        before = state = unheated(state)
        try:
            state = rollout(state, moving.propagator, steps=per_block, generator=generator, guard=guard, leap=every,
                            observers=[frames] if block < BLOCKS else [], first_step=block * per_block)  # fmt: skip
        except BlowUp as error:
            return Judged(temperatures=mean_temperatures(rows), broken=f"step {error.step}: {error.reason}", steps=error.step)
        assert before.running_sums is not None  # noqa: S101
        rows.append({k: v for k, v in means(state, before.running_sums).items() if v is not None})
        if (share := _replaced(plain)) > 0.0:
            kelvins = 2.0 / (per_block * share * float(degrees_of_freedom(state)[0]) * BOLTZMANN)
            rows[-1][_CHANGE] = kelvins * float((total_energy(state) - total_energy(before))[0])
            rows[-1][_BY_WORK] = (settings.temperature_K or 0.0) + rows[-1][_CHANGE] - kelvins * heat_between(before, state)
        advance(1 if block < BLOCKS else 0, "" if block < BLOCKS else f"{ensemble}: longer, {block + 1} blocks")
    run, conserving = frames.trajectory(), ensemble == "NVE"
    return Judged(
        temperatures=mean_temperatures(rows),
        trajectory=run,
        drift=_drift(frames.states) if conserving else None,
        momentum=max(float((s.momenta.sum(0) / s.system.n_atoms).norm()) for s in frames.states) if conserving else 0.0,
        steps=len(rows) * per_block,
    )


def thermostatted(nve: Propagator, ensemble: str, settings: JudgeSettings) -> Propagator:
    """The propagator of an ensemble; an energy correction goes around the thermostat."""
    kelvin = settings.temperature_K or 0.0
    thermostats: dict[str, Callable[[Propagator], Propagator]] = {
        "Langevin": lambda step: Obabo(inner=step, temperature_K=kelvin, friction_per_ps=settings.friction_per_ps),
        "Bussi": lambda step: Bussi(inner=step, temperature_K=kelvin, relaxation_fs=settings.relaxation_fs),
    }
    return inside(nve, thermostats[ensemble]) if ensemble in thermostats else nve


def _replaced(propagator: Propagator) -> float:
    """Share of the kinetic energy that a thermostat replaces in a step (s above); 0 for none."""
    step = innermost(propagator)
    return step.share_replaced if isinstance(step, Thermostat) else 0.0


def heat_between(before: State, after: State) -> float:
    """Heat from a thermostat since `before`, eV: as counted, or for energy-conserving steps the change of the energy."""
    if after.heat is not None:
        return float(after.heat[0])
    conserved = [float(total_energy(s)[0]) + (0.0 if s.energy_debt is None else float(s.energy_debt[0])) for s in (before, after)]
    return conserved[1] - conserved[0]


def _known(temperatures: dict[str, Estimate], settings: JudgeSettings, which: Longer, target_K: float | None) -> bool:
    """Whether the mean temperature, or that of each element too, has a small enough error and no limit is within it."""
    for name, mean in temperatures.items():
        limit, error = settings.temperature_limit_K if name == "all" else settings.element_limit_K, mean.error or 0.0
        if name != "all" and which != "elements":
            continue
        if error > _KNOWN * limit:
            return False
        if target_K is not None and mean.value is not None and abs(abs(mean.value - target_K) - limit) < error:
            return False
    return True


def mean_temperatures(rows: list[dict[str, float]]) -> dict[str, Estimate]:
    """Means over blocks, by "all" and element; errors allow for correlated blocks. Under a thermostat the mean of all follows
    from its heat, and elements are measured against it."""
    temperatures: dict[str, Estimate] = {}
    if not rows:
        return temperatures
    column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    sharp = _by_heat(column[_BY_WORK], column[_CHANGE]) if _BY_WORK in column else None
    for name, series in column.items():
        if name == _ALL:
            temperatures["all"] = sharp or mean_of(series, unit="K")
        elif name.startswith("mean_T_"):
            mean = mean_of(series if sharp is None else series - column[_ALL], unit="K")
            temperatures[name.removeprefix("mean_T_").removesuffix("_K")] = mean if sharp is None else mean + sharp
    return temperatures


def _by_heat(by_work: np.ndarray, change: np.ndarray) -> Estimate:
    """The mean temperature from the heat of a thermostat."""
    blocks = len(change)
    left = 2.0**0.5 * float(change.cumsum().std(ddof=1)) / blocks if blocks > 1 else None
    return mean_of(by_work, unit="K") + Estimate(value=-float(change.sum()) / blocks, error=left, unit="K", samples=blocks)


def _drift(states: list[State]) -> Drift:
    times = np.array([state.time for state in states])
    return energy_drift(times, np.array([float(total_energy(state)[0]) for state in states]), states[0].system.n_atoms)


def reversal_error(nve: Propagator, start: State, strides: int) -> float:
    """Largest distance (Å) from the start after `strides` strides, reversed momenta, and as many strides back."""
    generator = Generator().manual_seed(0)
    there = rollout(start, nve, steps=strides, generator=generator)
    back = rollout(replace(there, momenta=-there.momenta), nve, steps=strides, generator=generator)
    return float((back.system.positions - start.system.positions).norm(dim=1).max())


def likeness(first: Trajectory, second: Trajectory) -> dict[str, Overlap]:
    """Overlap of the RDFs of every pair of elements in two trajectories, from up to 500 frames of each."""
    one, other = boxed(_thinned(first), _thinned(second))
    return {pair: difference for pair, (_, _, difference) in rdf_overlaps(one, other).items()}


def _thinned(run: Trajectory) -> Trajectory:
    every = -(-len(run.times) // _RDF_FRAMES)
    momenta = None if run.momenta is None else run.momenta[::every]
    return replace(run, positions=run.positions[::every], cell=run.cell[::every], times=run.times[::every], momenta=momenta)


def small_steps(evaluate: Evaluate, system: System, settings: JudgeSettings) -> VelocityVerlet:
    """The time steps that a map is compared with."""
    return VelocityVerlet(evaluate=evaluate, time_step=settings.time_step_fs or 0.5 * usual_time_step(system))


def equilibrated_start(small: VelocityVerlet, system: System, settings: JudgeSettings, *, seed: int = 0) -> State:
    """A state at the temperature of the judgement, after Langevin dynamics with time steps."""
    kelvin, generator = settings.temperature_K or 0.0, Generator().manual_seed(seed)
    state = at_temperature(system, small.evaluate, temperature_K=kelvin, generator=generator)
    warm = Baoab(
        evaluate=small.evaluate, time_step=small.time_step, temperature_K=kelvin, friction_per_ps=_EQUILIBRATION_FRICTION
    )
    steps = max(1, round(settings.equilibration_ps * PS / warm.stride_fs))
    again = Generator().manual_seed(seed)
    state, _ = sample(state, dynamics(warm, small.evaluate), generator=again, equilibration=steps)
    return replace(state, time=0.0, running_sums=None)

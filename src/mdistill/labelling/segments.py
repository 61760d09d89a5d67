"""NVE segments of a potential, for training long-stride maps: from thermostatted states, or from files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.data.segments import Segment, cut, read_segments, write_segments
from mdistill.derivatives import tell_heating
from mdistill.errors import BadInput
from mdistill.graph import cast
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.import_trajectory import read_trajectory
from mdistill.labelling.settings import SegmentSettings
from mdistill.matter.masses import usual_time_step
from mdistill.progress import Advance, progress
from mdistill.runs.identity import model_id, structure_digests
from mdistill.runs.ledger import Ledger, Work
from mdistill.settings import amended, stream
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.guard import Guard, total_energy
from mdistill.simulation.initial_state import standard_masses, without_drift
from mdistill.simulation.propagators import Evaluate
from mdistill.simulation.sample import Dynamics, at_temperature, dynamics, langevin, sample
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Potential, State, System, Trajectory
from mdistill.units import BOLTZMANN, KINETIC, PS

_VANISHED, _LONGEST_FS = 0.1, 400.0
_WANDERING, _LOOKED_AT = 0.2, 20


def make_segments(
    systems: Sequence[System], potential: Potential, settings: SegmentSettings, folder: Path, *, seed: int = 0,
    stop: StopRequest = NEVER,
) -> list[Segment]:  # fmt: skip
    """NVE segments of every structure at every temperature and strain; segments in the folder are not computed again.

    Starts are drawn from Langevin dynamics, one velocity-correlation time apart. With a compiled student they cost
    almost nothing.

    Args:
        systems: Structures of the same atoms, Å.
        potential: The potential of the dynamics.
        settings: Number, length and temperatures.
        folder: Folder for one file per structure, temperature and strain.
        seed: Seed of everything random.
    Raises:
        BadInput: The folder holds segments of other settings or another potential.
        BlowUp: The dynamics left the physical range.
        Interrupted: A stop was requested; finished files are stored.
    """
    inputs, models = {"structures": structure_digests(*systems)}, {"potential": model_id(potential)}
    work, ledger = Work(key="segments", settings=amended(settings, {"seed": seed}), inputs=inputs, models=models), Ledger(folder)
    ledger.resumes(work, holds="segments", may_change=("version",), files=("segments-*.npz",))
    tasks = [
        (k, kelvin, strain) for k in range(len(systems)) for kelvin in settings.temperatures_K for strain in settings.strains
    ]
    segments: list[Segment] = []
    tell_heating(potential, "a student with an energy: mdistill distill STRUCTURE --teacher MODEL")
    with progress("segments", len(tasks) * settings.segments, unit="segment") as advance:
        for number, (k, kelvin, strain) in enumerate(tasks):
            path = folder / f"segments-{number:03d}.npz"
            if path.is_file():
                advance(settings.segments)
            else:
                system = _strained(cast(systems[k], dtype=torch.float64, device="cpu"), strain)
                write_segments(path, _at(system, potential, settings, kelvin, _Task(number, seed, stop, advance)))
            segments += read_segments(path)
    ledger.finish(work)
    return segments


def recorded_segments(
    paths: Sequence[Path], system: System, potential: Potential, settings: SegmentSettings, *, frame_time_fs: float | None = None
) -> list[Segment]:
    """Recorded NVE trajectories with momenta, cut into segments of the settings' number of frames.

    Args:
        paths: Trajectories of the system's atoms in its order, in a format with momenta that `read_trajectory` reads.
        system: Sets the periodic directions.
        potential: Their potential, or one close to it.
        settings: Only `frames` is used.
        frame_time_fs: Time between frames, fs, where a file has none.
    Raises:
        BadInput: Other atoms; no momenta, too few frames, a changing cell; an energy that changes more than in NVE.
    """
    system, segments = cast(system, dtype=torch.float64, device="cpu"), list[Segment]()
    evaluate, masses = make_evaluator(potential, system), standard_masses(system)
    for path in paths:
        run = read_trajectory(path, time_step_fs=frame_time_fs).trajectory
        if not torch.equal(run.numbers, system.numbers):
            raise BadInput(path, "other atoms, or another order, than the structure", allowed="runs of that structure",
                           fix="name the structure that this run began from: --structure")  # fmt: skip
        try:
            parts = cut(run, system, masses, frames=settings.frames + 1, temperature_K=_mean_temperature(run, masses))
        except BadInput as error:
            raise BadInput(path, error.problem, allowed=error.allowed, fix=error.fix) from error
        wandering = _wandering(parts, evaluate)
        if wandering > _WANDERING:
            raise BadInput(
                path, f"total energy changes by {wandering:.2g} × √(3N/2) k_B T within {settings.frames} frames",
                allowed=f"NVE dynamics of this student or one like it: below {_WANDERING}", fix="record it without a thermostat",
            )  # fmt: skip
        segments += parts
    return segments


def _mean_temperature(run: Trajectory, masses: Float[Tensor, " atom"]) -> float:
    """Mean temperature of all frames, K; 0 without momenta."""
    if run.momenta is None:
        return 0.0
    twice = KINETIC * (run.momenta.square().sum(2) / masses).sum(1).mean()
    return float(twice) / (BOLTZMANN * max(3 * len(masses) - 3, 3))


def _wandering(parts: Sequence[Segment], evaluate: Evaluate) -> float:
    """Root mean square change of the total energy over a segment, over √(3N/2) k_B T, the fluctuation of the kinetic energy."""
    changes = []
    for part in parts[:: max(1, len(parts) // _LOOKED_AT)]:
        points = [State(system=replace(part.system, positions=part.positions[k]), momenta=part.momenta[k], masses=part.masses)
                  for k in (0, -1)]  # fmt: skip
        ends = [float(total_energy(evaluated(point, evaluate))[0]) for point in points]
        changes.append(ends[1] - ends[0])
    usual = math.sqrt(1.5 * len(parts[0].masses)) * BOLTZMANN * max(parts[0].temperature_K, 1e-3)
    return math.sqrt(sum(c * c for c in changes) / len(changes)) / usual


class _Task:
    """Number of a file, seed, stop request and progress."""

    def __init__(self, number: int, seed: int, stop: StopRequest, advance: Advance) -> None:
        self.number, self.seed, self.stop, self.advance = number, seed, stop, advance


def _at(system: System, potential: Potential, settings: SegmentSettings, kelvin: float, task: _Task) -> list[Segment]:
    guard = Guard(settings=settings.guard, temperature_K=kelvin)
    evaluate = make_evaluator(potential, system, guard=guard)
    small = settings.time_step_fs or 0.25 * usual_time_step(system)
    usual = usual_time_step(system)
    warm = langevin(evaluate, guard, temperature_K=kelvin, time_step_fs=usual, friction_per_ps=settings.friction_per_ps)
    nve = dynamics(VelocityVerlet(evaluate=evaluate, time_step=small), evaluate, guard)
    generator = stream(task.seed, f"task {task.number}")
    state = at_temperature(system, evaluate, temperature_K=kelvin, generator=generator)
    state, _ = sample(state, warm, generator=generator, equilibration=round(settings.equilibration_ps * PS / usual))
    per_frame = max(1, round(settings.every_fs / small))
    between = settings.between_fs or _correlation_time(state, nve, per_frame, settings.every_fs, generator)
    segments: list[Segment] = []
    for k in range(settings.segments):
        task.stop.raise_if_pending()
        state, _ = sample(replace(state, time=0.0), warm, generator=generator, equilibration=max(1, round(between / usual)))
        start = without_drift(state)
        _, frames = sample(start, nve, generator=generator, frames=settings.frames, every=per_frame, with_start=True)
        run = frames.trajectory()
        assert run.momenta is not None  # noqa: S101
        segments.append(
            Segment(system=system, masses=state.masses, positions=run.positions, momenta=run.momenta,
                    every_fs=per_frame * small, temperature_K=kelvin, block=k * settings.blocks // settings.segments)
        )  # fmt: skip
        task.advance(1)
    return segments


def _correlation_time(state: State, nve: Dynamics, per_frame: int, every_fs: float, generator: Generator) -> float:
    """First time (fs) from which the velocity autocorrelation of one NVE run stays below a tenth of its start."""
    count = round(_LONGEST_FS / every_fs)
    _, frames = sample(state, nve, generator=generator, frames=count, every=per_frame, with_start=True)
    run = frames.trajectory()
    assert run.momenta is not None  # noqa: S101
    scaled = run.momenta / state.masses.sqrt().unsqueeze(1)
    half = len(scaled) // 2
    origins = scaled[:half]
    decay = torch.stack([(origins * scaled[lag : lag + half]).sum() for lag in range(half + 1)])
    above = (decay / decay[0]).abs() > _VANISHED
    last = int(above.nonzero()[-1, 0])
    return min(every_fs * (last + 1), _LONGEST_FS)


def _strained(system: System, strain: float) -> System:
    return replace(system, positions=(1.0 + strain) * system.positions, cell=(1.0 + strain) * system.cell)

"""The teacher's labelling dynamics, repeated by its student.

A foundation potential runs for a picosecond or so from the relaxed structure, up a ladder of temperatures. Where ions hop, that
is far from equilibrium and differs from equilibrated dynamics, also of the teacher. So the student repeats it several times:
same start, cells, temperatures, friction and times, other random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mdistill.data.explore import in_cell
from mdistill.errors import BlowUp
from mdistill.interrupt import NEVER, StopRequest
from mdistill.labelling.plan import steps, with_time_step
from mdistill.labelling.settings import LabelSettings
from mdistill.matter.masses import repartitioned
from mdistill.progress import progress
from mdistill.settings import stream
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.rollout import Collect
from mdistill.simulation.sample import at_temperature, langevin, sample
from mdistill.simulation.settings import GuardSettings
from mdistill.types import Potential, System, Trajectory


def replay(
    student: Potential, relaxed: System, taught: LabelSettings, frames: Mapping[float, int], *, repeats: int, seed: int = 0,
    cells: Mapping[float, Tensor] | None = None, stop: StopRequest = NEVER,
) -> dict[float, Trajectory]:  # fmt: skip
    """Run the teacher's dynamics several times with the student.

    Args:
        student: The potential.
        relaxed: Start of the teacher.
        taught: Temperatures, friction, time step and times of its frames.
        frames: Number of frames by temperature. Other temperatures run for their planned length, if a named one follows.
        repeats: How often.
        cells: Cell of the teacher's frames by temperature, [3, 3] Å; otherwise that of the start.
        seed, stop: Seed; stop is checked between runs.
    Returns:
        For each of `frames`: `repeats` runs of equal length in one trajectory, one after the other.
    Raises:
        BlowUp: A run broke; the reason names the temperature.
        Interrupted: A stop was requested.
    """
    taught = with_time_step(taught, relaxed)
    evaluate, (equilibration, spacing) = make_evaluator(student, relaxed), steps(taught)
    collected = {kelvin: Collect() for kelvin in frames}
    ladder = taught.temperatures_K[: 1 + max(map(taught.temperatures_K.index, frames))]
    with progress("repeat the teacher's dynamics", repeats * len(ladder), unit="run") as advance:
        for run in range(repeats):
            system = relaxed
            for kelvin in ladder:
                system = in_cell(system, cells[kelvin]) if cells and kelvin in cells else system
                generator = stream(seed, f"replay {run}, {kelvin:g} K")
                guard = Guard(settings=GuardSettings(largest_force=taught.largest_force), temperature_K=kelvin)
                moving = langevin(evaluate, guard, temperature_K=kelvin, time_step_fs=taught.time_step_fs or 0.0,
                                  friction_per_ps=taught.friction_per_ps)  # fmt: skip
                masses = repartitioned(relaxed, taught.heavy_h)
                start = at_temperature(system, evaluate, temperature_K=kelvin, generator=generator, masses=masses)
                try:
                    state, frames_here = sample(start, moving, generator=generator, equilibration=equilibration,
                                         frames=frames.get(kelvin, taught.frames), every=spacing, stop=stop)  # fmt: skip
                except BlowUp as broken:
                    raise BlowUp(broken.step, f"{broken.reason} ({kelvin:g} K, run {run + 1} of {repeats})") from broken
                stop.raise_if_pending()
                if kelvin in collected:
                    collected[kelvin].states.extend(frames_here.states)
                system = state.system
                advance()
    return {kelvin: runs.trajectory() for kelvin, runs in collected.items()}

"""Frames of short Langevin MD of a molecule with labelled forces: every step is a label, and the kept ones need no other.

Time steps are long because hydrogen is heavy: masses do not change which structures a temperature has, only how fast they come.
The start is a thermal displacement by a force field at the same temperature, so only what the force field lacks has to relax.

Reference: K. A. Feenstra, B. Hess, H. J. C. Berendsen, J. Comput. Chem. 20, 786 (1999) (heavy hydrogen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from mdistill.graph import make_system
from mdistill.simulation.initial_state import initial_state, standard_masses
from mdistill.simulation.kinetics import prediction_of
from mdistill.simulation.langevin import Baoab
from mdistill.types import Prediction, System

HEAVY_H, STEP_FS, FRICTION_PER_PS = 4.0, 2.0, 20.0
"""Mass of hydrogen, u; time step; friction of the thermostat."""
Answer = tuple[float, Float[np.ndarray, "atom 3"]]
"""Energy, eV, and forces, eV/Å."""
Label = Callable[[Float[np.ndarray, "atom 3"]], Answer | None]
"""Energy and forces of positions (Å), or None where there are none."""


class _NoLabel(Exception):
    """A step has no label."""


def langevin_frames(
    label: Label, numbers: Int[np.ndarray, " atom"], start: Float[np.ndarray, "atom 3"], *, first: Answer | None = None,
    temperature_K: float, every_fs: float, seed: int,
) -> Iterator[tuple[Float[np.ndarray, "atom 3"], Answer]]:  # fmt: skip
    """Positions (Å) and their label every so often, without the start; it ends where a step has no label.

    Args:
        label: Energies and forces.
        numbers, start: Elements; first positions, Å.
        first: Label of the start, where it is known.
        temperature_K: Temperature of the velocities at the start and of the thermostat, K.
        every_fs: Time between frames, fs; whole steps.
        seed: Seed of velocities and thermostat.
    """

    def evaluate(system: System) -> Prediction:
        answer = label(system.positions.numpy())
        if answer is None:
            raise _NoLabel
        return prediction(answer)

    random = torch.Generator().manual_seed(seed)
    system = make_system(start, numbers, np.zeros((3, 3)), [False] * 3)
    masses = standard_masses(system).clamp_min(HEAVY_H)
    state = initial_state(system, temperature_K=temperature_K, generator=random, masses=masses)
    step = Baoab(evaluate=evaluate, time_step=STEP_FS, temperature_K=temperature_K, friction_per_ps=FRICTION_PER_PS)
    try:
        state = replace(state, prediction=evaluate(system) if first is None else prediction(first))
        while True:
            for _ in range(max(1, round(every_fs / STEP_FS))):
                state = step.step(state, random)
            now = prediction_of(state)
            yield state.system.positions.numpy().copy(), (float(now.energy), now.forces.numpy().copy())
    except _NoLabel:
        return


def prediction(answer: Answer) -> Prediction:
    """A label as a prediction."""
    return Prediction(energy=torch.tensor([answer[0]], dtype=torch.float64), forces=torch.from_numpy(answer[1]))

"""Guard: stops a simulation at the step where it leaves the physical range, and names the cause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BlowUp
from mdistill.graph import SkinList, edge_vectors, volumes
from mdistill.simulation.kinetics import atom_counts, degrees_of_freedom, kinetic_energy, prediction_of, temperature
from mdistill.simulation.settings import GuardSettings
from mdistill.types import State

_MOST_GROWTH = 5.0


@dataclass(slots=True)
class Guard:
    """guard(step, state): raises `BlowUp` where the state is unphysical.

    Attributes:
        settings: The limits.
        temperature_K: T₀ of the temperature check; None for no such check.
        reference_energy: [struct] total energy (eV) of an NVE run; None for no such check.
        reference_volume: [struct] volume (Å³) at the start of an NpT run; None for no such check.
        distances: Closest labelled distance (Å) per pair of atomic numbers (smaller first); covalent radii where missing.
    """

    settings: GuardSettings = field(default_factory=GuardSettings)
    temperature_K: float | None = None
    reference_energy: Float[Tensor, " struct"] | None = None
    reference_volume: Float[Tensor, " struct"] | None = None
    distances: Mapping[tuple[int, int], float] = field(default_factory=dict)
    _limits: tuple[Tensor, Tensor] | None = None
    _near: SkinList | None = None

    def __call__(self, step: int, state: State) -> None:
        _check_finite(step, state)
        if self.settings.on and step % self.settings.every == 0:
            self._check_volume(step, state)
            self._check_forces(step, state)
            self._check_distances(step, state)
            self._check_temperature(step, state)
            self._check_energy(step, state)

    def limits(self, state: State) -> dict[str, Any]:
        """The limits that compiled dynamics checks, by their names in `kernels.motion.Motion`."""
        if not self.settings.on:
            return {}
        known, reference = self.temperature_K is not None, self.reference_energy
        return {
            "watch_every": self.settings.every,
            "largest_force": self.settings.largest_force,
            "highest_temperature": float(self._highest_temperature(state)[0]) if known else math.inf,
            "reference_energy": math.nan if reference is None else float(reference[0]),
            "energy_change": self.settings.energy_change,
        }

    def closest_allowed(self, elements: Sequence[int]) -> Float[np.ndarray, "element element"]:
        """Closest distance allowed (Å) of every pair of these elements, ascending; 0 where the guard is off."""
        if not self.settings.on:
            return np.zeros((len(elements), len(elements)))
        limits = _pair_limits(torch.tensor(list(elements)), self.distances, self.settings.closest_pair)
        return limits[np.ix_(elements, elements)].numpy()

    def _highest_temperature(self, state: State) -> Float[Tensor, " struct"]:
        width = (2.0 / degrees_of_freedom(state)).sqrt()
        return (self.temperature_K or 0.0) * (1.0 + 8.0 * width) + self.settings.temperature_margin_K

    def _check_volume(self, step: int, state: State) -> None:
        if self.reference_volume is None:
            return
        ratio = volumes(state.system) / self.reference_volume
        worst = float(ratio[int(ratio.log().abs().argmax())])
        if not 1.0 / _MOST_GROWTH <= worst <= _MOST_GROWTH:
            does, limits = "expanded" if worst > 1.0 else "collapsed", f"{1.0 / _MOST_GROWTH:g} to {_MOST_GROWTH:g}"
            raise BlowUp(step, f"the cell {does} to {worst:.3g} times its first volume (limits {limits}): check the pressure")

    def _check_forces(self, step: int, state: State) -> None:
        size = prediction_of(state).forces.norm(dim=1)
        worst = int(size.argmax()) if len(size) else 0
        if len(size) and float(size[worst]) > self.settings.largest_force:
            raise BlowUp(
                step,
                f"force on atom {_name(state, worst)} is {float(size[worst]):.4g} eV/Å (limit {self.settings.largest_force:g})",
            )

    def _check_distances(self, step: int, state: State) -> None:
        if self._limits is None or not torch.equal(self._limits[0], state.system.numbers):
            self._limits = (state.system.numbers, _pair_limits(state.system.numbers, self.distances, self.settings.closest_pair))
        limits = self._limits[1]
        cutoff = float(limits.max()) if limits.numel() else 0.0
        if cutoff <= 0.0:
            return
        if self._near is None or self._near.cutoff != cutoff:
            self._near = SkinList(cutoff=cutoff, skin=1.0)
        graph = self._near.graph(state.system)
        length = edge_vectors(graph).norm(dim=1)
        numbers = state.system.numbers
        allowed = limits[numbers[graph.receiver], numbers[graph.sender]].to(length)
        bad = (length < allowed).nonzero()[:, 0]
        if len(bad):
            worst = int(bad[(length[bad] / allowed[bad]).argmin()])
            pair = f"{_name(state, int(graph.receiver[worst]))} and {_name(state, int(graph.sender[worst]))}"
            raise BlowUp(step, f"atoms {pair} are {float(length[worst]):.3f} Å apart (limit {float(allowed[worst]):.3f} Å)")

    def _check_temperature(self, step: int, state: State) -> None:
        if self.temperature_K is None:
            return
        limit = self._highest_temperature(state)
        kelvin = temperature(state)
        if bool((kelvin > limit).any()):
            worst = int((kelvin - limit).argmax())
            bound = f"limit {float(limit[worst]):.0f} K at a target of {self.temperature_K:g} K"
            raise BlowUp(step, f"temperature is {float(kelvin[worst]):.0f} K ({bound})")

    def _check_energy(self, step: int, state: State) -> None:
        if self.reference_energy is None:
            return
        change = (total_energy(state) - self.reference_energy) / atom_counts(state.system)
        worst = int(change.abs().argmax())
        if abs(float(change[worst])) > self.settings.energy_change:
            bound = f"limit {self.settings.energy_change:g} in an NVE run"
            raise BlowUp(step, f"total energy changed by {float(change[worst]):+.4g} eV/atom ({bound})")


def total_energy(state: State) -> Float[Tensor, " struct"]:
    """Potential plus kinetic energy, eV."""
    return prediction_of(state).energy + kinetic_energy(state)


def _check_finite(step: int, state: State) -> None:
    prediction = prediction_of(state)
    if math.isfinite(float(prediction.energy.sum() + prediction.forces.sum() + state.momenta.sum())):
        return
    if not bool(torch.isfinite(prediction.energy).all()):
        raise BlowUp(step, f"energy is not finite ({float(prediction.energy[~torch.isfinite(prediction.energy)][0])})")
    bad = ~torch.isfinite(prediction.forces).all(1)
    if bool(bad.any()):
        raise BlowUp(step, f"force on atom {_name(state, int(bad.nonzero()[0, 0]))} is not finite")
    raise BlowUp(step, "momenta are not finite")


def _pair_limits(numbers: Tensor, distances: Mapping[tuple[int, int], float], share: float) -> Tensor:
    """[Z, Z] smallest distance allowed between elements, Å; 0 for elements that are absent."""
    from ase.data import covalent_radii

    present = sorted(set(numbers.tolist()))
    limits = torch.zeros((max(present, default=0) + 1,) * 2, dtype=torch.float64, device=numbers.device)
    for a in present:
        for b in present:
            usual = distances.get((min(a, b), max(a, b)), float(covalent_radii[a] + covalent_radii[b]))
            limits[a, b] = share * (usual if math.isfinite(usual) else 0.0)
    return limits


def _name(state: State, atom: int) -> str:
    from ase.data import chemical_symbols

    owner = f" of struct {int(state.system.owner[atom])}" if state.system.n_structs > 1 else ""
    return f"{atom} ({chemical_symbols[int(state.system.numbers[atom])]}{owner})"

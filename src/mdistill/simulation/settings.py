"""How to simulate and when to stop: settings, checked at construction (no torch in here, so that help is quick)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mdistill.errors import BadInput
from mdistill.simulation.ranges import LONGEST_STEP, within


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """Limits of the guard.

    Attributes:
        on: Whether the guard watches at all; the check that energy and forces are finite stays on.
        every: Steps between two checks of forces, distances, temperature and drift; finiteness is checked at each step.
        largest_force: Largest length of a force, eV/Å.
        closest_pair: Closest distance allowed, as a share of the sum of the covalent radii (or of the closest distance in
            the labels, where the caller gives those).
        temperature_margin_K: T may reach T₀ (1 + 8 √(2/n)) plus this, K; n: degrees of freedom.
        energy_change: Largest change of the total energy since the start of an NVE run, eV/atom.
    """

    on: bool = True
    every: int = 10
    largest_force: float = 50.0
    closest_pair: float = 0.5
    temperature_margin_K: float = 200.0
    energy_change: float = 0.02

    def __post_init__(self) -> None:
        within("guard.every", self.every, 0, 1_000_000, unit="steps")
        within("guard.largest_force", self.largest_force, 0.0, 1e6, unit="eV/Å")
        within("guard.closest_pair", self.closest_pair, 0.0, 1.0, open_low=False)
        within("guard.temperature_margin_K", self.temperature_margin_K, 0.0, 1e6, unit="K", open_low=False)
        within("guard.energy_change", self.energy_change, 0.0, 1e3, unit="eV/atom")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSettings:
    """How to simulate.

    Attributes:
        ensemble: nve (velocity Verlet), nvt (thermostat) or npt (thermostat and barostat).
        thermostat: bussi rescales all velocities together and leaves diffusion alone; langevin thermalises every atom.
        barostat: isotropic changes the volume only, anisotropic lengths and angles too.
        temperature_K: Temperature, K; for nve that of the start.
        pressure_GPa: Pressure for npt, GPa.
        time_ps: Length of the run after equilibration, ps. A finished run with a longer time goes on.
        equilibration_ps: Time before that, ps: Langevin with friction 10/ps (nve, nvt) or the npt run itself; logged at negative
            times, not in the trajectory.
        time_step_fs: Time step, fs; by default 2, or 1 with hydrogen, whose bonds vibrate in 10 fs.
        friction_per_ps: Langevin friction, 1/ps.
        relaxation_fs: Relaxation time of the bussi thermostat, fs.
        barostat_ps: Relaxation time of the barostat, ps.
        compressibility_per_GPa: Rough compressibility for the barostat, 1/GPa; affects its rate, not its averages.
        save_every_fs: Time between frames (and rows of the log), fs; rounded to whole steps.
        format: Trajectory format.
        seed: Seed of velocities and thermostat; the same seed gives the same run.
        skin_A: Skin of the neighbour list, Å.
        restart_seconds: Least wall-clock time between saves, s.
        guard: When to stop a broken run.
    """

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    thermostat: Literal["bussi", "langevin"] = "bussi"
    barostat: Literal["isotropic", "anisotropic"] = "isotropic"
    temperature_K: float = 300.0
    pressure_GPa: float = 0.0
    time_ps: float = 10.0
    equilibration_ps: float = 0.0
    time_step_fs: float | None = None
    friction_per_ps: float = 1.0
    relaxation_fs: float = 100.0
    barostat_ps: float = 1.0
    compressibility_per_GPa: float = 0.03
    save_every_fs: float = 20.0
    format: Literal["hdf5", "extxyz"] = "hdf5"
    seed: int = 0
    skin_A: float = 1.2
    restart_seconds: float = 30.0
    guard: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        for name, allowed in (("ensemble", ("nve", "nvt", "npt")), ("thermostat", ("bussi", "langevin")),
                              ("barostat", ("isotropic", "anisotropic")), ("format", ("hdf5", "extxyz"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise BadInput(name, repr(getattr(self, name)), allowed=", ".join(allowed), fix=f"choose one of these for {name}")
        within("temperature_K", self.temperature_K, 0.0, 20000.0, unit="K")
        within("pressure_GPa", self.pressure_GPa, -1000.0, 10000.0, unit="GPa", open_low=False)
        within("time_ps", self.time_ps, 0.0, 1e8, unit="ps")
        within("equilibration_ps", self.equilibration_ps, 0.0, 1e8, unit="ps", open_low=False)
        if self.time_step_fs is not None:
            within("time_step_fs", self.time_step_fs, 0.0, LONGEST_STEP, unit="fs", fix="2 fs suits most solids, 1 fs hydrogen")
        within("friction_per_ps", self.friction_per_ps, 0.0, 1000.0, unit="1/ps")
        within("relaxation_fs", self.relaxation_fs, 0.0, 1e6, unit="fs")
        within("barostat_ps", self.barostat_ps, 0.0, 1e6, unit="ps")
        within("compressibility_per_GPa", self.compressibility_per_GPa, 0.0, 1e9, unit="1/GPa")
        within("save_every_fs", self.save_every_fs, 0.0, 1e9, unit="fs")
        within("seed", self.seed, 0, 2**32 - 1, open_low=False)
        within("skin_A", self.skin_A, 0.0, 5.0, unit="Å", open_low=False)
        within("restart_seconds", self.restart_seconds, 0.0, 1e6, unit="s", open_low=False)

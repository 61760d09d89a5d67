"""How to simulate and when to stop: settings, checked at construction (no torch in here, so that help is quick)."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

import tyro

from mdistill.settings import HOTTEST, LONGEST_STEP, SEEDS, setting, settings


@settings
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
    every: int = setting(10, above=0, most=1_000_000, unit="steps")
    largest_force: float = setting(50.0, above=0.0, most=1e6, unit="eV/Å")
    closest_pair: float = setting(0.5, least=0.0, most=1.0)
    temperature_margin_K: float = setting(200.0, least=0.0, most=1e6, unit="K")
    energy_change: float = setting(0.02, above=0.0, most=1e3, unit="eV/atom")


@settings
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
        every_fs: Time between frames (and rows of the log), fs; rounded to whole steps.
        format: Trajectory format.
        seed: Seed of velocities and thermostat; the same seed gives the same run.
        skin_A: Skin of the neighbour list, Å.
        restart_seconds: Least wall-clock time between saves, s.
        guard: When to stop a broken run.
    """

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    thermostat: Literal["bussi", "langevin"] = "bussi"
    barostat: Literal["isotropic", "anisotropic"] = "isotropic"
    temperature_K: float = setting(300.0, above=0.0, most=HOTTEST, unit="K")
    pressure_GPa: float = setting(0.0, least=-1000.0, most=10_000.0, unit="GPa")
    time_ps: float = setting(10.0, above=0.0, most=1e8, unit="ps")
    equilibration_ps: float = setting(0.0, least=0.0, most=1e8, unit="ps")
    time_step_fs: float | None = setting(
        None, above=0.0, most=LONGEST_STEP, unit="fs", fix="2 fs suits most solids, 1 fs hydrogen"
    )
    friction_per_ps: float = setting(1.0, above=0.0, most=1000.0, unit="1/ps")
    relaxation_fs: float = setting(100.0, above=0.0, most=1e6, unit="fs")
    barostat_ps: float = setting(1.0, above=0.0, most=1e6, unit="ps")
    compressibility_per_GPa: float = setting(0.03, above=0.0, most=1e9, unit="1/GPa")
    every_fs: float = setting(20.0, above=0.0, most=1e9, unit="fs")
    format: Literal["hdf5", "extxyz"] = "hdf5"
    seed: tyro.conf.Suppress[int] = setting(0, least=0, most=SEEDS)
    skin_A: float = setting(1.2, least=0.0, most=5.0, unit="Å")
    restart_seconds: float = setting(30.0, least=0.0, most=1e6, unit="s")
    guard: GuardSettings = field(default_factory=GuardSettings)

"""Settings of simulations and of their guard. No torch in here, so that help is quick."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from mdistill.settings import HOTTEST, LONGEST_STEP, SEEDS, setting, settings

QUICK_BAROSTAT_PS = 0.5
"""Relaxation time of the barostat where a stage equilibrates a cell, ps."""


@settings
class GuardSettings:
    """Limits of the guard.

    Attributes:
        on: Whether the guard checks its limits; energy and forces must be finite in any case.
        every: Steps between checks of forces, distances, temperature and drift.
        largest_force: Largest force on an atom, eV/Å.
        closest_pair: Smallest distance, as a share of the sum of covalent radii (or of the closest labelled distance).
        temperature_margin_K: Margin above T₀ (1 + 8 √(2/n)), K; n: degrees of freedom.
        energy_change: Largest change of the total energy of an NVE run, eV/atom; not of direct forces, which conserve none.
    """

    on: bool = True
    every: int = setting(10, above=0, most=1_000_000, unit="steps")
    largest_force: float = setting(50.0, above=0.0, most=1e6, unit="eV/Å")
    closest_pair: float = setting(0.5, least=0.0, most=1.0)
    temperature_margin_K: float = setting(200.0, least=0.0, most=1e6, unit="K")
    energy_change: float = setting(0.02, above=0.0, most=1e3, unit="eV/atom")


@settings
class SimulateSettings:
    """A simulation.

    Attributes:
        ensemble: Ensemble: nve, nvt (thermostat) or npt (thermostat and barostat).
        thermostat: Thermostat: bussi rescales all velocities and does not change diffusion; langevin thermalises every atom.
        barostat: Barostat: isotropic changes the volume, anisotropic also lengths and angles.
        temperature_K: Temperature, K; in nve of the start.
        pressure_GPa: Pressure for npt, GPa.
        time_ps: Length of the run after equilibration, ps. A finished run with a longer time continues.
        equilibration_ps: Equilibration before it, ps. Langevin with friction 10/ps (nve, nvt) or npt; logged at negative times,
            not in the trajectory.
        time_step_fs: Time step, fs; by default 2, or 0.5 with hydrogen.
        friction_per_ps: Langevin friction, 1/ps.
        relaxation_fs: Relaxation time of the bussi thermostat, fs.
        barostat_ps: Relaxation time of the barostat, ps.
        compressibility_per_GPa: For the rate of the barostat, 1/GPa; by default 0.03, in `mdistill simulate` 0.5 of a liquid.
        every_fs: Time between frames and rows of the log, fs; rounded to whole steps.
        format: Trajectory format.
        seed: Seed of velocities and thermostat.
        skin_A: Skin of the neighbour list, Å.
        restart_seconds: Shortest wall-clock time between saves, s.
        guard: Limits that stop a broken run.
    """

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    thermostat: Literal["bussi", "langevin"] = "bussi"
    barostat: Literal["isotropic", "anisotropic"] = "isotropic"
    temperature_K: float = setting(300.0, above=0.0, most=HOTTEST, unit="K")
    pressure_GPa: float = setting(0.0, least=-1000.0, most=10_000.0, unit="GPa")
    time_ps: float = setting(10.0, above=0.0, most=1e8, unit="ps")
    equilibration_ps: float = setting(0.0, least=0.0, most=1e8, unit="ps")
    time_step_fs: float | None = setting(None, above=0.0, most=LONGEST_STEP, unit="fs", fix="2 fs suits solids, 0.5 fs hydrogen")
    friction_per_ps: float = setting(1.0, above=0.0, most=1000.0, unit="1/ps")
    relaxation_fs: float = setting(100.0, above=0.0, most=1e6, unit="fs")
    barostat_ps: float = setting(1.0, above=0.0, most=1e6, unit="ps")
    compressibility_per_GPa: float | None = setting(None, above=0.0, most=1e9, unit="1/GPa")
    every_fs: float = setting(20.0, above=0.0, most=1e9, unit="fs")
    format: Literal["hdf5", "extxyz"] = "hdf5"
    seed: int = setting(0, least=0, most=SEEDS)
    skin_A: float = setting(1.2, least=0.0, most=5.0, unit="Å")
    restart_seconds: float = setting(30.0, least=0.0, most=1e6, unit="s")
    guard: GuardSettings = field(default_factory=GuardSettings)

"""Settings of the workflows. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal

from ase.data import chemical_symbols

from mdistill.analysis.settings import DiffusionSettings
from mdistill.nets.settings import SIZES
from mdistill.settings import LONGEST_STEP, SEEDS, refuse, setting, settings


@settings
class ProductionSettings:
    """Production MD: independent runs at each temperature, until D is known well enough or their time is spent.

    Attributes:
        pressure_GPa: Pressure, GPa. Each run is equilibrated at it (NpT), then made in its mean cell (NVT).
        fixed_cell: Whether to run in the relaxed cell, whatever its pressure.
        runs: Number of independent runs per temperature, shared out over students and orderings.
        time_ps: First length of each run, ps.
        target: Largest relative statistical error of D; runs are made longer until it is met.
        max_minutes: Longest CPU time of all runs over the number of threads, min.
        equilibration_ps: Equilibration of each run at its pressure, ps; liquids take four times as long.
        cell_ps: NpT dynamics after it over which the cell is averaged, ps; the same for liquids.
        atoms: Smallest number of atoms; the trained cell is repeated.
        ions: Smallest number of mobile ions, likewise.
        size_check: Whether a bulk has one run, the hottest, in a cell eight times as large.
        time_step_fs: Time step, fs; by default 2, or 0.5 with hydrogen.
        every_fs: Time between frames, fs.
        thermostat: Thermostat: bussi does not change diffusion; langevin thermalises every atom and slows diffusion.
        charge: Charge of the mobile ion, e; 0: its usual charge.
        despite_gates: Whether production begins although NVE drift or stability failed.
    """

    pressure_GPa: float = setting(0.0, least=-100.0, most=1000.0, unit="GPa")
    fixed_cell: bool = False
    runs: int = setting(6, least=1, most=1000)
    time_ps: float = setting(200.0, above=0.0, most=1e8, unit="ps")
    target: float = setting(0.07, above=0.0, most=1.0)
    max_minutes: float = setting(60.0, above=0.0, most=1e6, unit="min")
    equilibration_ps: float = setting(10.0, least=0.0, most=1e6, unit="ps")
    cell_ps: float = setting(20.0, above=0.0, most=1e6, unit="ps")
    atoms: int = setting(400, least=1, most=10**7)
    ions: int = setting(48, least=1, most=10**7)
    size_check: bool = True
    time_step_fs: float | None = setting(None, above=0.0, most=LONGEST_STEP, unit="fs")
    every_fs: float = setting(50.0, above=0.0, most=1e8, unit="fs")
    thermostat: Literal["bussi", "langevin"] = "bussi"
    charge: float = setting(0.0, least=-10.0, most=10.0, unit="e")
    despite_gates: bool = False


@settings
class BenchSettings:
    """Students to compare.

    Attributes:
        sizes: Sizes of student to train.
        minutes: Longest training time of each student, minutes.
        repeats: Number of timings; each costs one teacher call.
        seed: Seed of weights and order of training.
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    minutes: float = setting(4.0, above=0.0, below=1e5, unit="min")
    repeats: int = setting(7, least=3, most=1000)
    seed: int = setting(0, least=0, most=SEEDS)

    def __post_init__(self) -> None:
        for size in self.sizes or ("",):
            if size not in SIZES:
                refuse(self, "sizes", allowed=", ".join(SIZES), fix="choose among them")


@settings
class AnalyseSettings:
    """A trajectory and its analysis.

    Attributes:
        species: Mobile ion, such as Li.
        temperature_K: Temperature of the run, K; needed for the conductivity.
        frame_time_fs: Time between stored frames, fs; needed for XDATCAR, .traj and LAMMPS dumps.
        discard_ps: Equilibration at the start that is left out, ps.
        charge: Charge of the mobile ion, e; 0: its usual charge.
        elements: Elements of LAMMPS types 1, 2, … or of VASP 4 counts, where the file has no names.
        every: Interval between used frames, in frames.
        fit_from_ps: Shortest lag of a plain line through the MSD, ps; by default a relaxation is fitted too.
        hop_distance: Distance from its site beyond which an ion has hopped, Å.
        seed: Seed of the draws of the collective diffusivity.
    """

    species: str
    temperature_K: float | None = setting(None, above=0.0, below=1e5, unit="K")
    frame_time_fs: float | None = setting(None, above=0.0, below=1e9, unit="fs")
    discard_ps: float = setting(0.0, least=0.0, unit="ps")
    charge: float = setting(0.0, least=-10.0, most=10.0, unit="e")
    elements: tuple[str, ...] = ()
    every: int = setting(1, least=1)
    fit_from_ps: float | None = setting(None, above=0.0, unit="ps")
    hop_distance: float = setting(1.5, above=0.0, unit="Å")
    seed: int = setting(0, least=0, most=SEEDS)

    def __post_init__(self) -> None:
        if self.species not in chemical_symbols[1:]:
            refuse(self, "species", allowed="an element symbol such as Li", fix="name the mobile ion")

    def diffusion(self) -> DiffusionSettings:
        """The settings of the diffusion estimate."""
        return DiffusionSettings(fit_from_ps=self.fit_from_ps, hop_distance=self.hop_distance, seed=self.seed)

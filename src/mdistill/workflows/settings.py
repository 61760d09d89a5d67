"""Settings of the workflows. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ase.data import chemical_symbols

from mdistill.analysis.settings import DiffusionSettings
from mdistill.errors import BadInput
from mdistill.nets.settings import SIZES


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineSettings:
    """On-policy rounds.

    Attributes:
        rounds: How many; at least one.
        time_ps: Length of the student's MD at each temperature, ps.
        every_fs: Time between candidate frames, fs.
        frames: Frames sent to the teacher per temperature, structure and round.
        refit_share: Time of a refit as a share of the first fit's.
        refit_rate: Its learning rate as a share of the first fit's (it starts from a fitted student).
        seed: Of the student's MD.
    """

    rounds: int = 1
    time_ps: float = 5.0
    every_fs: float = 50.0
    frames: int = 12
    refit_share: float = 0.5
    refit_rate: float = 0.3
    seed: int = 100

    def __post_init__(self) -> None:
        _require("refine.rounds", self.rounds, self.rounds >= 1, "at least 1")
        _require("refine.time_ps", self.time_ps, 0 < self.time_ps <= 1e6, "above 0")
        _require("refine.every_fs", self.every_fs, 0 < self.every_fs <= 1000 * self.time_ps, "above 0, at most the MD's length")
        _require("refine.frames", self.frames, self.frames >= 1, "at least 1")
        _require("refine.refit_share", self.refit_share, 0 < self.refit_share <= 10, "above 0, at most 10")
        _require("refine.refit_rate", self.refit_rate, 0 < self.refit_rate <= 1, "above 0, at most 1")
        _require("refine.seed", self.seed, self.seed >= 0, "0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionSettings:
    """Production MD.

    Attributes:
        time_ps: Length at each temperature, ps.
        equilibration_ps: Time before that, ps.
        time_step_fs: Time step, fs; by default 2, or 1 with hydrogen.
        save_every_fs: Time between frames, fs.
        thermostat: bussi leaves diffusion alone; langevin thermalises every atom and slows it.
        charge: Charge of the mobile ion, e; 0 for its usual one.
        seed: Of velocities and thermostat.
    """

    time_ps: float = 500.0
    equilibration_ps: float = 5.0
    time_step_fs: float | None = None
    save_every_fs: float = 50.0
    thermostat: Literal["bussi", "langevin"] = "bussi"
    charge: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("time_ps", "save_every_fs"):
            _require(f"production.{name}", getattr(self, name), 0 < getattr(self, name) <= 1e8, "above 0")
        _require("production.equilibration_ps", self.equilibration_ps, 0 <= self.equilibration_ps <= 1e6, "0 or more")


def _require(name: str, value: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise BadInput(name, str(value), allowed=allowed, fix="change this setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What to compare.

    Attributes:
        sizes: Sizes of student to train.
        minutes: Training time of each at most, minutes.
        rounds: Rounds of the timing; each costs one teacher call.
        seed: Of weights and order of training.
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    minutes: float = 4.0
    rounds: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        for size in self.sizes:
            if size not in SIZES:
                raise BadInput("sizes", f"{size!r}", allowed=", ".join(SIZES), fix="choose among them")
        if not self.sizes or not 0.0 < self.minutes < 1e5 or not 3 <= self.rounds <= 1000 or self.seed < 0:
            raise BadInput(
                "bench", f"{self}", allowed="one size or more, minutes above 0, 3 to 1000 rounds, seed from 0", fix="change it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyseSettings:
    """What to read and how to judge it.

    Attributes:
        species: Mobile ion, e.g. Li.
        temperature_K: Temperature of the run; without it no conductivity is computed.
        frame_time_fs: Time between stored frames; needed where the file does not tell (XDATCAR, .traj, LAMMPS dump).
        discard_ps: Equilibration to leave out at the start.
        charge: Charge of the mobile ion, e; 0 for its usual one.
        elements: Elements of LAMMPS types 1, 2, … or VASP 4 counts, where the file names none.
        stride: Use every stride-th frame.
        fit_from_ps: Shortest lag of the MSD fit; chosen automatically if left out.
        hop_distance: How far (Å) an ion must leave its site to have hopped.
        seed: Seed of the Bayesian sampling.
    """

    species: str
    temperature_K: float | None = None
    frame_time_fs: float | None = None
    discard_ps: float = 0.0
    charge: float = 0.0
    elements: tuple[str, ...] = ()
    stride: int = 1
    fit_from_ps: float | None = None
    hop_distance: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        checks = [
            ("species", self.species, self.species in chemical_symbols[1:], "an element symbol such as Li"),
            ("temperature_K", self.temperature_K, self.temperature_K is None or 0 < self.temperature_K < 1e5, "above 0 K"),
            ("frame_time_fs", self.frame_time_fs, self.frame_time_fs is None or 0 < self.frame_time_fs < 1e9, "above 0 fs"),
            ("discard_ps", self.discard_ps, 0 <= self.discard_ps < math.inf, "0 or more ps"),
            ("charge", self.charge, math.isfinite(self.charge), "a charge in e, 0 for the usual one"),
            ("stride", self.stride, self.stride >= 1, "1 or more"),
        ]
        for name, value, good, allowed in checks:
            if not good:
                raise BadInput(name, f"{value!r}", allowed=allowed, fix="choose a value in that range")
        self.diffusion()

    def diffusion(self) -> DiffusionSettings:
        """The settings of the diffusion estimate."""
        return DiffusionSettings(fit_from_ps=self.fit_from_ps, hop_distance=self.hop_distance, seed=self.seed)


def duration_fs(text: str, *, subject: str) -> float:
    """ "16fs", "16 fs" or "16" as femtoseconds.

    Raises:
        BadInput: No number with or without that unit.
    """
    try:
        return float(text.strip().removesuffix("fs"))
    except ValueError:
        raise BadInput(subject, repr(text), allowed="a time like 16fs", fix=f"--{subject} 16fs") from None

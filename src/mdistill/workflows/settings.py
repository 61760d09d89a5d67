"""Settings of the workflows. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mdistill.errors import BadInput


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
        for name, value, fine, allowed in (
            ("rounds", self.rounds, self.rounds >= 1, "at least 1"),
            ("time_ps", self.time_ps, 0 < self.time_ps <= 1e6, "above 0"),
            ("every_fs", self.every_fs, 0 < self.every_fs <= 1000 * self.time_ps, "above 0, at most the MD's length"),
            ("frames", self.frames, self.frames >= 1, "at least 1"),
            ("refit_share", self.refit_share, 0 < self.refit_share <= 10, "above 0, at most 10"),
            ("refit_rate", self.refit_rate, 0 < self.refit_rate <= 1, "above 0, at most 1"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
        ):
            if not fine:
                raise BadInput(f"refine.{name}", f"{value}", allowed=allowed, fix="change this setting")


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

    time_ps: float = 200.0
    equilibration_ps: float = 5.0
    time_step_fs: float | None = None
    save_every_fs: float = 20.0
    thermostat: Literal["bussi", "langevin"] = "bussi"
    charge: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("time_ps", "save_every_fs"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= 1e8):
                raise BadInput(f"production.{name}", f"{value}", allowed="above 0", fix="change this setting")
        if not 0 <= self.equilibration_ps <= 1e6:
            raise BadInput(
                "production.equilibration_ps", f"{self.equilibration_ps}", allowed="0 or more", fix="change this setting"
            )

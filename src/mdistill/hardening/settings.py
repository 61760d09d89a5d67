"""Settings of hard targets. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from mdistill.settings import setting, settings
from mdistill.training.settings import HardFitSettings


@settings
class HardSettings:
    """Hard labels of a run's frames.

    Attributes:
        budget: Number of hard labels.
        select: Choice of frames: farthest points or highest leverage, in the student's invariants.
        largest_force: Largest teacher force of a chosen frame, eV/Å.
        fit: Training on the labels.
    """

    budget: int = setting(40, least=2, most=100_000)
    select: Literal["farthest", "leverage"] = "farthest"
    largest_force: float = setting(15.0, above=0.0, most=1e4, unit="eV/Å")
    fit: HardFitSettings = field(default_factory=HardFitSettings)

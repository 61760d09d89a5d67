"""Settings of on-policy rounds and of hard targets. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from mdistill.settings import refuse, setting, settings
from mdistill.training.settings import HardFitSettings

LARGEST_FORCE = 15.0
"""Largest force of a structure for hard labels, eV/Å. One of 12,000 DFT frames of Li–P–S (LiPS-20) has a larger one; so have 42
of 100 published training frames of water (up to 23; revPBE0-D3, doi 10.1073/pnas.1815117116)."""


@settings
class RefineSettings:
    """On-policy rounds.

    Attributes:
        rounds: Number of rounds.
        time_ps: Length of the student's MD at each temperature, ps.
        every_fs: Time between candidate frames, fs.
        frames: Frames sent to the teacher per temperature, structure and round.
        atoms: Smallest number of atoms in the student's MD; the trained cell is repeated.
        ions: Smallest number of mobile ions in it, likewise.
        refit_share: Time of a refit as a share of the first fit's.
        refit_rate: Learning rate of a refit as a share of the first fit's.
    """

    rounds: int = setting(1, least=1)
    time_ps: float = setting(5.0, above=0.0, most=1e6, unit="ps")
    every_fs: float = setting(50.0, above=0.0, unit="fs")
    frames: int = setting(12, least=1)
    atoms: int = setting(100, least=1, most=10**5)
    ions: int = setting(24, least=1, most=10**5)
    refit_share: float = setting(0.5, above=0.0, most=10.0)
    refit_rate: float = setting(0.3, above=0.0, most=1.0)

    def __post_init__(self) -> None:
        if self.every_fs > 1000.0 * self.time_ps:
            refuse(self, "every_fs", allowed=f"at most the length of the MD, {self.time_ps:g} ps", fix="frames closer together")


@settings
class TuneSettings:
    """Training of the teacher itself on hard labels.

    Attributes:
        steps: Optimiser steps, one structure each; at least.
        passes: Least number of times that each label is seen.
        rate: Peak learning rate.
        ema: Decay per step of the moving average of the weights, the result.
        clip: Largest norm of the gradient.
        frames: Number of frames of the students' MD that the tuned teacher labels, beside those of the run.
        share: Share of hard labels in the students' training, where fit.share is not given.
    """

    steps: int = setting(240, least=1, most=10**6)
    passes: int = setting(6, least=1, most=10**4)
    rate: float = setting(1e-3, least=1e-8, most=1.0)
    ema: float = setting(0.9, least=0.0, most=0.999999)
    clip: float = setting(10.0, least=1e-6, most=1e6)
    frames: int = setting(300, least=0, most=10**6)
    share: float = setting(0.2, above=0.0, below=1.0)


@settings
class HardSettings:
    """Choice of frames for hard labels, and training on the labels.

    Attributes:
        select: Choice of frames: farthest points or highest leverage, in the student's invariants.
        largest_force: Largest force of a chosen frame, eV/Å: the teacher's; of frames of the student's MD first the student's.
        most_atoms: Largest frame, atoms; larger ones are not candidates.
        unit_cell: Frames of the students' MD in the unit cell, which DFT with k-points affords, in place of the run's labels.
        time_ps: Length of the student's MD at each temperature, in later rounds and in the unit cell, ps.
        before: Length of the soft students' MD that shows what changed, as a share of production's first length; 0: none.
        teacher: Teacher of the students: trained further on the hard labels (tuned), or corrected by a fitted difference; auto:
            tuned for SevenNet and CHGNet.
        tune: Training of the teacher.
        fit: Training of the students on the labels.
    """

    select: Literal["farthest", "leverage"] = "farthest"
    largest_force: float = setting(LARGEST_FORCE, above=0.0, most=1e4, unit="eV/Å")
    most_atoms: int = setting(256, least=1, most=100_000)
    unit_cell: bool = False
    time_ps: float = setting(5.0, above=0.0, most=1e6, unit="ps")
    before: float = setting(0.25, least=0.0, most=10.0)
    teacher: Literal["auto", "tuned", "corrected"] = "auto"
    tune: TuneSettings = field(default_factory=TuneSettings)
    fit: HardFitSettings = field(default_factory=HardFitSettings)

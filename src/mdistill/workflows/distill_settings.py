"""Settings of the main job, its presets, and how they are completed from the structure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mdistill.data.settings import PrepareSettings
from mdistill.errors import BadInput
from mdistill.judge.settings import JudgeSettings, StrideRungSettings, ValidateSettings
from mdistill.labelling.settings import LabelSettings, SegmentSettings
from mdistill.training.settings import FitSettings, StrideSettings, TrainSettings
from mdistill.workflows.settings import ProductionSettings, RefineSettings, duration_fs

if TYPE_CHECKING:
    from mdistill.io.crystal import Crystal

MOBILE_IONS = ("Li", "Na", "Ag", "Cu", "K", "F", "Mg", "Zn", "Ca")
"""Tried in this order when no mobile ion is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """The main job.

    Attributes:
        structure: CIF, POSCAR, extxyz or anything else ASE reads.
        teacher: Name of a foundation potential, or module:attribute of an ASE calculator.
        temperatures: Of validation and production, K. Labels are also taken at 1.2 × the highest.
        mobile: Symbol of the mobile ion; by default the first of Li, Na, Ag, Cu, K, Mg, Zn, Ca, F that the crystal holds;
            "none" for no transport.
        cutoff: Of the student, Å, and half of what the supercell exceeds in every direction; by default that of the student's
            size, and 4.9 Å for the supercell.
        seed: Of everything random.
        device: cpu or cuda.
        prepare: Orderings, supercell, relaxation.
        label: The teacher's work.
        train: The student and its fit.
        refine: On-policy rounds.
        validate: Gates.
        production: Production MD.
        stride: A time like 16fs: learn long strides too, and use them in production where they pass their gates. "": time steps.
        strides: How they are learned and judged.
    """

    structure: Annotated[Path, tyro.conf.Positional]
    teacher: str = "sevennet-0"
    temperatures: tuple[float, ...] = (500.0, 700.0, 900.0)
    mobile: str = ""
    cutoff: float | None = None
    seed: int = 0
    device: str = "cpu"
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    label: LabelSettings = field(default_factory=lambda: LabelSettings(temperatures_K=()))
    train: TrainSettings = field(default_factory=TrainSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
    validate: ValidateSettings = field(default_factory=ValidateSettings)
    production: ProductionSettings = field(default_factory=ProductionSettings)
    stride: str = ""
    strides: StrideRungSettings = field(default_factory=StrideRungSettings)

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise BadInput("temperatures", "none given", allowed="one or more, K", fix="--temperatures 500 700 900")
        for value in self.temperatures:
            if not (math.isfinite(value) and 0.0 < value <= 20_000.0):
                raise BadInput("temperatures", f"{value}", allowed="above 0, at most 20000 K", fix="give temperatures in kelvin")
        if self.stride:
            self.rung()
        if self.seed < 0:
            raise BadInput("seed", f"{self.seed}", allowed="0 or more", fix="choose another seed")
        own: list[tuple[str, float | None, float | None]] = [
            ("prepare.cutoff", self.prepare.cutoff, PrepareSettings().cutoff),
            ("train.cutoff", self.train.cutoff, None),
        ]
        for setting, asked, default in own:
            if self.cutoff is not None and asked not in (default, self.cutoff):
                raise BadInput(f"--{setting}", f"{asked}", allowed="one cutoff for the whole job", fix=f"--cutoff {asked:g}")

    def rung(self) -> StrideRungSettings:
        """Settings of the stride rung, with the stride asked for and the run's temperatures.

        Raises:
            BadInput: The stride is no time, or cannot be learned from such segments.
        """
        train = replace(self.strides.train, stride_fs=duration_fs(self.stride, subject="stride"))
        return replace(self.strides, train=train).resolved(self.label.temperatures_K or ladder(self.temperatures))


def quick_settings(structure: Path) -> DistillSettings:
    """What --quick starts from: a first look in a quarter of an hour, not a production result."""
    return DistillSettings(
        structure=structure,
        prepare=PrepareSettings(relax_steps=60),
        label=LabelSettings(
            temperatures_K=(),
            frames=40,
            blocks=5,
            spacing_fs=16.0,
            equilibration_fs=160.0,
            strains=(-0.02, 0.02),
            shears=2,
            rattles=(0.03, 0.1),
            contacts=20,
            probe_every=8,
        ),
        train=TrainSettings(fit=FitSettings(max_minutes=3.0)),
        refine=RefineSettings(time_ps=5.0, frames=5, refit_share=0.4),
        validate=ValidateSettings(equilibration_ps=1.0, drift_ps=20.0, stability_ps=10.0, speed_rounds=5),
        production=ProductionSettings(time_ps=100.0, equilibration_ps=2.0),
        strides=StrideRungSettings(
            segments=SegmentSettings(segments=80),
            train=StrideSettings(fit=FitSettings(batch_size=4, max_minutes=3.0)),
            judge=JudgeSettings(time_ps=100.0, longest_ps=600.0),
        ),
    )


def ladder(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """Temperatures of labelling: those asked for, ascending, and 1.2 × the highest, where the stability gate runs."""
    asked = sorted(set(temperatures))
    return (*asked, round(1.2 * asked[-1], 1))


def resolved(settings: DistillSettings, crystal: Crystal) -> DistillSettings:
    """The settings with cutoff, seed, ladder and mobile ion filled in wherever they were left open."""
    mobile = settings.mobile or _mobile_of(crystal)
    temperatures = tuple(sorted(set(settings.temperatures)))
    prepare, train = settings.prepare, settings.train
    if settings.cutoff is not None:
        prepare, train = replace(prepare, cutoff=settings.cutoff), replace(train, cutoff=settings.cutoff)
    label = replace(settings.label, seed=settings.label.seed + settings.seed)
    if not label.temperatures_K:
        label = replace(label, temperatures_K=ladder(temperatures))
    if mobile != "none":
        _check_mobile(crystal, mobile)
    return replace(
        settings,
        mobile=mobile,
        temperatures=temperatures,
        prepare=prepare,
        label=label,
        train=replace(train, fit=replace(train.fit, seed=train.fit.seed + settings.seed)),
        refine=replace(settings.refine, seed=settings.refine.seed + settings.seed),
        validate=replace(settings.validate, seed=settings.validate.seed + settings.seed),
        production=replace(settings.production, seed=settings.production.seed + settings.seed),
    )


def mobile_element(symbol: str) -> int | None:
    """Atomic number of the mobile ion; None for "none"."""
    from ase.data import atomic_numbers

    return None if symbol == "none" else int(atomic_numbers[symbol])


def _mobile_of(crystal: Crystal) -> str:
    from ase.data import chemical_symbols

    present = {chemical_symbols[z] for z in crystal.composition}
    for symbol in MOBILE_IONS:
        if symbol in present:
            return symbol
    raise BadInput(
        crystal.source,
        f"no usual mobile ion in {crystal.formula}",
        allowed=", ".join(MOBILE_IONS),
        fix="name it with --mobile, or --mobile none for dynamics without transport",
    )


def _check_mobile(crystal: Crystal, symbol: str) -> None:
    from ase.data import atomic_numbers

    if atomic_numbers.get(symbol) not in crystal.composition:
        raise BadInput(
            crystal.source,
            f"no {symbol} in {crystal.formula}, so it cannot be the mobile ion",
            allowed="an element of the crystal",
            fix="name another with --mobile, or --mobile none",
        )

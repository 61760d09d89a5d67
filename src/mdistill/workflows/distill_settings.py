"""Settings of the main job, its preset, and how they are completed from the structure."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mdistill.data.settings import PrepareSettings
from mdistill.errors import BadInput
from mdistill.judge.settings import CheckSettings, JudgeSettings, StrideRungSettings, ValidateSettings
from mdistill.labelling.settings import LabelSettings, SegmentSettings
from mdistill.nets.settings import LONGEST_STRIDE
from mdistill.settings import HOTTEST, SEEDS, BadSetting, child_seed, refuse, setting, settings
from mdistill.training.settings import FitSettings, StrideSettings, TrainSettings
from mdistill.workflows.settings import ProductionSettings, RefineSettings

if TYPE_CHECKING:
    from mdistill.crystals.crystal import Crystal

MOBILE_IONS = ("Li", "Na", "Ag", "Cu", "K", "F", "Mg", "Zn", "Ca")
"""Mobile ions in order of preference, where none is named."""


@settings
class DistillSettings:
    """The main job.

    Attributes:
        structure: Structure file: CIF, POSCAR, extxyz or anything else ASE reads.
        teacher: Foundation potential, or module:attribute (code to run) of an ASE calculator or factory,
            mace.calculators:mace_mp.
        temperatures: Temperatures of validation and production, K. Labels also come from 1.2 × the highest.
        mobile: Mobile ion; by default the first of Li, Na, Ag, Cu, K, F, Mg, Zn, Ca in the crystal. "none": no transport.
        cutoff: Student cutoff, Å. The shortest lattice vector of the supercell exceeds twice this.
        seed: Seed of everything random.
        device: Device of the teacher: cpu, cuda or auto.
        prepare: Orderings, supercell, relaxation.
        label: Labels of the teacher.
        train: The student and its fit.
        committee: Number of students with other seeds and held-out blocks; their spread is the model's uncertainty. 1: none.
        refine: On-policy rounds.
        validate: Gates.
        production: Production MD.
        check: Teacher labels of production frames.
        check_ps: Time for which the teacher is followed at the highest temperature and compared with its student, ps.
        stride_fs: Stride of a long-stride map, fs. The map is trained, and used in production if it passes its gates.
        strides: Training and judgement of the map.
    """

    structure: Annotated[Path, tyro.conf.Positional]
    teacher: str = "sevennet-0"
    temperatures: tuple[float, ...] = setting((500.0, 700.0, 900.0), above=0.0, most=HOTTEST, unit="K")
    mobile: str = ""
    cutoff: float | None = setting(None, above=1.0, most=15.0, unit="Å")
    seed: int = setting(0, least=0, most=SEEDS)
    device: str = "cpu"
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    label: LabelSettings = field(default_factory=lambda: LabelSettings(temperatures_K=()))
    train: TrainSettings = field(default_factory=TrainSettings)
    committee: int = setting(3, least=1, most=100)
    refine: RefineSettings = field(default_factory=RefineSettings)
    validate: ValidateSettings = field(default_factory=ValidateSettings)
    production: ProductionSettings = field(default_factory=ProductionSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
    check_ps: float | None = setting(None, above=0.0, most=1e6, unit="ps")
    stride_fs: float | None = setting(None, above=0.0, most=LONGEST_STRIDE, unit="fs")
    strides: StrideRungSettings = field(default_factory=StrideRungSettings)

    def __post_init__(self) -> None:
        if not self.temperatures:
            refuse(self, "temperatures", allowed="one or more, K", fix="--temperatures 500 700 900")
        if self.stride_fs is not None:
            try:
                self.rung()
            except BadSetting as error:
                if error.name != "stride_fs":
                    raise
                refuse(self, "stride_fs", allowed=error.allowed, fix=error.fix)
        same: list[tuple[str, float | None, float | None]] = [
            ("prepare.cutoff", self.prepare.cutoff, PrepareSettings().cutoff),
            ("train.cutoff", self.train.cutoff, None),
        ]
        for name, value, default in same:
            if self.cutoff is not None and value not in (default, self.cutoff):
                raise BadInput(f"--{name}", f"{value}", allowed="one cutoff for the whole job", fix=f"--cutoff {value:g}")

    def rung(self) -> StrideRungSettings:
        """Settings of the stride rung, with this stride and the run's temperatures.

        Raises:
            BadInput: The stride cannot be learned from such segments.
        """
        train = replace(self.strides.train, stride_fs=self.stride_fs or self.strides.train.stride_fs)
        return replace(self.strides, train=train).resolved(self.label.temperatures_K or ladder(self.temperatures))


def quick_settings(structure: Path) -> DistillSettings:
    """The preset --quick: a first result in about 20 minutes, not for production."""
    return DistillSettings(
        structure=structure,
        prepare=PrepareSettings(relax_steps=60),
        label=LabelSettings(
            temperatures_K=(), frames=25, blocks=5, every_fs=16.0, equilibration_fs=160.0, strains=(-0.02, 0.02), shears=2,
            rattles=(0.03, 0.1), contacts=20, probe_every=8,
        ),
        train=TrainSettings(fit=FitSettings(max_minutes=2.0)),
        refine=RefineSettings(time_ps=10.0, frames=40, refit_share=0.8),
        validate=ValidateSettings(equilibration_ps=1.0, drift_ps=20.0, stability_ps=10.0, speed_repeats=5),
        check=CheckSettings(frames=12),
        production=ProductionSettings(
            time_ps=60.0, target=0.15, max_minutes=3.0, equilibration_ps=3.0, cell_ps=5.0, atoms=100, ions=24
        ),
        strides=StrideRungSettings(
            segments=SegmentSettings(segments=80),
            train=StrideSettings(fit=FitSettings(batch_size=4, max_minutes=3.0)),
            judge=JudgeSettings(time_ps=100.0, longest_ps=600.0),
        ),
    )  # fmt: skip


def ladder(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """Temperatures of labelling: the run's, ascending, and 1.2 × the highest, for the stability gate."""
    asked = sorted(set(temperatures))
    return (*asked, round(1.2 * asked[-1], 1))


def resolved(settings: DistillSettings, crystal: Crystal) -> DistillSettings:
    """The settings with cutoff, seed, temperatures and mobile ion filled in where they are not set."""
    from mdistill.crystals.task_checks import check_bulk, check_mobile

    check_bulk(crystal)
    mobile = settings.mobile or _mobile_of(crystal)
    temperatures = tuple(sorted(set(settings.temperatures)))
    prepare, train = settings.prepare, settings.train
    if settings.cutoff is not None:
        prepare, train = replace(prepare, cutoff=settings.cutoff), replace(train, cutoff=settings.cutoff)
    label = settings.label
    if not label.temperatures_K:
        label = replace(label, temperatures_K=ladder(temperatures))
    if mobile != "none":
        check_mobile(crystal, mobile)
    return replace(
        settings, mobile=mobile, temperatures=temperatures, prepare=prepare, label=label,
        train=replace(train, fit=replace(train.fit, seed=child_seed(settings.seed, "train"))),
    )  # fmt: skip


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
    fix = "name it with --mobile, or --mobile none for dynamics without transport"
    raise BadInput(crystal.source, f"no usual mobile ion in {crystal.formula}", allowed=", ".join(MOBILE_IONS), fix=fix)

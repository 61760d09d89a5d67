"""Settings of the main job, its preset, and how they are completed from the structure."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mdistill.data.settings import PrepareSettings
from mdistill.errors import BadInput
from mdistill.hardening.settings import HardSettings, RefineSettings
from mdistill.judge.settings import CheckSettings, JudgeSettings, StrideRungSettings, ValidateSettings
from mdistill.labelling.hard_settings import Cp2kSettings, MoleculeDftSettings
from mdistill.labelling.settings import LabelSettings, SegmentSettings
from mdistill.matter.kinds import HEAVY_H_FS, HEAVY_H_U, KINDS, further_notes, mobile_ion, recognised
from mdistill.nets.settings import LONGEST_STRIDE
from mdistill.settings import HOTTEST, SEEDS, BadSetting, child_seed, refuse, setting, settings
from mdistill.training.settings import FitSettings, HardFitSettings, StrideSettings, TrainSettings
from mdistill.workflows.settings import ProductionSettings

if TYPE_CHECKING:
    from mdistill.crystals.crystal import Crystal


@settings
class DistillSettings:
    """The main job.

    Attributes:
        structure: Structure file: CIF, POSCAR, xyz, mol, SDF or anything else ASE reads.
        teacher: Foundation potential, or module:attribute (code to run) of an ASE calculator or factory,
            mace.calculators:mace_mp.
        temperatures: Temperatures of validation and production, K. By default 500 700 900 for crystals, 300 for liquids. Labels
            also come from 1.2 × the highest (1.3 × for liquids, 1.6 × for molecules).
        matter: Kind of matter. auto: from periodicity, vacuum and bonds. It decides what is done (`matter/kinds.py`).
        heavy_h: Mass of hydrogen, u; 0: standard masses. It is taken from the atom that it is bonded to. 3 allows steps of 1 fs.
        mobile: Mobile ion; by default the first usual one. These are Li, Na, Ag, Cu, K, F, Mg, Zn, Ca. "none": no transport.
        cutoff: Student cutoff, Å. The shortest lattice vector of the supercell exceeds twice this.
        seed: Seed of everything random.
        device: Device of the teacher: cpu, cuda or auto.
        prepare: Orderings, supercell, relaxation.
        label: Labels of the teacher.
        train: The student and its fit.
        committee: Number of students. Other seeds and held-out blocks; their spread is the model's uncertainty. 1: none.
        refine: On-policy rounds.
        hard: Engine of hard labels: cp2k, pyscf, module:attribute. The students learn them, and every later stage uses these
            students. Also a teacher's name, or a file or folder with labels. The attribute is an ASE calculator or makes one;
            its code is run. "": none.
        hard_budget: Number of hard labels.
        hard_rounds: Number of rounds that share them. The first chooses frames of the labels, others frames of the student's MD.
        harden: Choice of frames and training on hard labels.
        cp2k, pyscf: Level of theory of these engines.
        validate: Gates.
        production: Production MD.
        check: Teacher labels of production frames.
        check_ps: Time for which the teacher is followed at the highest temperature and compared with its student, ps.
        stride_fs: Stride of a long-stride map, fs. The map is trained, and used in production if it passes its gates.
        strides: Training and judgement of the map.
    """

    structure: Annotated[Path, tyro.conf.Positional] = Path()
    teacher: str = "sevennet-0"
    temperatures: tuple[float, ...] = setting((), above=0.0, most=HOTTEST, unit="K")
    mobile: str = ""
    matter: Literal["auto", "crystal", "molecular-crystal", "liquid", "slab", "wire", "molecule"] = "auto"
    heavy_h: float = setting(0.0, least=0.0, most=10.0, unit="u")
    cutoff: float | None = setting(None, above=1.0, most=15.0, unit="Å")
    seed: int = setting(0, least=0, most=SEEDS)
    device: str = "cpu"
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    label: LabelSettings = field(default_factory=lambda: LabelSettings(temperatures_K=()))
    train: TrainSettings = field(default_factory=TrainSettings)
    committee: int = setting(3, least=1, most=100)
    refine: RefineSettings = field(default_factory=RefineSettings)
    hard: str = ""
    hard_budget: int = setting(40, least=2, most=100_000)
    hard_rounds: int = setting(1, least=1, most=100)
    harden: HardSettings = field(default_factory=HardSettings)
    cp2k: Cp2kSettings = field(default_factory=Cp2kSettings)
    pyscf: MoleculeDftSettings = field(default_factory=MoleculeDftSettings)
    validate: ValidateSettings = field(default_factory=ValidateSettings)
    production: ProductionSettings = field(default_factory=ProductionSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
    check_ps: float | None = setting(None, above=0.0, most=1e6, unit="ps")
    stride_fs: float | None = setting(None, above=0.0, most=LONGEST_STRIDE, unit="fs")
    strides: StrideRungSettings = field(default_factory=StrideRungSettings)

    def __post_init__(self) -> None:
        if self.stride_fs is not None:
            try:
                self.rung()
            except BadSetting as error:
                if error.name != "stride_fs":
                    raise
                refuse(self, "stride_fs", allowed=error.allowed, fix=error.fix)
        if 2 * self.hard_rounds > self.hard_budget:
            refuse(self, "hard_rounds", allowed="two hard labels a round, or more", fix=f"--hard-budget {2 * self.hard_rounds}")
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


def quick_settings(structure: Path = Path()) -> DistillSettings:
    """The preset --quick: a first result in 10 to 20 minutes, not for production."""
    return DistillSettings(
        structure=structure,
        prepare=PrepareSettings(relax_steps=60),
        label=LabelSettings(
            temperatures_K=(), frames=25, blocks=5, every_fs=16.0, equilibration_fs=160.0, strains=(-0.02, 0.02), shears=2,
            rattles=(0.03, 0.1), contacts=20, probe_every=8,
        ),
        train=TrainSettings(fit=FitSettings(max_minutes=0.7, least_steps=500)),
        refine=RefineSettings(time_ps=20.0, frames=120, refit_share=3.5, refit_rate=1.0),
        harden=HardSettings(fit=HardFitSettings(time=2.0)),
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


def ladder(temperatures: tuple[float, ...], headroom: float = 1.2) -> tuple[float, ...]:
    """Temperatures of labelling: the run's, ascending, and `headroom` × the highest, for the stability gate."""
    asked = sorted(set(temperatures or KINDS["crystal"].temperatures))
    return (*asked, round(headroom * asked[-1], 1))


def resolved(settings: DistillSettings, crystal: Crystal) -> DistillSettings:
    """The settings with kind of matter, cutoff, seed, temperatures, time steps and mobile ion filled in where they are not set.

    Raises:
        BadInput: The structure cannot be of the kind asked for, or has no such mobile ion.
    """
    from mdistill.crystals.task_checks import check_mobile

    matter, crystal, _ = recognised(crystal, settings.matter)
    mobile = settings.mobile or mobile_ion(crystal, matter)[0]
    temperatures = tuple(sorted(set(settings.temperatures or matter.temperatures)))
    prepare, train, production = replace(settings.prepare, matter=matter.name), settings.train, settings.production
    if settings.cutoff is not None:
        prepare, train = replace(prepare, cutoff=settings.cutoff), replace(train, cutoff=settings.cutoff)
    label = replace(settings.label, heavy_h=settings.heavy_h or settings.label.heavy_h)
    if not label.temperatures_K:
        label = replace(label, temperatures_K=ladder(temperatures, matter.headroom))
    if label.heavy_h >= HEAVY_H_U and production.time_step_fs is None:
        production = replace(production, time_step_fs=HEAVY_H_FS)
    fixed = production.fixed_cell or not matter.barostat
    production = replace(production, fixed_cell=fixed, thermostat=matter.thermostat or production.thermostat)
    if mobile != "none":
        check_mobile(crystal, mobile)
    return replace(
        settings, matter=matter.name, mobile=mobile, temperatures=temperatures, prepare=prepare, label=label,
        production=production, train=replace(train, fit=replace(train.fit, seed=child_seed(settings.seed, "train"))),
    )  # fmt: skip


def dispersion_notes(settings: DistillSettings) -> list[str]:
    """A note where molecules want dispersion which neither the teacher nor hard labels bring; of resolved settings."""
    from mdistill.teachers.cards import dispersion_note  # loads torch

    matter, brought = KINDS[settings.matter], {"cp2k": "D3" in settings.cp2k.functional, "pyscf": bool(settings.pyscf.dispersion)}
    wanted = matter.molecules and matter.periodic == 3 and not brought.get(settings.hard)
    return dispersion_note(settings.teacher, unless=", unless hard labels bring it" if settings.hard else "") if wanted else []


def matter_notes(settings: DistillSettings, crystal: Crystal) -> list[str]:
    """Why there is no conductivity, what heavy hydrogen changes, and what molecules want of the teacher; of resolved settings."""
    return [*further_notes(crystal, settings.matter, settings.mobile, settings.label.heavy_h), *dispersion_notes(settings)]


def mobile_element(symbol: str) -> int | None:
    """Atomic number of the mobile ion; None for "none"."""
    from ase.data import atomic_numbers

    return None if symbol == "none" else int(atomic_numbers[symbol])

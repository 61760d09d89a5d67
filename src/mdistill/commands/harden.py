"""mdistill harden: hard labels (DFT) for the students of a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mdistill.errors import BadInput
from mdistill.flags.arguments import CONFIG, finish, output_folder, parse, stamped, use_threads, write_config
from mdistill.flags.trust import TrustArguments
from mdistill.hardening.settings import HardSettings
from mdistill.labelling.hard_settings import Cp2kSettings, MoleculeDftSettings

if TYPE_CHECKING:
    from mdistill.hardening.harden import Hardening


@dataclass(frozen=True, kw_only=True)
class HardenArguments(TrustArguments):
    """Run and engine."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `mdistill distill`, or one with label/ and train/: its labels and students are used."""
    engine: str
    """Engine of hard labels: cp2k, pyscf, a teacher's name, module:attribute (code to run) of an ASE calculator; or a file or
    folder with labels."""
    budget: int = 40
    """Number of hard labels."""
    out: Path | None = None
    """Folder (default: hard in the run)."""
    executor: str = ""
    """Scheduler for the calculations, dask://host:port (default: this machine)."""
    workers: int = 0
    """Number of worker processes for calculations; 0: this process."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    hard: Annotated[HardSettings, tyro.conf.arg(name="")] = field(default_factory=HardSettings)
    cp2k: Cp2kSettings = field(default_factory=Cp2kSettings)
    pyscf: MoleculeDftSettings = field(default_factory=MoleculeDftSettings)


HELP = """\
Choose a few frames of a run, label them with an expensive engine (DFT), train the run's teacher further on them (SevenNet,
CHGNet) or fit the difference to it, and teach the run's students by both. The tuned teacher labels the run's structures again,
and 300 frames of the students' own MD. The report tells the errors of teacher and students against the hard labels before and
after, and whether they are too soft. Failed calculations are repeated once with safer settings and never trained on.

examples:
  mdistill harden runs/mine --engine cp2k --budget 40
  mdistill harden runs/mine --engine cp2k --budget 40 --executor dask://login1:8786
  mdistill harden runs/mine --engine mace.calculators:mace_off --budget 100
  mdistill harden runs/mine --engine labels.extxyz
"""
GROUPS = {
    "what": ("engine", "budget", "teacher", "fit.share", "fit.time"),
    "cp2k": ("cp2k.functional", "cp2k.basis", "cp2k.cutoff_Ry", "cp2k.kpoints", "cp2k.command"),
    "pyscf": ("pyscf.functional", "pyscf.basis"),
    "run": ("out", "executor", "workers", "threads", "max_hours", "trust"),
}


def main(arguments: list[str]) -> int:
    """Harden; exit status 4 where the softening gate failed."""
    given = parse(HardenArguments, arguments, program="mdistill harden", description=HELP, groups=GROUPS)
    from mdistill.hardening.harden import harden
    from mdistill.interrupt import stop_on_signals
    from mdistill.labelling.remembered import level_of
    from mdistill.nets.model_files import read_metadata
    from mdistill.report.page import add_to_report
    from mdistill.runs.folder import keep_settings, run_settings
    from mdistill.runs.lock import locked

    use_threads(given.threads)
    job = _job(given)
    student, engine = job.students[0], job.engine
    folder, command = output_folder(given.out or given.run / "hard"), "mdistill harden " + shlex.join(arguments)
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        kept = {
            "hard": given.hard,
            "budget": given.budget,
            "engine": level_of(engine),
            "student": read_metadata(student)["sha256"],
        }
        keep_settings(folder, "harden", kept)
        write_config(folder, "mdistill harden", given)
        results = harden(job, given.hard, folder, stop=stop, provenance={"teacher": job.teacher, "hard": given.engine})
        found = stamped(results, given.hard, repeat=command)
    if run_settings(given.run):
        with locked(given.run):
            print(f"added to: {add_to_report(given.run, found)}")
    finish(found, folder, report=True)
    print(f"student: {folder / student.name}")
    if (given.run / CONFIG).is_file():
        hard = shlex.join(["--hard", given.engine, "--hard-budget", f"{given.budget}"])
        print(f"in gates, production and report: mdistill distill {given.run / CONFIG} --out {given.run} --update {hard}")
    return 0 if all(gate.passed for gate in found.gates) else 4


def _job(given: HardenArguments) -> Hardening:
    """The run's labels and students, and the engine."""
    from mdistill.direct.safe import safe_teacher
    from mdistill.hardening.hard_engine import load_hard_engine
    from mdistill.hardening.harden import ANSWERS, Hardening
    from mdistill.hardening.k_points import notice_of
    from mdistill.hardening.made_elsewhere import given_by
    from mdistill.hardening.refine import teacher_alone
    from mdistill.nets.model_files import load_net, read_metadata
    from mdistill.notices import notify
    from mdistill.runs.trust import is_import_path
    from mdistill.settings import from_json
    from mdistill.teachers.models import find_student
    from mdistill.teachers.tuned import to_tune
    from mdistill.training.committee import members_beside
    from mdistill.training.settings import TrainSettings
    from mdistill.workflows.hard_stages import own_rounds
    from mdistill.workflows.run_parts import read_labels

    if not given.run.is_dir():
        fix = "mdistill distill CRYSTAL makes one"
        raise BadInput(given.run, "is no folder", allowed="a run folder of `mdistill distill`", fix=fix)
    student = find_student(given.run)
    provenance = read_metadata(student)["provenance"]
    if provenance.get("hard_labels"):
        fix = (
            f"more of them: mdistill distill {given.run / 'run.toml'} --out {given.run} --update --hard-budget {2 * given.budget}"
        )
        raise BadInput(student, "knows hard labels already", allowed="a student of soft labels", fix=fix)
    if given.hard.unit_cell:
        fix = f"mdistill distill {given.run / CONFIG} --out {given.run} --update --hard {given.engine} --harden.unit-cell"
        raise BadInput("--unit-cell", "not of this command", allowed="the main job, which has the crystal", fix=fix)
    train = from_json(TrainSettings, provenance.get("settings", {}), source=student, derived=True)
    elements, home = load_net(student).elements, given.run / ANSWERS
    engine = load_hard_engine(given.engine, cp2k=given.cp2k, pyscf=given.pyscf, subject="--engine", home=home, elements=elements)
    soft = read_labels(given.run)
    if sampling := notice_of(engine, [frame.system for frame in soft[:1]]):
        notify(sampling)
    teacher, structures, own = str(provenance.get("teacher", "teacher")), given_by(engine), None
    tuned = to_tune(teacher, given.hard.teacher)
    if structures or tuned:
        if is_import_path(teacher) and not given.trust:
            problem, allowed = (
                f"names {teacher!r} as its teacher, whose code would run",
                "a teacher by name, unless you add --trust",
            )
            raise BadInput(student, problem, allowed=allowed, fix="add --trust if you know and trust that module")
        loaded = safe_teacher(teacher, subject=f"teacher of {student}")
        own = (
            own_rounds(given.run, loaded, soft, train, given.hard, workers=given.workers)
            if tuned
            else teacher_alone(loaded, train)
        )
    return Hardening(
        soft=soft, students=[student, *members_beside(student)], engine=engine, train=train,
        teacher=teacher, budget=given.budget, own=own, given=structures,
        workers=given.workers, address=given.executor,
    )  # fmt: skip

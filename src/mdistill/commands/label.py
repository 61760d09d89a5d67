"""mdistill label: explore with a teacher and store its labels."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.data.settings import PrepareSettings
from mdistill.flags.arguments import finish, output_folder, parse, stamped, use_threads, write_config
from mdistill.flags.trust import TrustArguments
from mdistill.labelling.hard_settings import Cp2kSettings, MoleculeDftSettings
from mdistill.labelling.settings import LabelSettings
from mdistill.settings import USUAL_TIMEOUT, amended, child_seed


@dataclass(frozen=True, kw_only=True)
class LabelArguments(TrustArguments):
    """Structure and teacher."""

    structure: Annotated[Path, tyro.conf.Positional]
    """Structure file: CIF, POSCAR, extxyz or anything else ASE reads; prepared as in `distill`."""
    out: Path
    """Folder for the labels."""
    teacher: str = "sevennet-0"
    """Name of a foundation potential, or module:attribute (code to run) of an ASE calculator or factory,
    mace.calculators:mace_mp."""
    engine: str = ""
    """Engine of hard labels (cp2k, pyscf) for all structures of the file as they are, in place of a teacher's dynamics."""
    executor: str = ""
    """Scheduler for --engine, dask://host:port (default: this machine)."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Device: cpu, cuda or auto."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    workers: int = 0
    """Number of worker processes for teacher calls; 0: this process."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    settings: Annotated[LabelSettings, tyro.conf.arg(name="")] = field(default_factory=LabelSettings)
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    cp2k: Cp2kSettings = field(default_factory=Cp2kSettings)
    pyscf: MoleculeDftSettings = field(default_factory=MoleculeDftSettings)


HELP = """\
Relax a structure with a teacher, run teacher MD up a temperature ladder, add strained, rattled and compressed cells, and
store energies, forces, stress and curvature products. The same command resumes. --engine labels structures as they are.

examples:
  mdistill label crystal.cif --out runs/labels
  mdistill label crystal.cif --teacher chgnet --temperatures-K 400 800 1200 --frames 100 --out runs/labels
  mdistill label crystal.cif --teacher mace.calculators:mace_mp --out runs/mace
  mdistill label molecule-box.extxyz --teacher ase.calculators.emt:EMT --prepare.relax-steps 0 --out runs/labels
  mdistill label selected.extxyz --engine cp2k --out runs/dft
"""
GROUPS = {
    "what": (
        "teacher", "engine", "temperatures_K", "frames", "equilibration_fs", "time_step_fs", "displaced", "contacts",
    ),
    "curvature": ("probes", "probe_every"),
    "structure": ("prepare.cutoff", "prepare.orderings", "prepare.relax_steps"),
    "run": ("out", "seed", "device", "threads", "workers", "executor", "max_hours", "trust"),
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Label; prints the table of frames."""
    given = parse(LabelArguments, arguments, program="mdistill label", description=HELP, groups=GROUPS)
    from mdistill.data.prepare import plan
    from mdistill.direct.safe import safe_teacher
    from mdistill.interrupt import stop_on_signals
    from mdistill.io.structures import read_structure
    from mdistill.labelling.label import label_run
    from mdistill.runs.folder import keep_settings
    from mdistill.runs.lock import locked
    from mdistill.workflows.prepare import prepared_systems, recorded

    use_threads(given.threads)
    if given.engine or given.executor:
        return _hard(given, arguments)
    crystal = read_structure(given.structure)
    plan(crystal, given.prepare)
    teacher = safe_teacher(given.teacher, device=given.device, timeout_s=given.settings.timeout_s)
    plan(crystal, given.prepare, elements=teacher.elements, subject=given.teacher)
    folder, settings, seed = output_folder(given.out), given.settings, child_seed(given.seed, "label")
    ledger = {
        "label": amended(settings, {"seed": seed, "timeout_s": USUAL_TIMEOUT}),
        "prepare": recorded(given.prepare),
        "teacher": given.teacher,
    }
    command = "mdistill label " + shlex.join(arguments)
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        keep_settings(folder, "label", ledger)
        write_config(folder, "mdistill label", given)
        order = child_seed(given.seed, "prepare")
        systems, _ = prepared_systems(
            crystal, teacher, given.prepare, folder / "prepare", seed=order, timeout_s=settings.timeout_s, workers=given.workers,
            stop=stop,
        )  # fmt: skip
        results = label_run(systems, teacher, settings, folder, seed=seed, workers=given.workers, stop=stop)
    finish(stamped(results, settings, repeat=command), folder)
    return 0


def _hard(given: LabelArguments, arguments: list[str]) -> int:
    from mdistill.hardening.hard_labels import label_file
    from mdistill.hardening.harden import ANSWERS
    from mdistill.interrupt import stop_on_signals
    from mdistill.labelling.remembered import level_of, load_engine
    from mdistill.runs.folder import keep_settings
    from mdistill.runs.lock import locked

    folder, command = output_folder(given.out), "mdistill label " + shlex.join(arguments)
    home = folder / ANSWERS
    engine = load_engine(given.engine, cp2k=given.cp2k, pyscf=given.pyscf, device=given.device, home=home)
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        keep_settings(folder, "label", {"engine": level_of(engine)})
        write_config(folder, "mdistill label", given)
        results = label_file(given.structure, engine, folder, workers=given.workers, address=given.executor, stop=stop)
    finish(stamped(results, {"engine": level_of(engine)}, repeat=command), folder)
    return 0

"""mdistill distill: the main job."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Annotated

import tyro

from mdistill.errors import BadInput, BlowUp
from mdistill.flags.arguments import (
    checked_folder,
    finish,
    parse,
    read_toml,
    split_config,
    stamped,
    use_threads,
    with_missing,
    write_config,
)
from mdistill.flags.trust import TrustArguments, trusting
from mdistill.interrupt import NEVER, StopRequest
from mdistill.workflows.distill_settings import DistillSettings, quick_settings

if TYPE_CHECKING:
    from mdistill.runs.results import Results

SECTIONS = ("ladder", "what DFT changed", "transport", "matter")
"""Sections of the report that are printed."""
INPUT, RECIPE = "input", "smiles.txt"
"""Folder in the run that holds a copy of the structure file, so that the run can be repeated from itself; its SMILES."""


@dataclass(frozen=True, kw_only=True)
class DistillArguments(TrustArguments):
    """The main job."""

    settings: Annotated[DistillSettings, tyro.conf.arg(name="")]
    smiles: str = ""
    """Molecule as SMILES, in place of a structure file."""
    copies: int = 1
    """Number of copies in a periodic box."""
    density: float | None = None
    """Density of the box at the start, g/cm³."""
    out: Path | None = None
    """Run folder (default: runs/NAME OF THE STRUCTURE FILE)."""
    quick: bool = False
    """Preset of a first look: 10 to 20 min on two cores."""
    dry_run: bool = False
    """Plan only: sites, disorder rule, supercell, minutes."""
    update: bool = False
    """Permission to repeat stages of changed settings."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    workers: int = 0
    """Worker processes for teacher calls; 0: this one."""
    max_hours: float | None = None
    """Time limit, h: save and stop (exit status 130)."""


HELP = """\
From a structure (crystal, molecule, liquid, slab) and a teacher to a validated fast
student, production MD, results with error bars, and one report page.
Interrupted runs resume with the same command.

examples:
  mdistill distill crystal.cif --quick --dry-run
  mdistill distill crystal.cif --teacher chgnet --mobile Na --out runs/na
  mdistill distill crystal.cif --quick --stride-fs 16 --hard cp2k
  mdistill distill --smiles CCO --teacher xtb --quick
  mdistill distill --smiles OCCOCCO --copies 40 --density 1.12
  mdistill distill runs/na/run.toml --seed 1 --out runs/again
"""
GROUPS = {
    "what": ("teacher", "temperatures", "mobile", "seed", "quick", "stride_fs"),
    "structure": ("smiles", "copies", "density", "matter", "heavy_h", "cutoff", "prepare.orderings"),
    "labels and student": ("label.frames", "train.size", "train.fit.max_minutes", "committee", "hard", "hard_budget"),
    "production": ("production.time_ps", "production.time_step_fs", "production.charge"),
    "run": ("out", "dry_run", "update", "device", "threads", "workers", "max_hours", "trust"),
}


def main(arguments: list[str]) -> int:
    """Run the main job; exit status 4 where a gate failed."""
    config = split_config(arguments)[1]
    asked = "" if config is None else str(read_toml(config).get("preset", ""))
    preset, default = preset_of(asked, config, quick="--quick" in arguments)
    given = parse(DistillArguments, arguments, program="mdistill distill", description=HELP, default=default, groups=GROUPS)
    use_threads(given.threads)
    with built(given) as given:
        return _main(given, arguments, default=default, preset=preset)


def _main(given: DistillArguments, arguments: list[str], *, default: DistillArguments, preset: str) -> int:
    if given.dry_run:
        from mdistill.workflows.dry_run import dry_run

        finish(dry_run(given.settings), None)
        return 0
    from mdistill.interrupt import stop_on_signals

    command = "mdistill distill " + shlex.join(arguments)
    with stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        folder, results, broken = job(given, default=default, preset=preset, stop=stop)
    finish(stamped(results, results.settings, repeat=command), folder, report=True, sections=SECTIONS)
    trust = trusting([given.settings.teacher, given.settings.hard])
    print(f"repeat:  mdistill distill {shlex.quote(str(folder / 'run.toml'))}{trust} --out FOLDER")
    print(f"cite:    mdistill cite {shlex.quote(str(folder))}")
    if broken is not None:
        raise broken
    return 0 if all(gate.passed for gate in results.gates) else 4


@contextmanager
def built(given: DistillArguments) -> Iterator[DistillArguments]:
    """The arguments with a structure file; one made from SMILES is in a temporary folder, until the run has its copy.

    A run that has a copy keeps it.

    Raises:
        BadInput: Neither a file nor SMILES, or both; copies of a file; what `from_smiles` refuses; a charge that the teacher
            does not know.
    """
    settings, single = given.settings, given.copies == 1 and given.density is None
    if not given.smiles:
        if settings.structure == Path():
            allowed, fix = "a structure file, or --smiles", "mdistill distill crystal.cif, or --smiles CCO"
            raise BadInput("STRUCTURE", "missing", allowed=allowed, fix=fix)
        if not single:
            problem = f"given beside the file {settings.structure}, which is used as it is"
            raise BadInput("--copies, --density", problem, allowed="with --smiles alone", fix="leave them out")
        yield given
        return
    if settings.structure != Path():
        problem = f"given beside the file {settings.structure}"
        raise BadInput("--smiles", problem, allowed="a structure file or --smiles", fix="leave one of them out")
    from mdistill.io.files import replacing
    from mdistill.matter.smiles import from_smiles

    made = from_smiles(given.smiles, copies=given.copies, density=given.density, seed=settings.seed)
    teacher = _with_charge(settings.teacher, made.charge, made.unpaired)
    out = given.out or Path("runs") / made.name.replace(" ", "")
    matter = settings.matter if settings.matter != "auto" else "molecule" if single else "liquid"
    with tempfile.TemporaryDirectory(prefix="mdistill-") as folder:
        path, kept = Path(folder) / f"{made.name.replace(' ', '')}.extxyz", out / INPUT
        with replacing(path) as partial:
            made.atoms.write(partial, format="extxyz")
        if (kept / path.name).exists() and (kept / RECIPE).exists() and (kept / RECIPE).read_text("utf-8") == _recipe(given):
            path = kept / path.name
        cp2k, pyscf = settings.cp2k, settings.pyscf
        cp2k = dataclasses.replace(cp2k, charge=cp2k.charge or made.charge)
        pyscf = dataclasses.replace(pyscf, charge=pyscf.charge or made.charge, spin=pyscf.spin or made.unpaired)
        chosen = dataclasses.replace(settings, structure=path, teacher=teacher, matter=matter, cp2k=cp2k, pyscf=pyscf)
        yield dataclasses.replace(given, settings=chosen, out=out)


def _recipe(given: DistillArguments) -> str:
    """What a structure from SMILES was made of."""
    dense = "" if given.density is None else f" at {given.density:g} g/cm³"
    return f"{given.smiles}, copies: {given.copies}{dense}, seed {given.settings.seed}\n"


def _with_charge(teacher: str, charge: int, unpaired: int) -> str:
    """The teacher's name with charge and unpaired electrons of the molecule, where it has any."""
    from mdistill.teachers.cards import card_of

    told = ",".join(f"{key}={value}" for key, value in (("charge", charge), ("unpaired", unpaired)) if value)
    if not told or "@" in teacher:
        return teacher
    card = card_of(teacher)
    if card is None or card.package != "tblite":
        problem = f"charge {charge:+d}, {unpaired} unpaired electrons: {teacher} cannot be told of them"
        allowed = "neutral molecules without unpaired electrons, or a teacher that knows both"
        raise BadInput("--smiles", problem, allowed=allowed, fix="--teacher xtb")
    return f"{teacher}@{told}"


def preset_of(asked: str, source: Path | None, *, quick: bool = False) -> tuple[str, DistillArguments]:
    """Name of the preset, "" without one, and the arguments that a settings file or flags change.

    Raises:
        BadInput: A preset of another name.
    """
    if asked not in ("", "quick"):
        raise BadInput(f"preset in {source}", asked, allowed="quick, or none", fix="remove it")
    default = with_missing(DistillArguments)
    if asked or quick:
        return "quick", dataclasses.replace(default, settings=quick_settings())
    return "", default


def job(
    given: DistillArguments, *, default: DistillArguments, preset: str, stop: StopRequest = NEVER
) -> tuple[Path, Results, BlowUp | None]:
    """The run folder, its results, and what broke its production."""
    from mdistill.runs.results import read_results
    from mdistill.workflows.distill import distill

    folder = checked_folder(given.out or Path("runs") / given.settings.structure.stem)
    try:
        results = distill(
            given.settings, folder, update=given.update, workers=given.workers, stop=stop,
            on_begin=lambda: _write_config(given, folder, default=default, preset=preset),
        )  # fmt: skip
    except BlowUp as blown:
        return folder, read_results(folder), blown
    return folder, results, None


def _write_config(given: DistillArguments, folder: Path, *, default: DistillArguments, preset: str) -> None:
    """Write run.toml, and beside it a copy of the structure file."""
    from mdistill.io.files import sha256, write_text

    structure = given.settings.structure
    copy = folder / INPUT / structure.name
    if not copy.exists() or sha256(copy) != sha256(structure):
        copy.parent.mkdir(exist_ok=True)
        copyfile(structure, copy)
    if given.smiles:
        write_text(copy.parent / RECIPE, _recipe(given))
    settings = dataclasses.replace(given.settings, structure=copy)
    given = dataclasses.replace(given, settings=settings, smiles="", copies=1, density=None)
    write_config(folder, "mdistill distill", given, default=default, preset=preset)

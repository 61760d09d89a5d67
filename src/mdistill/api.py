"""The main jobs in Python: `simulate`, `distill`, `analyse`, `screen`. Structures of ASE and pymatgen are accepted.

Keywords are the flags.
A keyword is the name of the flag with underscores: `temperature_K=700`, `time_ps=50`. Settings inside settings take a dict, as in
`production={"time_ps": 100}`; the dotted form of the flag works as `**{"production.time_ps": 100}`.
"""

from __future__ import annotations

import dataclasses
import tempfile
import typing
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from mdistill.commands.distill import DistillArguments, built, job
from mdistill.errors import BadInput
from mdistill.flags.arguments import output_folder, stamped, use_threads, with_missing
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.convert_structures import write_structure
from mdistill.notices import noting
from mdistill.outcome import Outcome
from mdistill.runs.results import Results, merge, write_results
from mdistill.settings import USUAL_TIMEOUT, from_json, hints
from mdistill.simulation.settings import SimulateSettings
from mdistill.teachers.models import Precision
from mdistill.types import Potential, Trajectory
from mdistill.workflows.distill_settings import DistillSettings, quick_settings
from mdistill.workflows.settings import AnalyseSettings

Settings = TypeVar("Settings")


def simulate(
    structure: Any, potential: Any, settings: SimulateSettings | None = None, out: str | Path | None = None, *,
    stride_map: str | Path | None = None, repeat: tuple[int, int, int] = (1, 1, 1), device: str = "cpu",
    precision: Precision = "float32", threads: int | None = None, stop: StopRequest = NEVER, report: bool = True,
    velocities: Literal["file", "random"] = "file", timeout_s: float = USUAL_TIMEOUT, random_frame: bool = False,
    inner_steps: int = 0, **flags: Any,
) -> Outcome:  # fmt: skip
    """MD in NVE, NVT or NpT, as `mdistill simulate`.

    Args:
        structure: A path, ASE Atoms, a pymatgen Structure, a System or a Crystal; ordered.
        potential: A student's path, a run folder, a teacher's name, `module:attribute`, a loaded potential or an ASE calculator.
        settings: Settings to begin from.
        out: Folder for trajectory, log.csv, results.json and report.html; a run in it continues.
        stride_map: Long-stride map of the student.
        repeat: Repeats of the cell.
        device: cpu, cuda or auto.
        precision: Float type of a student that is given by its path.
        threads: Number of threads (default: all cores).
        stop: Checked after every step.
        report: Whether to write report.html and its figures, which takes about 2 s.
        velocities: Those of the structure, where it has any, or drawn at the temperature.
        timeout_s: Longest call of an ASE calculator, s.
        random_frame: Whether direct forces are taken in random orientations.
        inner_steps: Steps of direct forces inside each time step (0: none).
        flags: Any flag of `mdistill simulate`, such as temperature_K, time_ps, ensemble.
    Raises:
        BadInput: A structure, potential or setting that cannot be used; no `out`.
        BlowUp: The guard stopped the run.
    """
    from mdistill.direct.safe import for_dynamics
    from mdistill.export.start import as_start, suited
    from mdistill.export.watch import tell_committee_spread
    from mdistill.observables.simulation import dynamics_results, uncertainty_results
    from mdistill.runs.lock import locked
    from mdistill.simulation.simulate import simulate as run
    from mdistill.teachers.models import find_student, load_stride

    chosen = settings_from(SimulateSettings, settings, flags, where="simulate()")
    folder = _needed(out, "simulate()")
    use_threads(threads)
    start, model = (
        as_start(structure, repeat=repeat),
        as_potential(potential, device=device, precision=precision, timeout_s=timeout_s),
    )
    model = for_dynamics(model, random_frame=random_frame, inner_steps=inner_steps)
    system, momenta = start.system, None if velocities == "random" else start.momenta
    file = Path(potential) if isinstance(potential, (str, Path)) and Path(potential).exists() else None
    stride = None if stride_map is None else load_stride(Path(stride_map), student=file, precision=precision)
    with noting():
        chosen = suited(chosen, system, repeat=repeat)
        if file is not None:
            tell_committee_spread(find_student(file) if file.is_dir() else file, model, system)
        with locked(output_folder(folder)):
            done = run(system, model, chosen, folder, stride=stride, stop=stop, momenta=momenta, masses=start.masses)
            results = dynamics_results(done, model, chosen)
            if file is not None:
                results = merge(results, uncertainty_results(model, file, done))
            results = _saved(results, chosen, folder, report=report)
    return Outcome(results=results, folder=folder, trajectory=done.trajectory, final=done.state.system)


def distill(
    structure: Any = Path(), out: str | Path | None = None, *, settings: DistillSettings | None = None, smiles: str = "",
    copies: int = 1, density: float | None = None, quick: bool = False, dry_run: bool = False, update: bool = False,
    workers: int = 0, threads: int | None = None, stop: StopRequest = NEVER, **flags: Any,
) -> Outcome:  # fmt: skip
    """The main job, as `mdistill distill`: structure → student, gates, production MD, results, report.

    Args:
        structure: A path, ASE Atoms, a pymatgen Structure (partial occupancies are ordered), a System or a Crystal;
            or `DistillSettings`, which name a file.
        out: Run folder (default: runs/NAME OF THE FILE, which a structure that is no file does not have).
        settings: Settings to begin from.
        smiles: A molecule as SMILES, in place of a structure.
        copies, density: Number of copies in a periodic box, and its density (g/cm³).
        quick: Preset for a first look.
        dry_run: Plan only; nothing is written.
        update: Permission to repeat the stages that changed settings affect.
        workers: Number of worker processes for teacher calls.
        threads: Number of threads.
        stop: Checked within every long loop.
        flags: Any flag of `mdistill distill`, such as teacher, temperatures, mobile.
    Raises:
        BadInput: A structure or setting that cannot be used; other settings than those of the folder.
        BlowUp: A production run broke; results and report are written before.
    """
    if isinstance(structure, DistillSettings):
        structure, settings = structure.structure, structure
    use_threads(threads)
    with ExitStack() as until, noting():
        if not isinstance(structure, (str, Path)):
            folder = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="mdistill-")))
            structure = write_structure(folder, structure)
            out = out if dry_run else _needed(out, "distill()")
        begin = settings or (quick_settings(Path(structure)) if quick else DistillSettings(structure=Path(structure)))
        begin = dataclasses.replace(begin, structure=Path(structure))
        chosen = settings_from(DistillSettings, begin, flags, where="distill()")
        given = DistillArguments(
            settings=chosen, out=None if out is None else Path(out), smiles=smiles, copies=copies, density=density, quick=quick,
            update=update, workers=workers,
        )  # fmt: skip
        given = until.enter_context(built(given))
        chosen = given.settings
        if dry_run:
            from mdistill.workflows.dry_run import dry_run as plan

            return Outcome(results=plan(chosen))
        folder, results, broken = job(given, default=with_missing(DistillArguments), preset="", stop=stop)
        results = _saved(results, results.settings, folder)
    if broken is not None:
        raise broken
    student = folder / "student.mdistill"
    return Outcome(results=results, folder=folder, student=student if student.exists() else None)


def analyse(
    trajectory: Any, settings: AnalyseSettings | None = None, out: str | Path | None = None, *, report: bool = True, **flags: Any
) -> Outcome:
    """RDF, MSD, diffusivity and conductivity of a trajectory, as `mdistill analyse`.

    Args:
        trajectory: A path or several in time order, a run folder, a `Trajectory`, what `simulate` gave, or a list of ASE Atoms.
        settings: Settings to begin from.
        out: Folder for results.json and report.html (default: nothing is written).
        report: Whether to write report.html and its figures too.
        flags: Any flag of `mdistill analyse`: species is needed; temperature_K, frame_time_fs, discard_ps, …
    Raises:
        BadInput: No trajectory, frames that do not belong together, or a setting that cannot be used.
    """
    from mdistill.commands.analyse import trajectory_of
    from mdistill.workflows.analyse import analyse as run

    chosen = settings_from(AnalyseSettings, settings, flags, where="analyse()")
    with ExitStack() as until, noting():
        if isinstance(trajectory, Outcome):
            trajectory = _needed(trajectory.trajectory, "analyse()")
        listed = isinstance(trajectory, (list, tuple))
        if listed and not all(isinstance(one, (str, Path)) for one in trajectory):
            folder = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="mdistill-")))
            trajectory = _written(folder, trajectory)
        if isinstance(trajectory, Trajectory):
            results = run(trajectory, chosen)
        else:
            files = [trajectory] if isinstance(trajectory, (str, Path)) else list(trajectory)
            results = run([trajectory_of(Path(file)) for file in files], chosen)
        results = _saved(results, chosen, None if out is None else Path(out), report=report)
    return Outcome(results=results, folder=None if out is None else Path(out))


def screen(
    structures: Any, out: str | Path | None = None, *, species: str = "Li", temperature: Sequence[float] = (300.0,),
    model: str | Path | None = None, motion: str | Path | None = None, report: bool = True,
) -> Outcome:  # fmt: skip
    """Conductivities at 300 K from the statistics of measured ones, motion at other temperatures, ranked, as `mdistill screen`.

    Args:
        structures: A path (file or folder), ASE Atoms, a pymatgen Structure, a System or a Crystal; or a list of these.
        out: Folder for screen.csv, results.json and report.html (default: nothing is written).
        species: Mobile ion.
        temperature: Temperatures, K: 290 to 310 asks for σ as measured, others for MSD, D and σ of the ions' motion.
        model, motion: Model files of `mdistill train transport` for 300 K and for others (default: those of the package).
        report: Whether to write report.html and its figures too.
    Returns:
        `rows("screen")` (300 K) and `rows("motion")` (other temperatures) have a row for each structure, the best first;
        `rows("unread")` those that could not be used.
    Raises:
        BadInput: No structure that can be used.
    """
    from mdistill.io.files import write_text
    from mdistill.screening.screen import check_temperatures
    from mdistill.screening.screen import screen as run
    from mdistill.screening.tables import screen_csv

    kelvins = check_temperatures(temperature)
    given = list(structures) if isinstance(structures, (list, tuple)) else [structures]
    with tempfile.TemporaryDirectory(prefix="mdistill-") as place, noting():
        files = [
            Path(one) if isinstance(one, (str, Path)) else write_structure(Path(place) / str(k), one)
            for k, one in enumerate(given, 1)
        ]
        first, second = (None if one is None else Path(one) for one in (model, motion))
        results = _renamed(run(files, species=species, temperatures_K=kelvins, model=first, motion=second), f"{place}/")
        asked = {"species": species, "temperature": kelvins}
        results = _saved(results, asked, None if out is None else Path(out), report=report)
    if out is not None:
        write_text(Path(out) / "screen.csv", screen_csv(results))
    return Outcome(results=results, folder=None if out is None else Path(out))


def _renamed(results: Results, folder: str) -> Results:
    """Results that name structures given as objects by their number, not by the file that they were written to."""

    def plain(cell: Any) -> Any:
        return cell.removeprefix(folder).removesuffix("/structure.extxyz") if isinstance(cell, str) else cell

    tables = [dataclasses.replace(one, rows=[[plain(cell) for cell in row] for row in one.rows]) for one in results.tables]
    figures = [
        dataclasses.replace(
            one, series=[dataclasses.replace(s, label=plain(s.label), subject=plain(s.subject)) for s in one.series]
        )
        for one in results.figures
    ]
    return dataclasses.replace(results, tables=tables, figures=figures)


def as_potential(
    potential: Any, *, device: str = "cpu", precision: Precision = "float64", timeout_s: float = USUAL_TIMEOUT
) -> Potential:
    """A potential by name or path, an ASE calculator, or a potential as it is.

    Raises:
        BadInput: Neither of these.
    """
    from mdistill.teachers.ase import from_calculator
    from mdistill.teachers.models import load

    if isinstance(potential, (str, Path)):
        return load(potential, device=device, precision=precision, subject="potential", timeout_s=timeout_s)
    return potential if isinstance(potential, Potential) else from_calculator(potential, timeout_s=timeout_s)


def settings_from(kind: type[Settings], begin: Settings | None, flags: Mapping[str, Any], *, where: str) -> Settings:
    """Settings from keywords named as the flags.

    Raises:
        BadInput: An unknown name (the message offers the nearest one), or a value that is refused.
    """
    raw: dict[str, Any] = {}
    for name, value in flags.items():
        place, (*outer, last) = raw, name.split(".")
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return from_json(kind, _plain(kind, raw), source=where, default=begin)


def _plain(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a settings file would have them."""
    known, made = hints(kind), dict[str, Any]()
    for name, value in raw.items():
        inner = known.get(name)
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, Mapping) and dataclasses.is_dataclass(inner):
            plain = _plain(inner, plain)  # type: ignore[arg-type]
        elif isinstance(plain, (tuple, list, np.ndarray)):
            plain = [one.item() if isinstance(one, np.generic) else one for one in plain]
        elif "tuple" in str(inner) and plain is not None:
            plain = [plain]
        made[name] = plain
    return made


def _needed(out: Any, where: str) -> Path:
    if out is None:
        raise BadInput("out", f"not given to {where}", allowed="a folder for what it writes", fix='out="runs/mine"')
    return Path(out)


def _written(folder: Path, frames: Sequence[Any]) -> Path:
    """ASE Atoms as a file of their full precision."""
    from ase import Atoms
    from ase.io import write

    if not all(isinstance(frame, Atoms) for frame in frames):
        kinds = ", ".join(sorted({type(frame).__name__ for frame in frames}))
        raise BadInput("trajectory", f"a list of {kinds}", allowed="paths, or ASE Atoms", fix="convert them")
    write(folder / "frames.traj", list(frames))
    return folder / "frames.traj"


def _saved(results: Results, settings: Any, folder: Path | None, *, report: bool = True) -> Results:
    """Results stamped and, with a folder, written with their report; the notices of the job are among the notes."""
    from mdistill.notices import heard
    from mdistill.report.page import write_report

    notes = [*results.notes, *(text for text in heard() if text not in results.notes)]
    made = typing.cast(Results, stamped(dataclasses.replace(results, notes=notes), settings))
    if folder is not None:
        write_results(output_folder(folder), made)
    if folder is not None and report:
        write_report(folder, figures=True)
    return made

"""mdistill train stride: a long-stride map from a student's own dynamics."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.errors import BadInput
from mdistill.flags.arguments import finish, output_folder, parse, stamped, use_threads, write_config
from mdistill.judge.settings import StrideRungSettings
from mdistill.settings import amended


@dataclass(frozen=True, kw_only=True)
class TrainStrideArguments:
    """Student and run folder."""

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Run folder, or with --structure a student: file or ready name."""
    structure: Path | None = None
    """Ordered structure (default: the run's)."""
    nve: tuple[Path, ...] = ()
    """NVE trajectories with momenta of the same atoms, used in place of new runs of the student. By default the map is
    judged at their mean temperature."""
    frame_time_fs: float | None = None
    """Time between frames of --nve, fs, where a file has none."""
    out: Path | None = None
    """Folder for stride.mdistill, its segments and results.json (default: RUN/stride)."""
    seed: int = 0
    """Seed of everything random."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    settings: Annotated[StrideRungSettings, tyro.conf.arg(name="")] = field(default_factory=StrideRungSettings)


HELP = """\
Learn a map that advances positions and momenta by 8 to 64 fs at the cost of two to four light force calls, from short NVE
runs of the student. It consists of kicks and drifts with learned potentials: symplectic, reversible, momentum conserved.
It is compared with time steps in NVE, Langevin and Bussi dynamics: temperature of every element, RDFs, drift, speed.
The report of the run gets the rung and a section.

examples:
  mdistill train stride --from runs/mine
  mdistill train stride --from runs/mine --train.stride-fs 24 --train.fit.max-minutes 20
  mdistill train stride --from student.mdistill --structure crystal.cif --out runs/stride
  mdistill simulate crystal.cif --potential runs/mine --stride-map runs/mine/stride --temperature-K 700 --out runs/md
"""
GROUPS = {
    "what": ("source", "structure", "nve", "frame_time_fs"),
    "map": ("train.stride_fs", "train.kicks", "train.kick_size", "train.fit.max_minutes", "train.held_out"),
    "segments": ("segments.temperatures_K", "segments.segments", "segments.strains"),
    "judge": ("judge.temperature_K", "judge.time_ps", "judge.longest_ps"),
    "run": ("out", "seed", "threads", "max_hours"),
}


def main(arguments: list[str]) -> int:
    """Train and judge; exit status 4 where a gate failed."""
    given = parse(TrainStrideArguments, arguments, program="mdistill train stride", description=HELP, groups=GROUPS)
    from mdistill.data.segments import Segment
    from mdistill.interrupt import stop_on_signals
    from mdistill.io.structures import STRUCTURES, read_system, read_systems
    from mdistill.labelling.segments import recorded_segments
    from mdistill.nets.model_files import read_metadata
    from mdistill.report.page import add_to_report
    from mdistill.runs.folder import keep_settings, run_settings
    from mdistill.runs.lock import locked
    from mdistill.teachers.models import find_student, load, located
    from mdistill.workflows.stride import rung_seeds, stride_rung

    use_threads(given.threads)
    run = given.source if (given.source / "prepare" / STRUCTURES).is_file() else None
    out = given.out or (run / "stride" if run else None)
    if out is None or (run is None and given.structure is None):
        missing = "--structure" if given.structure is None else "--out"
        raise BadInput(given.source, "is no run folder", allowed="a run folder, or a student with --structure and --out",
                       fix=f"add {missing}")  # fmt: skip
    student = find_student(given.source) if given.source.is_dir() else located(given.source)
    read_metadata(student)
    if given.structure is not None:
        systems = [read_system(given.structure)]
    else:
        systems = read_systems((run or given.source) / "prepare" / STRUCTURES)
    kelvins = tuple(run_settings(run).get("label", {}).get("temperatures_K", ())) if run else ()
    flow, wanted = list[Segment](), given.settings
    if given.nve:
        flow = recorded_segments(given.nve, systems[0], load(student), wanted.segments, frame_time_fs=given.frame_time_fs)
        kelvins = tuple(sorted({round(part.temperature_K, 1) for part in flow}))
        wanted = replace(wanted, segments=replace(wanted.segments, temperatures_K=kelvins))
        print(f"learned from: {len(flow)} segments at {', '.join(f'{kelvin:g}' for kelvin in kelvins)} K")
    settings = wanted.resolved(kelvins)
    folder, command = output_folder(out), "mdistill train stride " + shlex.join(arguments)
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        seeds = {f"{part}.seed": seed for part, seed in rung_seeds(given.seed).items()}
        keep_settings(folder, "train stride", amended(settings, seeds))
        write_config(folder, "mdistill train stride", given)
        rung = stride_rung(student, systems, settings, folder, recorded=flow, seed=given.seed, stop=stop)
        found = stamped(rung, settings, repeat=command)
    if run is not None:
        with locked(run):
            print(f"added to: {add_to_report(run, found)}")
    finish(found, folder, report=True)
    print(f"map: {folder / 'stride.mdistill'}")
    return 0 if all(gate.passed for gate in found.gates) else 4

"""mdistill analyse: RDF, MSD, diffusivity and conductivity of any trajectory."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.flags.arguments import finish, output_folder, parse, stamped, write_config
from mdistill.workflows.settings import AnalyseSettings


@dataclass(frozen=True, kw_only=True)
class AnalyseArguments:
    """Which trajectory."""

    trajectories: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of one trajectory in time order: .h5, a run folder, XDATCAR (also .gz), extxyz, .traj, …"""
    out: Path
    """Folder for results.json and report.html."""
    settings: Annotated[AnalyseSettings, tyro.conf.arg(name="")]


HELP = """\
Radial distribution functions, mean square displacement, tracer diffusivity and Nernst–Einstein conductivity with error
bars, from any trajectory ASE can read. Wrapped coordinates are unwrapped, with a note. Ions that do not hop are reported
as below detection, with an upper limit.

examples:
  mdistill analyse runs/md700 --species Li --temperature-K 700 --out runs/analysis
  mdistill analyse run1/XDATCAR.gz run2/XDATCAR.gz --species Li --temperature-K 500 --frame-time-fs 100 --out runs/aimd
"""
GROUPS = {
    "what": ("species", "temperature_K", "charge", "frame_time_fs", "elements"),
    "how": ("discard_ps", "every", "fit_from_ps", "hop_distance"),
    "run": ("out", "seed"),
}


def main(arguments: list[str]) -> int:
    """Analyse; prints the transport table."""
    given = parse(AnalyseArguments, arguments, program="mdistill analyse", description=HELP, groups=GROUPS)
    from mdistill.workflows.analyse import analyse

    results = analyse([trajectory_of(path) for path in given.trajectories], given.settings)
    command = "mdistill analyse " + shlex.join(arguments)
    folder = output_folder(given.out)
    write_config(folder, "mdistill analyse", given)
    finish(stamped(results, given.settings, repeat=command), folder, report=True)
    return 0


def trajectory_of(path: Path) -> Path:
    """The trajectory of a run folder, or the file itself; one that its run finished is compared with its sha256."""
    from mdistill.runs.ledger import Ledger

    inside = [path / name for name in ("trajectory.h5", "trajectory.extxyz") if (path / name).is_file()]
    file = inside[0] if inside else path
    Ledger(file.parent).check_outputs("simulation")
    return file

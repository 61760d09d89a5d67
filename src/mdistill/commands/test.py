"""mdistill test: errors of a model on labels, by element and group."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mdistill.commands.label_files import LABEL_FILES, LabelFileArguments, file_settings
from mdistill.flags.arguments import finish, output_folder, parse, stamped, use_threads
from mdistill.flags.trust import TrustArguments


@dataclass(frozen=True, kw_only=True)
class TestArguments(LabelFileArguments, TrustArguments):
    """Model and labels."""

    model: Annotated[str, tyro.conf.Positional]
    """student.mdistill, a run folder, a teacher's name, or module:attribute of an ASE calculator."""
    labels: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files with labels (extended XYZ, .npz, vasprun.xml, OUTCAR, ASE database), or a label folder."""
    out: Path | None = None
    """Folder for results.json, report and plots (default: print only)."""
    device: str = "cpu"
    """Device of a teacher: cpu, cuda or auto."""
    precision: Literal["float32", "float64"] = "float64"
    """Float type of a student."""
    threads: int | None = None
    """Number of threads (default: all cores)."""


HELP = """\
Errors of a model on labelled structures that it was not trained on: forces, energies and stress, by element and by group, with
parity plots. Energies are also compared after fitting one reference energy per element, for labels of another code. A note tells
how many structures the model was trained on, and which are far from those, where its file tells.

examples:
  mdistill test runs/mine test.extxyz --out runs/test
  mdistill test sevennet-0 vasprun.xml
  mdistill test student.mdistill data.npz --group-key config_type
"""
GROUPS = {"label files": LABEL_FILES, "run": ("out", "device", "precision", "threads", "trust")}


def main(arguments: list[str]) -> int:
    """Test; prints the tables."""
    given = parse(TestArguments, arguments, program="mdistill test", description=HELP, groups=GROUPS)
    from mdistill.interrupt import stop_on_signals
    from mdistill.judge.label_errors import label_errors
    from mdistill.labelling.import_labels import import_labels
    from mdistill.teachers.models import load
    from mdistill.workflows.run_parts import read_labels

    use_threads(given.threads)
    if len(given.labels) == 1 and given.labels[0].is_dir():
        frames = read_labels(given.labels[0])
    else:
        frames = import_labels(given.labels, file_settings(given), hold_out=False).frames
    potential = load(given.model, device=given.device, precision=given.precision, subject="MODEL")
    folder, command = None if given.out is None else output_folder(given.out), "mdistill test " + shlex.join(arguments)
    with stop_on_signals(resume=command) as stop:
        results = label_errors(potential, frames, stop=stop)
    finish(stamped(results, given, repeat=command), folder, report=folder is not None)
    return 0

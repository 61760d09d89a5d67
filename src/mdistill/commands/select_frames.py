"""mdistill select-frames: few structures that cover many, for expensive labels."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mdistill.flags.arguments import finish, parse, stamped
from mdistill.hardening.settings import LARGEST_FORCE

if TYPE_CHECKING:
    from mdistill.types import System


@dataclass(frozen=True, kw_only=True)
class SelectArguments:
    """Structures."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files with one or many structures (extended XYZ, or what ASE reads), or label and run folders."""
    budget: int = 40
    """Number of structures to choose."""
    out: Path = Path("selected.extxyz")
    """File of the chosen structures, most novel first; the plot of their coverage lies beside it (.svg)."""
    student: Path | None = None
    """Student, or its run: structures are compared in its invariants (default: histograms of distances)."""
    known: tuple[Path, ...] = ()
    """Files or folders with structures that are labelled already."""
    method: Literal["farthest", "leverage"] = "farthest"
    """Choice: farthest points, or highest leverage (greedy D-optimal design)."""
    floor: float = 0.75
    """Shortest distance of a pair, as a share of the shortest such pair in --known; closer structures are left out."""
    largest_force: float = LARGEST_FORCE
    """Largest force of a structure, eV/Å, by its file or label, else by --student; larger ones are left out."""


HELP = """\
Choose structures for labels that are too expensive for all: each next one is the one least like those before. Copies are never
chosen twice, and structures with very large forces not at all. A plot shows how much of all structures the first 1, 2, 3, … of
them cover.

examples:
  mdistill select-frames md.extxyz --budget 40 --student runs/mine
  mdistill select-frames runs/mine --known dft/ --method leverage --out next.extxyz
"""
GROUPS = {"what": ("budget", "student", "known", "method", "floor", "largest_force"), "run": ("out",)}


def main(arguments: list[str]) -> int:
    """Choose; prints a table and writes the structures."""
    given = parse(SelectArguments, arguments, program="mdistill select-frames", description=HELP, groups=GROUPS)
    from mdistill.hardening.coverage import select_frames
    from mdistill.io.files import write_text
    from mdistill.report.figures import figure_svg

    candidates, forces = structures(given.files)
    results = select_frames(
        candidates, given.budget, given.out, student=given.student, reference=structures(given.known)[0], method=given.method,
        floor=given.floor, forces=forces, largest_force=given.largest_force,
    )  # fmt: skip
    write_text(given.out.with_suffix(".svg"), figure_svg(results.figures[0], inline=False))
    finish(stamped(results, given, repeat="mdistill select-frames " + shlex.join(arguments)), None)
    print(f"structures: {given.out}\ncoverage:   {given.out.with_suffix('.svg')}")
    return 0


def structures(paths: Sequence[Path]) -> tuple[list[System], list[float | None]]:
    """Structures of files, and of label and run folders; the largest force of each, eV/Å, None where it is not told."""
    from mdistill.hardening.coverage import forces_in, largest_of
    from mdistill.io.structures import read_systems
    from mdistill.workflows.run_parts import read_labels

    found: list[System] = []
    forces: list[float | None] = []
    for path in paths:
        labels = read_labels(path) if path.is_dir() else []
        found += [frame.system for frame in labels] or read_systems(path)
        forces += [None if "forces" in frame.missing else largest_of(frame.target) for frame in labels] or forces_in(path)
    return found, forces

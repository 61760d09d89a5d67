"""Resume of an i-PI run whose processes were killed, or whose machine went down.

    python -m mdistill.export.ipi_resume [FOLDER or CHECKPOINT]

i-PI continues from a checkpoint, `i-pi run.restart`. After a kill three things are in its way. It appends to its output files, so
that what was written after the checkpoint is there twice. The file of its UNIX socket is still there, and i-PI does not start. A
checkpoint that was being written is damaged. This chooses the last whole checkpoint, cuts the output files at its step, removes
the file of a socket at which nobody listens, and prints the command.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from mdistill.errors import BadInput, MdistillError

_HEAD = 4096
"""Bytes that tell whether a file is one of i-PI's."""
_STEP = re.compile(rb"\bStep:\s*(\d+)")
_COLUMN = re.compile(rb"^#\s*column\s+(\d+)\s+-->\s+step\b")
_XYZ = (".xyz", ".extxyz")
_AGAIN = "start again: i-pi input.xml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file to which i-PI appends.

    Attributes:
        path: The file.
        stride: Number of steps between two records.
        starts: Step and first byte of each whole record (row or frame); empty where it tells no steps.
        end: Number of bytes up to the end of the last of them.
    """

    path: Path
    stride: int
    starts: list[tuple[int, int]]
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint of i-PI.

    Attributes:
        path: Its file.
        root: Its content.
        step: Number of steps done.
    """

    path: Path
    root: ElementTree.Element
    step: int

    @property
    def total(self) -> int:
        """Number of steps asked for; i-PI's default where the file tells none."""
        return int(self.root.findtext("total_steps", "1000"))

    def outputs(self) -> Iterator[Output]:
        """Tables and trajectories that are there."""
        told = self.root.find("output")
        prefix = "i-pi" if told is None else told.get("prefix", "i-pi")
        for kind, usual, end in (("properties", "out", r"$"), ("trajectory", "traj", r"(_\d+)?\.\w+$")):
            for one in self.root.findall(f"output/{kind}"):
                name = ".".join(part for part in (prefix, one.get("filename", usual)) if part)
                pattern = re.compile(rf"^(\w+_)?{re.escape(name)}{end}")
                for path in sorted(path for path in self.path.parent.iterdir() if path.is_file() and pattern.match(path.name)):
                    with open(path, "rb") as handle:
                        read = _rows if kind == "properties" else _frames
                        starts, whole = ([], 0) if kind != "properties" and path.suffix not in _XYZ else read(handle)
                    yield Output(path=path, stride=int(one.get("stride", "1")), starts=starts, end=whole)


def _rows(handle: BinaryIO) -> tuple[list[tuple[int, int]], int]:
    """Step and first byte of each row of a table, and the bytes up to the end of the last whole one."""
    starts, end, column = list[tuple[int, int]](), 0, -1
    for line in handle:
        if line.startswith(b"#"):
            found = _COLUMN.match(line)
            column = column if found is None else int(found[1]) - 1
        else:
            try:
                step = round(float(line.split()[column])) if column >= 0 and line.endswith(b"\n") else None
            except (IndexError, ValueError):
                step = None
            if step is None:
                break
            starts.append((step, end))
        end += len(line)
    return starts, end


def _frames(handle: BinaryIO) -> tuple[list[tuple[int, int]], int]:
    """Step and first byte of each frame of a file in xyz, and the bytes up to the end of the last whole one."""
    starts, end = list[tuple[int, int]](), 0
    while count := handle.readline():
        found, atoms = _STEP.search(comment := handle.readline()), int(count) if count.strip().isdigit() else -1
        lines = [handle.readline() for _ in range(atoms)]
        if found is None or atoms < 0 or not all(line.endswith(b"\n") for line in (count, comment, *lines)):
            break
        starts.append((int(found[1]), end))
        end += sum(map(len, (count, comment, *lines)))
    return starts, end


def checkpoints(folder: Path) -> tuple[list[Checkpoint], list[str]]:
    """Whole checkpoints in a folder, that of the most steps first, and the names of damaged files of i-PI."""
    whole, damaged = list[Checkpoint](), list[str]()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as handle:
            if b"<simulation" not in handle.read(_HEAD):
                continue
        try:
            root = ElementTree.parse(path).getroot()  # noqa: S314  (a file that i-PI wrote in the user's folder)
        except ElementTree.ParseError:
            damaged.append(path.name)
            continue
        step = root.findtext("step", "").strip()
        if root.tag == "simulation" and step.isdigit() and root.find("system/beads/q") is not None:
            whole.append(Checkpoint(path=path, root=root, step=int(step)))
    return sorted(whole, key=lambda one: one.step, reverse=True), damaged


def resume(place: Path) -> tuple[Checkpoint, list[str]]:
    """Make a folder ready for `i-pi CHECKPOINT`; gives the checkpoint and what was done.

    Args:
        place: The folder in which i-PI ran, or the checkpoint to continue from.
    Raises:
        BadInput: No whole checkpoint, one beyond the output files, a run that is done, or an i-PI that is at work there.
    """
    if not place.exists():
        raise BadInput(place, "no such file or folder", allowed="a folder in which i-PI ran", fix="check the path")
    found, damaged = checkpoints(place if place.is_dir() else place.parent)
    found = found if place.is_dir() else [one for one in found if one.path == place]
    notes = [f"{name} is damaged: left out" for name in damaged]
    if not found:
        problem = "; ".join(["holds no whole checkpoint", *notes])
        raise BadInput(place, problem, allowed="RESTART or run.restart of i-PI", fix=_AGAIN)
    last = max((one.starts[-1][0] + one.stride - 1 for one in found[0].outputs() if one.starts), default=found[0].step)
    usable = [one for one in found if one.step <= last]
    if not usable:
        problem = f"is of step {found[-1].step}, but the output files end before step {last + 1}"
        raise BadInput(found[-1].path, problem, allowed="a checkpoint of the same run", fix=_AGAIN)
    chosen = usable[0]
    if chosen.step >= chosen.total:
        problem, fix = (
            f"the run is done: {chosen.step} steps of {chosen.total}",
            f"for more, raise <total_steps> in {chosen.path}",
        )
        raise BadInput(chosen.path, problem, allowed="a run that was stopped", fix=fix)
    notes += [note for one in chosen.root.iter("ffsocket") if (note := _freed(chosen.root, one))]
    return chosen, notes + [note for one in chosen.outputs() for note in _cut(one, chosen.step)]


def _cut(output: Output, step: int) -> list[str]:
    """Cut a file after a step; gives what was done, and what is wrong."""
    name, steps = output.path.name, [at for at, _ in output.starts]
    if not steps:
        return [f"{name} tells no steps: i-PI appends to it, and what it wrote after step {step} will be there twice"]
    after = [offset for at, offset in output.starts if at > step]
    end, notes = min([*after, output.end]), list[str]()
    if end < output.path.stat().st_size:
        os.truncate(output.path, end)
        notes.append(f"{name}: cut after step {step}")
    kept = [at for at, offset in output.starts if offset < end]
    if back := next((b for a, b in pairwise(kept) if b <= a), None):
        notes.append(f"{name} has steps from {back} on twice: an earlier run was resumed without this command")
    if kept and step - kept[-1] >= output.stride:
        notes.append(f"{name} lacks steps {kept[-1] + output.stride} to {step}: they were not on the disk")
    return notes


def _freed(root: ElementTree.Element, forcefield: ElementTree.Element) -> str:
    """Remove the file of a UNIX socket at which nobody listens; gives what was done."""
    if forcefield.get("mode", "inet") != "unix":
        return ""
    path = Path(root.get("sockets_prefix", "/tmp/ipi_") + forcefield.findtext("address", "localhost").strip())  # noqa: S108
    if not path.exists():
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return f"{path}: removed, nobody listened there"
    raise BadInput(
        path, "i-PI is at work there", allowed="a run that was stopped", fix="wait for it, or give it another <address>"
    )


def main(arguments: list[str]) -> int:
    """Prepare the folder and print the command; gives the exit status."""
    try:
        if len(arguments) > 1:
            usage = "python -m mdistill.export.ipi_resume [FOLDER or CHECKPOINT]"
            raise BadInput("arguments", f"{len(arguments)}", allowed="none, or one", fix=usage)
        chosen, notes = resume(Path(arguments[0] if arguments else "."))
    except MdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for note in notes:
        print(f"note: {note}")
    print(f"{chosen.path}: {chosen.step} of {chosen.total} steps are done")
    there = "" if chosen.path.parent == Path() else f"cd {chosen.path.parent} && "
    print(f"continue: {there}i-pi {chosen.path.name}")
    if chosen.root.find("ffsocket") is not None:
        print("then start the clients again, as for the first part")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

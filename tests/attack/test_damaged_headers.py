"""70 cuts and 70 damaged bytes in the headers of HDF5, AMBER NetCDF, ASE .traj and .db: status 2 or 0, in bounded time and memory."""

from __future__ import annotations

import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from attack.forks import run_in_fork
from attack.tally import PER_KIND, Outcomes, cuts
from mdistill import cli
from mdistill.export.frames import read_frames
from mdistill.export.write_frames import write_frames
from mdistill.io.trajectories import _READ
from mdistill.nets.model_files import save_model
from systems import tiny_net

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_drawing")]
LONGEST_S, MEMORY = 60, 6 << 30
"""Processor time and address space beyond that at the start that a command may take."""
HEADER = 2048
"""Bytes from the start (.traj: from the end too) in which most are damaged."""


def images() -> list[Atoms]:
    """A salt whose atoms move a little, with labels."""
    draw, made = np.random.default_rng(3), []
    sites = 2.6 * np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)])
    for k in range(24):
        atoms = Atoms("LiClClLiClLiLiCl", positions=sites + 0.02 * k**0.5 * draw.normal(size=(8, 3)), cell=[5.2] * 3, pbc=True)
        atoms.info["time_fs"] = 20.0 * k
        atoms.calc = SinglePointCalculator(atoms, energy=-30.0, forces=0.1 * draw.normal(size=(8, 3)), stress=np.zeros(6))
        made.append(atoms)
    return made


def make(path: Path) -> None:
    whole = path.parent / "whole.extxyz"
    ase.io.write(whole, images())
    if path.suffix == ".traj":
        ase.io.write(path, images())
    elif path.suffix == ".db":
        with connect(path) as shelf:
            for atoms in images():
                shelf.write(atoms)
    elif path.name == "plain.h5":
        write_frames(path.parent / "own.h5", read_frames(whole), source=whole)
        with h5py.File(path.parent / "own.h5") as own, h5py.File(path, "w", libver="earliest") as plain:
            for place in _READ.values():
                if place in own:
                    plain.create_dataset(place, data=own[place][()])
    else:
        write_frames(path, read_frames(whole), source=whole)


def commands(path: Path) -> dict[str, list[str]]:
    out, model = path.parent / "out", path.parent / "student.mdistill"
    if path.suffix == ".db":
        return {"test": ["test", str(model), str(path), "--out", str(out)], "convert": ["convert", str(path), f"{out}.extxyz"]}
    analyse = f"analyse {path} --species Li --temperature-K 300 --frame-time-fs 20 --out {out}"
    return {"convert": ["convert", str(path), f"{out}.extxyz"], "analyse": analyse.split()}


def damaged(content: bytes, path: Path) -> Iterator[tuple[str, bytes]]:
    """One byte each, set to another value; most of them where the header is."""
    draw = np.random.default_rng(5)
    for k in range(PER_KIND):
        span = len(content) if k % 4 == 0 else min(HEADER, len(content))
        place = int(draw.integers(span))
        place = len(content) - 1 - place if path.suffix == ".traj" and k % 2 else place
        changed = bytearray(content)
        changed[place] = (changed[place] + (1, 127, 255, 64)[k % 4]) % 256
        yield f"byte {place} of {len(content)}: {content[place]} → {changed[place]}", bytes(changed)


def ended(command: list[str], said: Path) -> str:
    """How a command ended in a fork of this process with limits."""

    def limit() -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST_S)

    status = run_in_fork(command, said, before=limit)
    text = said.read_text(encoding="utf-8")
    if status < 0:
        return f"signal: {signal.Signals(-status).name}"
    if "Traceback" in text or "unexpected" in text:
        return f"traceback: {text[-600:]}"
    if status == 2:
        return "refused" if "fix:" in text else f"no fix: {text[-300:]}"
    return "accepted" if status == 0 else f"status {status}: {text[-300:]}"


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attack", ["cuts", "bytes"])
@pytest.mark.parametrize("name", ["trajectory.h5", "plain.h5", "run.nc", "run.traj", "labels.db"])
def test_damaged_headers(name: str, attack: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    path, tally, statuses = tmp_path / name, Outcomes(), Counter[str]()
    make(path)
    save_model(tmp_path / "student.mdistill", tiny_net())
    whole = path.read_bytes()
    for which, command in commands(path).items():
        assert cli.run(command) in (0, 2)  # here, so that forks find the modules imported
        first = ended(command, tmp_path / "said")
        right = (tmp_path / "out.extxyz").read_bytes() if which == "convert" else b""
        assert first == "accepted", (which, first)
        for example, content in cuts(whole) if attack == "cuts" else damaged(whole, path):
            path.write_bytes(content)
            found = ended(command, tmp_path / "said")
            if which == "convert" and found == "accepted" and name == "trajectory.h5":
                found = "harmless" if (tmp_path / "out.extxyz").read_bytes() == right else "silent"
            statuses[found.partition(":")[0]] += 1
            tally.add(found.partition(":")[0], f"{which} {name}, {example}: {found}")
        path.write_bytes(whole)
    assert not tally.bad, f"{tally}: {tally.bad}"
    assert attack == "bytes" or name == "run.traj" or not statuses["accepted"], tally
    trust("A", f"header of {name}: {sum(statuses.values())} {attack}, two commands", str(tally), "status 2, or 0")

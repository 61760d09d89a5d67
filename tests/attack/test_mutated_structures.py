"""300 mutated structures in five formats: refused with a fix, or accepted as atoms that the file states; no traceback, no signal."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from attack.tally import Outcomes
from mdistill.crystals.crystal import Crystal
from mdistill.errors import MdistillError
from mdistill.io.structures import read_structure

pytestmark = pytest.mark.slow
FORMATS = {"cif": "cif", "vasp": "vasp", "extxyz": "extxyz", "xyz": "xyz", "lammps-data": "data"}
NUMBERS = ("nan", "inf", "-1", "0", "1e300", "1e308", "4294967296", "999", "-2147483649", "", "abc", "0x10", "1.5e", "٣")
COUNT = 60
"""Mutated structures of each format."""


def texts(form: str) -> list[bytes]:
    crystals = [
        bulk("NaCl", "rocksalt", a=5.64, cubic=True),
        bulk("Si", cubic=True),
        bulk("Mg"),
        bulk("GaAs", "zincblende", a=5.65),
    ]
    written = []
    for k, atoms in enumerate(crystals):
        atoms.rattle(0.01, seed=k)
        target = io.BytesIO() if form == "cif" else io.StringIO()
        ase.io.write(target, atoms, format=form)
        content = target.getvalue()
        written.append(content if isinstance(content, bytes) else content.encode())
    return written


def mutated(whole: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One change: a number or a word replaced, a line moved, doubled or lost, bytes flipped, cut or inserted."""
    lines, how = (
        whole.splitlines(keepends=True),
        str(rng.choice(["number", "line", "bytes", "cut", "word"], p=[0.4, 0.2, 0.2, 0.1, 0.1])),
    )
    if how == "number":
        spots = list(re.finditer(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?", whole))
        spot, value = spots[rng.integers(len(spots))], str(rng.choice(NUMBERS))
        return f"{spot.group()!r} → {value!r}", whole[: spot.start()] + value.encode() + whole[spot.end() :]
    if how == "line":
        a, b = rng.integers(len(lines), size=2)
        action = str(rng.choice(["lost", "doubled", "moved"]))
        changed = [*lines[:a], *lines[a + 1 :]] if action != "doubled" else [*lines[:a], lines[a], *lines[a:]]
        changed = [*changed[:b], lines[a], *changed[b:]] if action == "moved" else changed
        return f"line {a} {action}", b"".join(changed)
    if how == "word":
        words = list(re.finditer(rb"[A-Za-z_]+", whole))
        word = words[rng.integers(len(words))]
        return f"word {word.group()!r}", whole[: word.start()] + bytes(rng.permutation(list(word.group())).tolist()) + whole[
            word.end() :
        ]
    if how == "cut":
        return "cut", whole[: rng.integers(len(whole))]
    place = int(rng.integers(len(whole)))
    return f"bytes at {place}", whole[:place] + rng.bytes(int(rng.integers(1, 30))) + whole[place + int(rng.integers(0, 3)) :]


def stated(path: Path, form: str) -> set[float]:
    """Numbers of atoms that the text of a file states, as far as it does; empty where it does not."""
    text = path.read_text(encoding="latin-1")
    if form in ("extxyz", "xyz"):
        words = text.split(None, 1)
        return {float(words[0])} if words and words[0].isdigit() else set()
    if form == "cif":
        found = re.search(r"(?m)^_chemical_formula_sum\s+[\"']([A-Za-z0-9. ]+)[\"']\s*$", text)
        return {sum(float(n or 1) for n in re.findall(r"[A-Z][a-z]?(\d*\.?\d*)", found[1]))} if found else set()
    if form == "lammps-data":
        found = re.search(r"(?m)^\s*(\d+)\s+atoms", text)
        return {float(found[1])} if found else set()
    return set()


def verdict(path: Path, form: str) -> str:
    """What reading a structure leads to."""
    try:
        crystal: Crystal = read_structure(path)
    except MdistillError as error:
        return "refused" if "fix:" in str(error) else f"no fix: {error}"
    except BaseException as error:
        return f"traceback: {error!r}"
    if not (np.isfinite(crystal.positions).all() and np.isfinite(crystal.cell).all()):
        return "silent: not finite"
    counts = stated(path, form)
    lost = counts and all(abs(crystal.n_atoms - count) > 0.2 * count for count in counts)
    return f"silent: {crystal.n_atoms} atoms, stated {counts}" if lost and not crystal.notes else "accepted"


def each_in_a_process(paths: list[Path], form: str) -> Iterator[tuple[Path, str]]:
    """Verdicts from a child process, a new one after each that died of a signal."""
    left = list(paths)
    while left:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            for path in left:
                os.write(theirs, (json.dumps(verdict(path, form)) + "\n").encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as answers:
            found = [json.loads(line) for line in answers]
        _, status = os.waitpid(child, 0)
        yield from zip(left, found, strict=False)
        if len(found) < len(left):
            yield left[len(found)], f"signal: status {status}"
        left = left[len(found) + 1 :]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_mutated_structures(form: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    rng, tally, originals, changes = np.random.default_rng(11), Outcomes(), texts(form), {}
    for k in range(COUNT):
        change, content = mutated(originals[k % len(originals)], rng)
        path = tmp_path / f"{k}.{FORMATS[form]}"
        path.write_bytes(content)
        changes[path] = change
    for path, found in each_in_a_process(list(changes), form):
        tally.add(found.partition(":")[0], f"{path.name} ({changes[path]}): {found}")
    assert sum(tally.counts.values()) == COUNT
    assert not tally.bad, f"{tally}: {tally.bad}"
    trust("A", f"{COUNT} mutated {form} structures", str(tally), "refused, or as the file states")

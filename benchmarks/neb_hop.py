"""The barrier of one Li hop into a vacancy by the nudged elastic band of ASE: a ready student beside its teacher.

Li atom a is removed; Li atom b hops to its site. Both ends are relaxed by the student. The closest pair (a, b) is taken whose
ends are two minima that differ by less than 0.15 eV, with a barrier between them. The teacher is evaluated along the student's
path; its own band begins there, with the same ends.

    python -m benchmarks.neb_hop [--student li6ps5cl-sevennet-0] [--teacher sevennet-0] [--teacher-steps 10]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.optimize import FIRE

from benchmarks.record import write_record
from mdistill.export.ase import calculator
from mdistill.io.structures import read_system, to_atoms
from mdistill.library.cards import student_file

IMAGES, CLOSEST_A, FARTHEST_A, LARGEST_DIFFERENCE_EV, MOVED_A, SMALLEST_BARRIER_EV = 7, 1.5, 4.5, 0.15, 2.0, 0.03
FORCE, ENDS_FORCE = 0.05, 0.02
"""Largest force of a converged band and of its ends, eV/Å."""


def relaxed(atoms: Atoms, calc: Any) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = calc
    if not FIRE(atoms, logfile=None).run(fmax=ENDS_FORCE, steps=2000):
        raise RuntimeError(f"not relaxed to {ENDS_FORCE} eV/Å in 2000 steps")
    return atoms


def hops(crystal: Atoms, calc: Any) -> Iterator[tuple[Atoms, Atoms, dict[str, Any]]]:
    """Relaxed ends of hops, the same atoms in the same order, from short to long."""
    lithium = [atom.index for atom in crystal if atom.symbol == "Li"]
    pairs = [(crystal.get_distance(a, b, mic=True), a, b) for a, b in permutations(lithium, 2)]
    for tried, (distance, a, b) in enumerate(sorted(pair for pair in pairs if CLOSEST_A < pair[0] < FARTHEST_A), 1):
        start, end = crystal.copy(), crystal.copy()
        end.positions[b] += crystal.get_distance(b, a, mic=True, vector=True)
        del start[a], end[a]
        first, last = relaxed(start, calc), relaxed(end, calc)
        moved = float(np.linalg.norm((last.positions - first.positions)[b - (b > a)]))
        difference = float(last.get_potential_energy() - first.get_potential_energy())
        if abs(difference) < LARGEST_DIFFERENCE_EV and moved > MOVED_A:
            yield first, last, {"sites apart (Å)": distance, "ends (eV)": difference, "moved (Å)": moved, "pairs tried": tried}


def band(images: list[Atoms], calc: Any, *, steps: int) -> tuple[list[Atoms], bool]:
    """A climbing-image band from these images, and whether it converged."""
    images = [image.copy() for image in images]
    for image in images:
        image.calc = calc
    neb = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True)
    return images, bool(FIRE(neb, logfile=None).run(fmax=FORCE, steps=steps))


def energies(images: list[Atoms], calc: Any) -> list[float]:
    """Relative to the first image, eV."""
    found = []
    for image in images:
        atoms = image.copy()
        atoms.calc = calc
        found.append(float(atoms.get_potential_energy()))
    return [energy - found[0] for energy in found]


def with_barrier(crystal: Atoms, calc: Any) -> tuple[list[Atoms], list[float], dict[str, Any]]:
    """The first hop with a barrier between its ends: its converged band, energies, and what it is.

    Raises:
        RuntimeError: There is none.
    """
    for first, last, hop in hops(crystal, calc):
        images = [first, *(first.copy() for _ in range(IMAGES - 2)), last]
        NEB(images).interpolate("idpp", mic=True)
        images, converged = band(images, calc, steps=400)
        profile = energies(images, calc)
        if converged and max(profile) > max(profile[0], profile[-1]) + SMALLEST_BARRIER_EV:
            return images, profile, hop
    raise RuntimeError("no hop has a barrier between two minima of about one energy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="li6ps5cl-sevennet-0")
    parser.add_argument("--teacher", default="sevennet-0", help="none: without")
    parser.add_argument("--teacher-steps", type=int, default=10)
    given = parser.parse_args()
    path = student_file(given.student)
    assert path is not None
    crystal, student, begun = to_atoms(read_system(path.with_suffix(".extxyz"))), calculator(given.student), time.process_time()
    images, profile, hop = with_barrier(relaxed(crystal, student), student)
    rows: list[dict[str, Any]] = []

    def add(name: str, profile: list[float], **more: Any) -> None:
        numbers = {"band": name, "barrier (eV)": max(profile), "profile (eV)": profile}
        rows.append(numbers | {"processor time (s)": time.process_time() - begun} | more)

    add("student", profile, converged=True, **hop)
    if given.teacher != "none":
        teacher, begun = calculator(given.teacher), time.process_time()
        add("teacher on the student's path", energies(images, teacher))
        own, converged = band(images, teacher, steps=given.teacher_steps)
        add("teacher's own band, same ends", energies(own, teacher), converged=converged)
    settings = {"student": given.student, "teacher": given.teacher, "images": IMAGES, "atoms": len(images[0])}
    write_record("neb_hop", settings, rows)


if __name__ == "__main__":
    main()

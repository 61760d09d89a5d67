"""Plays CP2K: `python fake_cp2k.py MODE run.inp` prints energy and forces of springs to the origin in CP2K's words.

Modes: good; crash, unconverged, hang, nan, drift, silent: at every attempt; "MODE-once": not with the safer settings.
Every call adds a letter to `calls` three folders up, if that file is there.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

SPRING = 0.02
"""hartree/bohr²."""
BOHR = 0.529177210903


def main(mode: str, file: str) -> None:
    text = Path(file).read_text(encoding="utf-8")
    calls = Path(file).absolute().parents[3] / "calls"
    if calls.is_file():
        with open(calls, "a", encoding="utf-8") as told:
            told.write("x")
    safer = "FULL_ALL" in text or "ALPHA 0.1" in text
    mode = "good" if mode.endswith("-once") and safer else mode.removesuffix("-once")
    block = re.search(r"&COORD\n(.*?)&END COORD", text, re.DOTALL)
    assert block is not None
    rows = [line.split() for line in block[1].strip().splitlines()]
    positions = [[float(x) / BOHR for x in row[1:]] for row in rows]
    forces = [[-SPRING * x for x in row] for row in positions]
    mean = [sum(f[k] for f in forces) / len(forces) for k in range(3)]
    forces = [[f[k] - mean[k] + (0.01 if mode == "drift" else 0.0) for k in range(3)] for f in forces]
    energy = sum(0.5 * f[k] ** 2 / SPRING for f in forces for k in range(3))
    if mode == "hang":
        time.sleep(600)
    if mode == "crash":
        print(
            " *   [ABORT]                                                             *\n *    \\___/       the moon is in the wrong house                  *"
        )
        sys.exit(1)
    if mode == "silent":
        os._exit(9)
    print("  SCF run NOT converged in 25 steps" if mode == "unconverged" else "  *** SCF run converged in     7 steps ***")
    print(f" ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:        {'NaN' if mode == 'nan' else format(energy, '.12f')}\n")
    print(" ATOMIC FORCES in [a.u.]\n\n # Atom   Kind   Element          X              Y              Z")
    for number, (row, force) in enumerate(zip(rows, forces, strict=True), 1):
        print(f" {number:6d} {1:6d} {row[0]:>6s} " + " ".join(f"{x:18.12f}" for x in force))
    print(" SUM OF ATOMIC FORCES   0.0 0.0 0.0 0.0\n")
    print(" STRESS| Analytical stress tensor [GPa]\n STRESS|                        x                   y                   z")
    for axis, row in zip("xyz", ((1.0, 0.1, 0.2), (0.1, 2.0, 0.3), (0.2, 0.3, 3.0)), strict=True):
        print(f" STRESS|      {axis}   " + " ".join(f"{x:.11E}" for x in row))
    Path("run-RESTART.kp" if "&KPOINTS" in text else "run-RESTART.wfn").write_bytes(b"orbitals")
    print("  **** **** ******  **  PROGRAM ENDED AT     2026")


if __name__ == "__main__":
    main(*sys.argv[1:])

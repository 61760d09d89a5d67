"""Speed of the compiled medium student by instruction set: SSE, AVX2 and AVX-512 code on one processor.

Whole MD steps of Li6PS5Cl at 600 K on one thread, with random weights (the cost does not depend on them; they are weak, so that
atoms fly freely and the neighbour list is renewed more often than in a crystal). The codes take turns in one process, each round
begins at the crystal. Median of the CPU time over rounds, so that other processes count little. Rows go to student_speed.json.

    python -m benchmarks.instruction_sets [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, STRUCTURE, print_rows
from mdistill.io.files import write_json
from mdistill.io.structures import read_system, to_atoms
from mdistill.kernels.moment import SOURCE, MomentKernel
from mdistill.kernels.motion import Ensemble, Motion, Point
from mdistill.nets.compiled import kernel_weights
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import SIZES, MomentSettings
from mdistill.runs.hardware import code_version, hardware
from mdistill.settings import to_json
from mdistill.units import ACCELERATION, BOLTZMANN

LEVELS = {"x86-64-v2": ("sse", "avx2", "avx512"), "x86-64-v3": ("avx2", "avx512"), "x86-64-v4": ("avx512",)}
"""Code, and the processors by their widest vectors that run it."""
KELVIN, STEP_FS, ATOM_STEPS = 600.0, 2.0, 30_000


def kernels() -> dict[str, MomentKernel]:
    """The same student in every kind of code that this processor runs."""
    net = MomentNet(MomentSettings(elements=(3, 15, 16, 17), **SIZES["medium"]), seed=0)
    weights = kernel_weights(net, double=False)
    weights = replace(weights, head=weights.head * [1.0, 1.0, 0.02], closest=np.full_like(weights.closest, 1.5))
    usable = [level for level, processors in LEVELS.items() if hardware()["instructions"] in processors]
    return {level: MomentKernel(weights, replace(SOURCE, flags=(f"-march={level}",))) for level in [*usable, "native"]}


def rows(rounds: int) -> list[dict[str, Any]]:
    found = []
    cell, built = to_atoms(read_system(STRUCTURE)), kernels()
    for repeat in (1, 2):
        atoms = cell.repeat(repeat)
        n, masses = len(atoms), atoms.get_masses()
        species = np.searchsorted([3, 15, 16, 17], atoms.numbers)
        width = np.sqrt(masses[:, None] * BOLTZMANN * KELVIN * ACCELERATION)
        momenta = np.random.default_rng(0).normal(size=(n, 3)) * width
        engines = {name: kernel.engine(species, threads=1, skin=1.2) for name, kernel in built.items()}
        motion = Motion(steps=ATOM_STEPS // n, first_step=0, ensemble=Ensemble.NVE, time_step=STEP_FS)
        times: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(rounds + 1):
            for name, engine in engines.items():
                point = Point(
                    positions=atoms.positions.copy(), momenta=momenta.copy(), cell=atoms.cell.array.copy(), pbc=np.ones(3),
                    masses=masses.copy(), middle=np.zeros((n, 3)), forces=np.zeros((n, 3)), energy=0.0, virial=np.zeros((3, 3)),
                    known=False, sums=np.zeros(7),
                )  # fmt: skip
                begun = time.process_time()
                engine.run(motion, point)
                times[name].append((time.process_time() - begun) / motion.steps)
        fastest = np.median(times["native"][1:])
        for name, measured in times.items():
            middle = float(np.median(measured[1:]))
            row = {"model": "medium, random weights", "instruction set": name, "atoms": n, "threads": 1}
            row |= {"us_per_atom": 1e6 * middle / n, "spread (%)": 100.0 * float(np.std(measured[1:])) / middle}
            found.append(
                row | {"over native (×)": middle / float(fastest), "edges per atom": engines[name].counts()["edges"] / n}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    measured = [row | {"hardware": hardware()} | code_version() for row in rows(parser.parse_args().rounds)]
    path = RESULTS / "student_speed.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["rows"] = [row for row in record["rows"] if "instruction set" not in row] + [to_json(row) for row in measured]
    write_json(path, record)
    print_rows(measured)


if __name__ == "__main__":
    main()

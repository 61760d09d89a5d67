"""Time of a NEP4 potential (calorine's CPUNEP) on Li6PS5Cl; run it with a Python that has calorine, prints JSON.

The potential has the usual size (4 + 4 radial channels, 8 + 8 basis functions, l ≤ 4, 30 neurons, cutoffs 4.9 Å) and random
weights: its time per call says something, its energies nothing.

    PYTHON_WITH_CALORINE benchmarks/studies/peer_nep.py STRUCTURE [--repeats 1 2 4]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from ase.io import read

HEADER = "nep4 4 Li P S Cl\ncutoff 4.9 4.9 200 200\nn_max 4 4\nbasis_size 8 8\nl_max 4 2 0\nANN 30 0\n"
DESCRIPTORS, NEURONS, SPECIES = 30, 30, 4


def main() -> None:
    from calorine.calculators import CPUNEP

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    rng = random.Random(0)  # noqa: S311
    count = (DESCRIPTORS + 2) * NEURONS * SPECIES + 1 + SPECIES**2 * 2 * 5 * 9
    numbers = [rng.uniform(-0.01, 0.01) for _ in range(count)] + [1.0] * DESCRIPTORS
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nep.txt"
        path.write_text(HEADER + "".join(f"{x:.7e}\n" for x in numbers), encoding="ascii")
        for repeat in given.repeats:
            atoms = read(given.structure).repeat(repeat)
            atoms.calc = CPUNEP(str(path))
            times = []
            for _ in range(9):
                atoms.rattle(0.01, rng=np.random.default_rng(0))
                begun = time.perf_counter()
                atoms.get_forces()
                times.append(time.perf_counter() - begun)
            rows.append({"atoms": len(atoms), "us_per_atom": 1e6 * statistics.median(times[2:]) / len(atoms)})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

"""Whether CP2K samples a cell by enough k-points, as far as that was measured.

γ-Li3PS4, an insulator: one frame of MD at 900 K, 16 atoms, 7.93 × 6.73 × 6.33 Å, PBE-D3, DZVP-MOLOPT-SR-GTH, 400 Ry; differences
from 4×4×4 k-points:

    k-points   × smallest height (Å)   forces, RMS and largest (meV/Å)   energy (meV/atom)   stress (GPa)   slope of the forces
    Γ           6.3                    269, 743                          59                  2.5            1.12
    2×2×2      12.7                     13, 38                           −1.4                0.12           0.995
    3×3×3      19.0                      0.6, 2.4                         0.03               0.004          1.000
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import complete_cell
from jaxtyping import Float

from mdistill.crystals.charges import NON_METALS
from mdistill.labelling.engine import Engine
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.types import System

CONVERGED_A = 18.0
"""k-points × height, Å, below which a notice is issued: 5 % less than where the forces of that frame were off by 0.6 meV/Å."""
MEASURED = "In γ-Li3PS4, an insulator, forces were off by 269 meV/Å at 6.3 Å, 13 at 12.7 Å, and 0.6 at 19 Å (RMS)"


def k_point_notice(
    engine: Engine, cell: Float[np.ndarray, "3 3"], pbc: Sequence[bool], elements: Collection[int]
) -> str:  # fmt: skip
    """What to know of the k-points of a cell before CP2K labels it; "" for other engines, and where nothing is to be told.

    Args:
        engine: Gives the labels.
        cell: Lattice vectors as rows, Å.
        pbc: Which of them are periodic; the others are not sampled.
        elements: Atomic numbers.
    """
    settings = getattr(getattr(engine, "engine", engine), "settings", None)
    if not isinstance(settings, Cp2kSettings) or not any(pbc):
        return ""
    if not any(number in NON_METALS for number in elements):
        names = ", ".join(chemical_symbols[number] for number in sorted(elements))
        warm = "" if settings.smearing_K else ", and it usually needs electrons with a temperature (--cp2k.smearing-K 1000)"
        return f"cp2k: {names} alone: a metal, of which no k-points were tested{warm}. Compare a frame with more k-points"
    frame = complete_cell(np.asarray(cell, dtype=np.float64) * np.asarray(pbc)[:, None])
    heights = (1.0 / np.linalg.norm(np.linalg.inv(frame), axis=0)).tolist()
    sampled = min(n * height for n, height, on in zip(settings.kpoints, heights, pbc, strict=True) if on)
    if sampled >= CONVERGED_A:
        return ""
    grid = [math.ceil(CONVERGED_A / height) if on else 1 for height, on in zip(heights, pbc, strict=True)]
    reached = min(n * height for n, height, on in zip(grid, heights, pbc, strict=True) if on)
    return (
        f"cp2k: k-points × height of the cell is {sampled:.1f} Å. {MEASURED}. "
        f"--cp2k.kpoints {' '.join(map(str, grid))} gives {reached:.1f} Å; compare both on one frame"
    )


def notice_of(engine: Engine, systems: Sequence[System]) -> str:
    """`k_point_notice` of the first structure (one struct) that has one."""
    told = (k_point_notice(engine, one.cell[0].cpu().numpy(), one.pbc[0].tolist(), set(one.numbers.tolist())) for one in systems)
    return next(filter(None, told), "")

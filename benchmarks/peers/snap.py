"""Linear SNAP: bispectrum components by LAMMPS's `compute snap`, weights by least squares in numpy.

Radii are equal, so that every pair has one cutoff. Weights of elements in the density were not tuned.

Reference:
    A. P. Thompson et al., J. Comput. Phys. 285, 316 (2015), doi 10.1016/j.jcp.2014.12.018.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.pair_style import InLammps, PairStyle, keep, kept
from mdistill.io.files import write_text
from mdistill.io.structures import to_atoms
from mdistill.types import LabelledFrame

NAME, TWO_J, RADIUS = "SNAP, linear", 8, 0.5
DENSITY = {"Li": 0.5, "P": 1.0, "S": 0.8, "Cl": 0.7}
ENERGY_WEIGHT, RIDGE = 100.0, 1e-8


def fit_snap(frames: Sequence[LabelledFrame], folder: Path, *, elements: tuple[str, ...], cutoff: float) -> PairStyle:
    """Fit all frames given, once: energies per atom weigh 100, forces 1, as in `fitpod`."""
    folder = folder.resolve()
    fitted = kept(folder)
    if fitted is None:
        begun = time.process_time()
        beta = solved([rows_of(frame, elements, cutoff) for frame in frames]).reshape(len(elements), -1)
        text = f"{len(elements)} {beta.shape[1]}\n"
        for element, weights in zip(elements, beta, strict=True):
            text += f"{element} {RADIUS} {DENSITY[element]}\n" + "".join(f"{x:.15e}\n" for x in weights)
        write_text(folder / "fit.snapcoeff", text)
        settings = {"rcutfac": cutoff, "twojmax": TWO_J, "rfac0": 0.99363, "rmin0": 0, "switchflag": 1, "bzeroflag": 0}
        write_text(folder / "fit.snapparam", "".join(f"{key} {value}\n" for key, value in settings.items()))
        minutes = (time.process_time() - begun) / 60.0
        fitted = keep(folder, {"cpu minutes": minutes, "parameters": beta.size, "2J": TWO_J, "density weights": DENSITY})
    files = f"pair_coeff * * {folder / 'fit.snapcoeff'} {folder / 'fit.snapparam'} {' '.join(elements)}"
    return PairStyle(name=NAME, elements=elements, commands=("pair_style snap", files), fitted=fitted)


def rows_of(frame: LabelledFrame, elements: tuple[str, ...], cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Weighted rows of the least-squares problem: energy per atom and forces; [1 + 3 atom, weight], [1 + 3 atom]."""
    each = f"{' '.join([str(RADIUS)] * len(elements))} {' '.join(str(DENSITY[element]) for element in elements)}"
    terms = f"compute terms all snap {cutoff} 0.99363 {TWO_J} {each} rmin0 0 switchflag 1 bzeroflag 0"
    shown = "thermo_style custom step c_terms[1][1]"  # computes the terms in the run of no steps
    commands = (f"pair_style zero {cutoff}", "pair_coeff * *", terms, shown)
    style = PairStyle(name=NAME, elements=elements, fitted={}, commands=commands)
    run = InLammps(style, to_atoms(frame.system))
    n = len(run.atoms)
    array = np.array(run.lmp.numpy.extract_compute("terms", 0, 2))[: 1 + 3 * n, :-1].reshape(1 + 3 * n, len(elements), -1)
    counts = np.array([sum(symbol == element for symbol in run.atoms.symbols) for element in elements])
    constant = np.zeros((1 + 3 * n, len(elements), 1))
    constant[0, :, 0] = counts
    full = np.concatenate([constant, array], axis=2).reshape(1 + 3 * n, -1)
    wanted = np.concatenate([[float(frame.target.energy)], run.prism.vector_to_lammps(frame.target.forces.numpy()).ravel()])
    weights = np.concatenate([[ENERGY_WEIGHT / n], np.ones(3 * n)])
    run.lmp.close()
    return full * weights[:, None], wanted * weights


def solved(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Ridge solution by normal equations; the ridge is RIDGE times the mean square of a column."""
    rows, wanted = np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])
    size = np.sqrt((rows**2).mean(0)) + 1e-30
    scaled = rows / size
    square = scaled.T @ scaled
    return np.asarray(np.linalg.solve(square + RIDGE * len(rows) * np.eye(len(square)), scaled.T @ wanted) / size)

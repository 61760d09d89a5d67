"""UF3: cubic B-splines of pairs and triples of atoms; least squares in numpy, dynamics by LAMMPS's `pair_style uf3`.

Weights that no label reaches are zero, but for those of close pairs: a penalty on second differences extends these.

Reference:
    S. R. Xie, M. Rupp, R. G. Hennig, npj Comput. Mater. 9, 162 (2023), doi 10.1038/s41524-023-01092-7.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, product
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.interpolate import BSpline
from scipy.linalg import block_diag, solve
from scipy.sparse import coo_array

from benchmarks.peers.pair_style import PairStyle, keep, kept
from mdistill.io.files import write_text
from mdistill.io.structures import to_atoms
from mdistill.types import LabelledFrame

NAME, TRIM = "UF3", 3
NEAREST, PAIRS, REACH, L, N = 0.5, 24, 4.0, 5, 10
"""Where splines begin (Å), intervals of pairs; cutoff of triples (Å), intervals to the centre and opposite to it."""
ENERGY_WEIGHT, RIDGE, SMOOTH = 100.0, 0.1, 0.1


def knots(end: float, intervals: int) -> np.ndarray:
    return np.concatenate([[NEAREST] * TRIM, np.linspace(NEAREST, end, intervals + 1), [end] * TRIM])


def splines(end: float, intervals: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes at x; the last three functions are left out, so that all is smooth at the cutoff. [x, interval]."""
    basis = BSpline(knots(end, intervals), np.eye(intervals + TRIM)[:, :-TRIM], 3)
    return basis(x), basis.derivative()(x)


def fit_uf3(frames: Sequence[LabelledFrame], folder: Path, *, elements: tuple[str, ...], cutoff: float) -> PairStyle:
    """Fit all frames given, once: energies per atom weigh 100, forces 1, as in `fitpod`."""
    folder, pairs = folder.resolve(), len(elements) * (len(elements) + 1) // 2
    fitted = kept(folder)
    if fitted is None:
        begun, count = time.process_time(), len(elements) * (1 + pairs * L * L * N) + pairs * PAIRS
        gram, right = np.zeros((count, count)), np.zeros(count)
        for frame in frames:
            given = np.concatenate(list(terms(to_atoms(frame.system), elements, cutoff)), axis=1)
            wanted = np.concatenate([[float(frame.target.energy)], frame.target.forces.numpy().ravel()])
            given[0], wanted[0] = (ENERGY_WEIGHT / len(frame.system.numbers) * values[0] for values in (given, wanted))
            met = np.flatnonzero(np.abs(given).max(0))
            gram[np.ix_(met, met)] += given[:, met].T @ given[:, met]
            right += given.T @ wanted
        used = int(np.count_nonzero(gram.diagonal()))
        bend = np.diff(np.eye(PAIRS + TRIM), n=2, axis=0)[:, :-TRIM]
        smooth = block_diag(np.zeros((len(elements),) * 2), *[SMOOTH * bend.T @ bend] * pairs)
        gram[: len(smooth), : len(smooth)] += smooth
        found = solve(gram + RIDGE * np.eye(count), right, assume_a="pos")
        write_text(folder / "fit.uf3", potential_file(found[len(elements) :], elements, cutoff))
        atoms, minutes = dict(zip(elements, found.tolist(), strict=False)), (time.process_time() - begun) / 60.0
        fitted = keep(folder, {"cpu minutes": minutes, "parameters": used, "triples within (Å)": REACH, "atoms (eV)": atoms})
    commands = ("pair_style uf3 3", f"pair_coeff * * {folder / 'fit.uf3'} {' '.join(elements)}")
    return PairStyle(name=NAME, elements=elements, commands=commands, fitted=fitted, atoms=fitted["atoms (eV)"])


def terms(atoms: Atoms, elements: tuple[str, ...], cutoff: float) -> Iterator[np.ndarray]:
    """Energy (first row) and forces that each weight gives: of atoms, pairs and triples; [1 + 3 atom, weight]."""
    n, kind = len(atoms), np.array([elements.index(symbol) for symbol in atoms.symbols])
    yield np.concatenate([np.bincount(kind, minlength=len(elements))[None], np.zeros((3 * n, len(elements)))])
    i, j, vector, length = neighbor_list("ijDd", atoms, cutoff)
    alike = list(combinations_with_replacement(range(len(elements)), 2))
    for a, b in alike:
        chosen = (kind[i] == a) & (kind[j] == b)
        value, slope = splines(cutoff, PAIRS, length[chosen])
        yield rows(n, value, [(i[chosen], j[chosen], vector[chosen], slope)]) * (0.5 if a == b else 1.0)  # listed twice
    i, j, vector = (x[length < REACH] for x in (i, j, vector))
    around = [np.flatnonzero(i == k) for k in range(n)]
    p, q = np.concatenate([mine[np.array(np.triu_indices(len(mine), 1))] for mine in around], axis=1)
    turned = kind[j[p]] > kind[j[q]]
    p, q = np.where(turned, q, p), np.where(turned, p, q)
    for c, (a, b) in product(range(len(elements)), alike):
        chosen = (kind[i[p]] == c) & (kind[j[p]] == a) & (kind[j[q]] == b)
        first, second = p[chosen], q[chosen]
        sides = (vector[first], vector[second], vector[second] - vector[first])
        ends = ((i[first], j[first]), (i[first], j[second]), (j[first], j[second]))
        grids = ((REACH, L), (REACH, L), (2 * REACH, N))
        (x, dx), (y, dy), (z, dz) = (splines(*g, np.linalg.norm(side, axis=1)) for g, side in zip(grids, sides, strict=True))
        value, *slopes = (cube(*factors, same=a == b) for factors in ((x, y, z), (dx, y, z), (x, dy, z), (x, y, dz)))
        yield rows(n, value, [(*end, side, slope) for end, side, slope in zip(ends, sides, slopes, strict=True)])


def cube(x: np.ndarray, y: np.ndarray, z: np.ndarray, *, same: bool) -> np.ndarray:
    """Products of three functions of each triple, [triple, weight]; the same for both orders of neighbours of one kind."""
    full = np.einsum("tl,tm,tn->tlmn", x, y, z)
    return (0.5 * (full + full.swapaxes(1, 2)) if same else full).reshape(len(x), L * L * N)


def rows(n: int, value: np.ndarray, edges: Sequence[tuple[np.ndarray, ...]]) -> np.ndarray:
    """Energy and forces of terms, whose slopes along each edge (from, to, vector, slope) are given; [1 + 3 atom, weight]."""
    total = np.zeros((3 * n, value.shape[1]))
    for i, j, vector, slope in edges:
        unit, column = vector / np.linalg.norm(vector, axis=1, keepdims=True), np.repeat(np.arange(len(i)), 3)
        for atom, sign in ((i, 1.0), (j, -1.0)):
            row = (3 * atom[:, None] + np.arange(3)).ravel()
            total += coo_array((sign * unit.ravel(), (row, column)), shape=(3 * n, len(i))).tocsr() @ slope
    return np.concatenate([value.sum(0)[None], total])


def potential_file(weights: np.ndarray, elements: tuple[str, ...], cutoff: float) -> str:
    """LAMMPS's format; it counts each pair twice."""
    shown = lambda values: " ".join(f"{x:.17g}" for x in values) + "\n"  # noqa: E731
    pairs, text = list(combinations_with_replacement(elements, 2)), ""
    two, three = np.split(weights, [len(pairs) * PAIRS])
    for (a, b), mine in zip(pairs, two.reshape(-1, PAIRS), strict=True):
        at, padded = knots(cutoff, PAIRS), np.pad(0.5 * mine, (0, TRIM))
        text += f"#UF3 POT UNITS: metal\n2B {a} {b} 0 3 uk\n{cutoff} {len(at)}\n{shown(at)}{len(padded)}\n{shown(padded)}#\n"
    near, far = knots(REACH, L), knots(2 * REACH, N)
    for (c, (a, b)), mine in zip(product(elements, pairs), three.reshape(-1, L, L, N), strict=True):
        text += f"#UF3 POT UNITS: metal\n3B {c} {a} {b} 0 3 uk\n{2 * REACH} {REACH} {REACH} {len(far)} {len(near)} {len(near)}\n"
        text += shown(far) + shown(near) * 2 + f"{L + TRIM} {L + TRIM} {N + TRIM}\n"
        full = 0.5 * (mine + mine.swapaxes(0, 1)) if a == b else mine
        text += "".join(shown(line) for line in np.pad(full, (0, TRIM)).reshape(-1, N + TRIM)) + "#\n"
    return text

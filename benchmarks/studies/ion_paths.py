"""Do a bond-valence landscape and a channel radius tell σ(300 K) more than ion sites and predicted motion do?

    MDISTILL_DATA=… python -m benchmarks.studies.ion_paths [--seeds 2]

On a grid of the average structure, for a Li ion at x:

    V(x) = Σ_a o_a exp((R_a − |x − x_a|)/0.37 Å)     over anions a with occupancy o_a
    r(x) = min_h (|x − x_h| − r_h)                   over all sites h without Li

Barrier: the smallest m such that the places with |V − 1| ≤ m, further than NEAR from every cation, join a place with its own
image in another cell (in one direction; in three). Radius: the largest r such that the places with r(x) ≥ r do so in one.
R_a: O'Keeffe and Brese (J. Am. Chem. Soc. 1991, 113, 3226); r_h: ionic radii; both from pymatgen. Each is added to the ridge of
the package (`mdistill.transport.correction`); whole groups are held out, and the forest, its inner residuals and the bootstrap
are those of benchmarks/transport.py. Writes results/ion_paths.json.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from benchmarks.record import write_record
from benchmarks.transport import outer, with_ridge
from mdistill.crystals.crystal import Crystal
from mdistill.errors import MdistillError
from mdistill.io.structures import read_structure
from mdistill.transport.correction import CLOSE
from mdistill.transport.features import element_properties, features, material_of_entry
from mdistill.transport.fit import labels_of, paired
from mdistill.transport.motion_file import shipped_motion
from mdistill.transport.obelix import cif_texts, fractions_of, read_obelix
from mdistill.transport.train import site_inputs

LITHIUM, SPACING, REACH, NEAR = 3, 0.5, 5.0, 1.6
"""Atomic number; spacing of the grid, reach of V and r, and the closest place to a cation, Å."""
ANIONS = (8, 9, 16, 17, 34, 35, 52, 53, 7)
LESS = (1, 15, 33, 51, 6, 14, 5)
"""Anions, and what counts as one where none of them is in the crystal."""
WORST = 5.0
"""|V − 1| of a place too near to a cation, and the largest."""
NAMES = ("bond-valence barrier, one direction", "bond-valence barrier, three directions", "channel radius (Å)")
TRIED = 5


def paths(crystal: Crystal) -> np.ndarray:
    """NAMES of a crystal."""
    from ase.data import chemical_symbols
    from pymatgen.analysis.bond_valence import BV_PARAMS
    from pymatgen.core import Element

    cell = np.asarray(crystal.cell, dtype=float)
    shape = np.maximum(np.ceil(np.linalg.norm(cell, axis=1) / SPACING).astype(int), 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    others = [site for site in crystal.sites if any(number != LITHIUM for number in site.occupancies)]
    kinds = [max(site.occupancies, key=lambda z: (z != LITHIUM, site.occupancies[z])) for site in others]
    shares = np.array([sum(o for z, o in site.occupancies.items() if z != LITHIUM) for site in others])
    chosen = ANIONS if set(ANIONS) & set(kinds) else LESS
    anion = np.array([kind in chosen for kind in kinds])
    spans = np.ceil(REACH * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int)
    shifts = np.array(list(itertools.product(*(range(-n, n + 1) for n in spans)))) @ cell
    places = np.array([site.fractional for site in others]) % 1.0 @ cell
    images = (places[None] + shifts[:, None]).reshape(-1, 3)
    which = np.tile(np.arange(len(others)), len(shifts))
    inside = cKDTree(grid).query(images, distance_upper_bound=REACH)[0] <= REACH
    images, which = images[inside], which[inside]
    pairs = cKDTree(grid).sparse_distance_matrix(cKDTree(images), REACH, output_type="coo_matrix")
    i, site, distance = pairs.row, which[pairs.col], pairs.data
    elements = [Element(chemical_symbols[kind]) for kind in kinds]
    ion = Element("Li")
    bond = np.array([_bond_length(BV_PARAMS[ion], BV_PARAMS[one]) if one in BV_PARAMS else 0.0 for one in elements])
    radius = np.array([float((e.average_anionic_radius if a else e.average_cationic_radius) or e.atomic_radius or 1.0)
                       for e, a in zip(elements, anion, strict=True)])  # fmt: skip
    valence = np.where(anion[site], shares[site] * np.exp((bond[site] - distance) / 0.37), 0.0)
    mismatch = np.abs(np.bincount(i, weights=valence, minlength=len(grid)) - 1.0).clip(max=WORST)
    near = ~anion[site] & (distance < NEAR) & (shares[site] > 0.5)
    mismatch[i[near]] = WORST
    room = np.full(len(grid), REACH)
    np.minimum.at(room, i, distance - radius[site])
    return np.array([*percolation(mismatch.reshape(shape)), -percolation(-room.reshape(shape))[0]])


def _bond_length(a: dict[str, float], b: dict[str, float]) -> float:
    """Length of a bond of valence 1, Å."""
    return a["r"] + b["r"] - a["r"] * b["r"] * (a["c"] ** 0.5 - b["c"] ** 0.5) ** 2 / (a["c"] * a["r"] + b["c"] * b["r"])


def percolation(height: np.ndarray) -> tuple[float, float]:
    """The lowest levels of a periodic grid at which a place is joined with one of its images, and with three independent ones.

    Two cells along each axis, periodic: a place and an image are joined there where a path winds an odd number of times.
    """
    double = np.tile(height, (2, 2, 2))
    number = np.arange(double.size).reshape(double.shape)
    rows, columns, levels = [], [], []
    for axis in range(3):
        rows.append(number.ravel())
        columns.append(np.roll(number, -1, axis=axis).ravel())
        levels.append(np.maximum(double, np.roll(double, -1, axis=axis)).ravel())
    low = float(height.min())
    weights = np.concatenate(levels) - low + 1.0
    graph = coo_array((weights, (np.concatenate(rows), np.concatenate(columns))), shape=(double.size,) * 2)
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    steps, found = np.unique(tree.data), list[tuple[float, tuple[int, ...]]]()
    for turn in list(itertools.product((0, 1), repeat=3))[1:]:
        image = np.roll(number, [-n * k for n, k in zip(height.shape, turn, strict=True)], axis=(0, 1, 2)).ravel()
        first, last = 0, len(steps) - 1
        while first < last:
            middle = (first + last) // 2
            kept = tree.data <= steps[middle]
            part = coo_array((tree.data[kept], (tree.row[kept], tree.col[kept])), shape=tree.shape)
            names = connected_components(part, directed=False)[1]
            free = double.ravel() - low + 1.0 <= steps[middle]
            first, last = (first, middle) if (names[image] == names)[free].any() else (middle + 1, last)
        found.append((float(steps[first]) + low - 1.0, turn))
    joined, reached = list[float](), {tuple(0 for _ in range(3))}
    for level, turn in sorted(found):
        if turn not in reached:
            joined.append(level)
            reached |= {tuple(int(p) ^ int(q) for p, q in zip(turn, other, strict=True)) for other in reached}
    return joined[0], joined[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    begin, entries, texts = time.process_time(), read_obelix(), cif_texts()
    labels, elements = labels_of(entries), sorted({z for entry in entries for z in entry.composition})
    x = features([material_of_entry(entry) for entry in entries], elements, element_properties(), mobile=LITHIUM)
    sites, fractions = site_inputs(entries, texts, shipped_motion()), fractions_of([entry.composition for entry in entries])
    added, cost = np.full((len(entries), len(NAMES)), np.nan), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        for k, entry in enumerate(entries):
            if not np.isfinite(sites[k]).all():
                continue
            path = Path(folder) / "entry.cif"
            path.write_text(texts[entry.name], encoding="utf-8")
            before = time.process_time()
            try:
                added[k] = paths(read_structure(path))
            except MdistillError as error:
                print(f"{entry.name}: {error}")
            cost.append(time.process_time() - before)
    known = np.flatnonzero(np.isfinite(added).all(axis=1))
    sites[~np.isfinite(added).all(axis=1)] = np.nan
    nested = [outer(x, labels, sites, fractions, seed) for seed in range(given.seeds)]
    y, group, rows = labels.target[known], labels.group[known], []
    for name, column in zip(NAMES, added[known].T, strict=True):
        rank = float(spearmanr(column, y)[0])
        rows.append({"part": "rank correlation with σ", "input": name, "entries": len(known), "value": rank})
    plain = np.abs(np.array([one["value"][known] for one in nested]) - y).mean(axis=0)

    def error_of(inputs: np.ndarray) -> np.ndarray:
        return np.abs([with_ridge(one, inputs, known, CLOSE) - y for one in nested]).mean(axis=0)

    shipped = error_of(sites[known])
    sets = {"barriers": [0, 1], "channel radius": [2], "all three": [0, 1, 2]}
    tried = {f"the package, and {name}": np.hstack([sites[known], added[known][:, at]]) for name, at in sets.items()}
    tried |= {"barriers and radius alone": added[known], "the package": sites[known]}
    for name, inputs in tried.items():
        after = error_of(inputs)
        gain, more = paired(after - plain, group, tries=TRIED), paired(after - shipped, group, tries=TRIED)
        rows.append({
            "part": "ridge", "inputs": name, "entries": len(known), "groups": len(np.unique(group)), "MAE": float(after.mean()),
            "without": float(plain.mean()), "gain": gain[0], "low": gain[1], "high": gain[2], "beyond the package": more[0],
            "beyond low": more[1], "beyond high": more[2], "tries": TRIED,
        })  # fmt: skip
    settings = {"seeds": given.seeds, "spacing_A": SPACING, "CPU s a crystal": float(np.median(cost)),
                "CPU minutes": (time.process_time() - begin) / 60}  # fmt: skip
    write_record("ion_paths", settings, rows)


if __name__ == "__main__":
    main()

"""Structures in space: the crystal that was prepared, and where the mobile ions went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers

from mdistill.observables.density import SMOOTHING, ion_map
from mdistill.runs.results import Density, Hops, Scene
from mdistill.types import System, Trajectory

MOST_HOPS = 200
"""Pairs of sites that are written, the most frequent first."""


def structure_scene(system: System, *, mobile: str = "", caption: str = "") -> Scene:
    """The first structure of a batch, atoms in its cell.

    Args:
        system: Any structure, open directions too.
        mobile: Element symbol of the mobile ion.
        caption: Text below the picture.
    """
    chosen = system.owner == 0
    positions = system.positions[chosen].double().cpu().numpy()
    return Scene(
        name="structure", title="Structure", section="structure", numbers=[int(z) for z in system.numbers[chosen].tolist()],
        positions=_rounded(positions), cell=_rounded(system.cell[0].double().cpu().numpy()),
        mobile=atomic_numbers.get(mobile, 0), caption=caption,
    )  # fmt: skip


def path_scenes(runs: Sequence[Trajectory], *, species: str, temperature_K: float | None = None) -> list[Scene]:
    """Density and hops of the mobile ion in independent runs of one state, with the host; none in an open cell.

    Args:
        runs: Unwrapped positions (Å) of the same atoms.
        species: Element symbol of the mobile ion.
        temperature_K: Temperature of the runs, for the title.
    Raises:
        BadInput: Species absent, frames unevenly spaced, positions not finite.
    """
    cells = [run.cell.double().cpu().numpy() for run in runs]
    if min(np.abs(np.linalg.det(cell)).min() for cell in cells) < 1e-3:
        return []
    found = ion_map(runs, species=species)
    largest = float(found.density.max())
    values = np.rint(found.density / largest * 255.0).astype(int) if largest > 0.0 else np.zeros(found.density.shape, dtype=int)
    a, b, c = found.density.shape
    ends = zip(_rounded(found.starts), _rounded(found.ends), found.counts.tolist(), strict=True)
    hops = [Hops(start=(x[0], x[1], x[2]), end=(y[0], y[1], y[2]), count=n) for x, y, n in list(ends)[:MOST_HOPS]]
    where = "" if temperature_K is None else f" at {temperature_K:g} K"
    of = f"{found.runs} of {len(runs)} runs" if len(runs) > 1 else "the run"
    caption = (
        f"Density: mean of {of}, smoothed over {SMOOTHING:g} Å. Lines: pairs of sites that exchanged {species}, wider for more "
        "hops. Host: mean positions."
    )
    return [
        Scene(
            name="paths", title=f"Paths of {species}{where}", section="transport", numbers=runs[0].numbers.tolist(),
            positions=_rounded(found.positions), cell=_rounded(found.cell), mobile=atomic_numbers[species],
            density=Density(shape=(a, b, c), values=values.reshape(-1).tolist(), largest=largest), hops=hops, caption=caption,
        )
    ]  # fmt: skip


def _rounded(rows: np.ndarray) -> list[list[float]]:
    return [[round(float(x), 3) for x in row] for row in rows]

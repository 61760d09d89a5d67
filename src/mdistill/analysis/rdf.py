"""Partial radial distribution functions with errors, and distances between two of them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from mdistill.analysis.msd import atoms_of
from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.types import Trajectory

CHUNK = 2_000_000
"""Pair vectors held at once."""


def species_pairs(trajectory: Trajectory) -> list[tuple[str, str]]:
    """All unordered pairs of two atoms' elements, each once, alphabetically: none of an element with itself that has one atom."""
    counts = Counter(chemical_symbols[z] for z in trajectory.numbers.tolist())
    return [(a, b) for a, b in combinations_with_replacement(sorted(counts), 2) if a != b or counts[a] > 1]


def two_shells(curve: Curve) -> float:
    """Distance (Å) at which the second shell of neighbours ends; the last distance of the curve where there are fewer shells.

    A shell is a maximum of min(g, 2), averaged over 0.3 Å, that stands out by 0.15; it ends at the minimum before the next.
    """
    from scipy.signal import find_peaks

    x, y = curve.x.numpy(), curve.y.numpy()
    width = max(1, round(0.3 / float(x[1] - x[0])))
    smooth = np.convolve(np.pad(np.minimum(y, 2.0), width, mode="edge"), np.ones(width) / width, mode="same")[width:-width]
    peaks, _ = find_peaks(smooth, prominence=0.15)
    if len(peaks) < 2:
        return float(x[-1])
    last = peaks[2] if len(peaks) > 2 else len(x)
    return float(x[peaks[1] + int(np.argmin(smooth[peaks[1] : last]))])


def largest_radius(trajectory: Trajectory) -> float:
    """Half the smallest height of the cell over all frames (Å): within it every pair has one image only.

    Raises:
        BadInput: The cell is open or flat.
    """
    cells = trajectory.cell.double().cpu().numpy()
    volumes = np.abs(np.linalg.det(cells))
    if not np.isfinite(cells).all() or volumes.min() < 1e-3:
        raise BadInput(
            "cell", f"volume {volumes.min():g} Å³", allowed="a cell periodic in three directions", fix="an RDF needs a bulk cell"
        )
    faces = np.cross(cells[:, [1, 2, 0]], cells[:, [2, 0, 1]])
    return float((volumes[:, None] / np.linalg.norm(faces, axis=-1)).min() / 2)


def rdf(trajectory: Trajectory, *, pair: tuple[str, str], r_max: float | None = None, bins: int = 200, blocks: int = 10) -> Curve:
    r"""Partial radial distribution function of two elements.

    g_ab(r) = ⟨ V n_ab(r) / (N_a (N_b − δ_ab) v(r)) ⟩      n: ordered pairs in the shell   v: volume of the shell

    tends to 1 for an ideal gas of any number of atoms. Errors come from contiguous blocks of the run.

    Args:
        trajectory: At least one frame, periodic in three directions.
        pair: Two element symbols (order does not matter).
        r_max: Largest distance (Å); default and upper bound: half the smallest height of the cell.
        bins: Shells of equal width between 0 and r_max.
        blocks: Time blocks for the error; as many as there are frames where there are fewer.
    Returns:
        Shell centres (Å) and g with one standard error; `blocks` holds g of each block.
    Raises:
        BadInput: Element absent, fewer than two atoms for a like pair, r_max too large, bins < 1, values not finite.
    """
    allowed = largest_radius(trajectory)
    r_max = min(allowed, 12.0) if r_max is None else r_max
    first, second = (atoms_of(trajectory, symbol) for symbol in pair)
    same = pair[0] == pair[1]
    if not 0 < r_max <= allowed * (1 + 1e-9):
        fix = "use a smaller one"
        raise BadInput("r_max", f"{r_max:g} Å", allowed=f"0 to {allowed:.4g} Å, half the smallest height of the cell", fix=fix)
    if bins < 1 or (same and len(first) < 2):
        raise BadInput(
            "pair", f"{'–'.join(pair)} with {bins} bins", allowed="at least one bin and two atoms", fix="choose another pair"
        )
    positions, cells = trajectory.positions.double().cpu().numpy(), trajectory.cell.double().cpu().numpy()
    if not np.isfinite(positions).all():
        raise BadInput("trajectory", "NaN or infinite positions", allowed="finite numbers", fix="discard the broken frames")
    edges = np.linspace(0.0, r_max, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    density = len(first) * (len(second) - same) / np.abs(np.linalg.det(cells))
    blocks = max(1, min(blocks, len(positions)))
    profiles = np.stack(
        [
            _shell_counts(positions[part], cells[part], 1.0 / density[part], atoms=(first, second), r_max=r_max, bins=bins)
            / (len(part) * shells)
            for part in np.array_split(np.arange(len(positions)), blocks)
        ]
    )
    error = profiles.std(axis=0, ddof=1) / np.sqrt(blocks) if blocks > 1 else np.full(bins, np.nan)
    return Curve(
        x=torch.from_numpy((edges[:-1] + edges[1:]) / 2), y=torch.from_numpy(profiles.mean(axis=0)),
        error=torch.from_numpy(error), x_unit="Å", y_unit="", label="–".join(pair), blocks=torch.from_numpy(profiles),
    )  # fmt: skip


def _shell_counts(
    positions: Float[np.ndarray, "frame atom 3"], cells: Float[np.ndarray, "frame 3 3"], weights: Float[np.ndarray, " frame"], *,
    atoms: tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]], r_max: float, bins: int,
) -> Float[np.ndarray, " bin"]:  # fmt: skip
    """Ordered pairs per shell, each frame's times its weight; pairs of an atom with itself left out."""
    scaled = (positions @ np.linalg.inv(cells)).transpose(0, 2, 1)
    metric = cells @ cells.transpose(0, 2, 1)
    first, second = atoms
    rows = max(1, CHUNK // len(second))
    totals = np.zeros(bins)
    for frame, weight in enumerate(weights):
        here, there = scaled[frame][:, first], scaled[frame][:, second]
        for begin in range(0, len(first), rows):
            gaps = [there[k][None] - here[k][begin : begin + rows, None] for k in range(3)]
            gaps = [component - np.rint(component) for component in gaps]
            squared = sum(metric[frame, k, m] * gaps[k] * gaps[m] for k in range(3) for m in range(3) if metric[frame, k, m])
            near = np.sqrt(squared[(squared < r_max**2) & (first[begin : begin + rows, None] != second)])
            totals += weight * np.bincount(np.minimum((near * (bins / r_max)).astype(np.int64), bins - 1), minlength=bins)
    return totals


def jensen_shannon(first: Curve, second: Curve) -> float:
    r"""Jensen–Shannon divergence (base 2) of two RDFs on the same shells: 0 equal, 1 nowhere both present.

    JS = H((p+q)/2) − (H(p)+H(q))/2      p, q: g(r) normalised to a sum of one over the shells   H: Shannon entropy in bits

    g rather than r²g is taken, so that near neighbours weigh as much as far ones. JS saturates for large shifts: read it
    beside `wasserstein`.

    Raises:
        BadInput: The shells differ, or an RDF is empty.
    Reference:
        Lin, IEEE Trans. Inf. Theory 37, 145 (1991), doi 10.1109/18.61115.
    """
    return _divergence(*_distributions(first, second))


def wasserstein(first: Curve, second: Curve) -> float:
    """Wasserstein-1 distance (Å) of two RDFs as distributions of r (g normalised): mean distance that weight must be moved.

    Raises:
        BadInput: The shells differ, or an RDF is empty.
    """
    p, q = _distributions(first, second)
    width = float(first.x[1] - first.x[0]) if len(p) > 1 else 0.0
    return _carried(p, q, width)


def sampling_divergence(first: Curve, second: Curve) -> float:
    """Jensen–Shannon divergence to expect of two runs of one system from finite sampling alone.

    Each run's first half is compared with its second half; halves are twice as noisy as the run, so a quarter of the sum counts.

    Raises:
        BadInput: A curve without at least two blocks.
    """
    halves = []
    for curve in (first, second):
        if curve.blocks is None or len(curve.blocks) < 2:
            raise BadInput("rdf", "a single block", allowed="at least two blocks", fix="use more frames")
        middle = len(curve.blocks) // 2
        early, late = (part.mean(dim=0).numpy() for part in (curve.blocks[:middle], curve.blocks[middle:]))
        halves.append(0.0 if not (early.sum() and late.sum()) else _divergence(early / early.sum(), late / late.sum()))
    return sum(halves) / 4.0


def segment_scatter(curve: Curve) -> tuple[Float[np.ndarray, " block"], Float[np.ndarray, " block"]]:
    """What one block of a run differs from all the others: Jensen–Shannon divergence and Wasserstein-1 distance (Å) of each.

    With blocks as long as another, shorter run this is what that run would show of the same distribution, its slow motions
    included.
    """
    blocks = [] if curve.blocks is None else list(curve.blocks.numpy())
    total, width = np.sum(blocks, axis=0), float(curve.x[1] - curve.x[0])
    divergences, shifts = [], []
    for block in blocks:
        rest = total - block
        if block.sum() > 0 and rest.sum() > 0:
            p, q = block / block.sum(), rest / rest.sum()
            divergences.append(_divergence(p, q))
            shifts.append(_carried(p, q, width))
    return np.array(divergences), np.array(shifts)


def _distributions(first: Curve, second: Curve) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    if first.x.shape != second.x.shape or not torch.allclose(first.x, second.x, atol=1e-9):
        raise BadInput(
            "rdf", "different shells", allowed="the same r_max and bins", fix="compute both with the same r_max and bins"
        )
    p, q = first.y.numpy(), second.y.numpy()
    if not (p.sum() > 0 and q.sum() > 0):
        raise BadInput("rdf", f"{first.label}: no pair within r_max", allowed="at least one pair", fix="use a larger r_max")
    return p / p.sum(), q / q.sum()


def _carried(p: Float[np.ndarray, " bin"], q: Float[np.ndarray, " bin"], width: float) -> float:
    return float(np.abs(np.cumsum(p - q)).sum() * width)


def _divergence(p: Float[np.ndarray, " bin"], q: Float[np.ndarray, " bin"]) -> float:
    middle = (p + q) / 2

    def entropy(distribution: Float[np.ndarray, " bin"]) -> float:
        positive = distribution[distribution > 0]
        return float(-(positive * np.log2(positive)).sum())

    return max(0.0, entropy(middle) - (entropy(p) + entropy(q)) / 2)

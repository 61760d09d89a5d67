"""Unwrap coordinates, after checks of jumps, atom order and joints of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int

from mdistill.errors import BadInput

LARGEST_MOVE = 0.4
"""Largest certain move between two frames, as a share of the cell; the direction of half a cell is undefined."""
DOUBTFUL = 1e-3
"""Largest share of uncertain moves."""
SUSPECT_MOVE = 1.5
"""Å between two frames from which a change of the atom order is looked for."""


def unwrap(
    positions: Float[np.ndarray, "frame atom 3"], cells: Float[np.ndarray, "frame 3 3"], numbers: Int[np.ndarray, " atom"], *,
    path: Path,
) -> tuple[Float[np.ndarray, "frame atom 3"], list[str]]:  # fmt: skip
    r"""Positions (Å) without jumps over the cell boundary, and notes.

    s(t) = s(0) + Σ [Δs − round(Δs)],  r = s·h      s: scaled coordinates   h: cell of the frame   Δs: step between frames

    Unwrapped coordinates are returned unchanged.

    Raises:
        BadInput: The order of equal atoms changes, or more than 0.1 % of the moves exceed 0.4 of the cell.
    """
    frames, periodic = _complete(cells)
    scaled = positions @ np.linalg.inv(frames)
    steps = np.diff(scaled, axis=0)
    whole = np.rint(steps) * periodic
    steps -= whole
    moves = steps @ frames[1:]
    _check_order(moves, positions, frames, periodic, numbers=numbers, path=path)
    doubtful = (np.abs(steps) * periodic > LARGEST_MOVE).any(axis=-1)
    count = int(doubtful.sum())
    if count > max(3.0, DOUBTFUL * doubtful.size):
        frame, atom = np.argwhere(doubtful)[0]
        raise BadInput(
            path,
            f"{count} moves exceed {LARGEST_MOVE} of the cell between two frames (first: atom {atom + 1}, frame {frame + 2})",
            allowed="moves that can be told from their periodic images",
            fix="write frames more often, or store unwrapped coordinates",
        )
    notes = []
    if count:
        notes.append(f"{count} moves exceed {LARGEST_MOVE} of the cell between two frames: their direction is uncertain")
    if not whole.any():
        return positions, notes
    crossings = int((whole != 0).any(axis=-1).sum())
    notes.insert(0, f"coordinates were wrapped: unwrapped by the nearest image ({crossings} crossings of the cell boundary)")
    continuous = np.concatenate([scaled[:1], scaled[:1] + np.cumsum(steps, axis=0)])
    return continuous @ frames, notes


def joint_is_doubled(
    before: Float[np.ndarray, "frame atom 3"], after: Float[np.ndarray, "frame atom 3"], cells: Float[np.ndarray, "frame 3 3"], *,
    path: Path,
) -> bool:  # fmt: skip
    """Whether the first frame of a run repeats the last of the run before it.

    Raises:
        BadInput: The run starts somewhere else: its first step is far larger than the steps within the runs.
    """
    joint = np.linalg.norm(nearest(after[0] - before[-1], cells[0]), axis=-1)
    if joint.max() < 1e-4:
        return True
    inside = [
        np.linalg.norm(nearest(run[k + 1] - run[k], cells[0]), axis=-1)
        for run in (before, after)
        for k in range(min(len(run) - 1, 20))
    ]
    usual = float(np.median(inside)) if inside else np.inf
    if np.median(joint) > 3.0 * usual + 0.05:
        problem = f"does not continue the run before it: atoms jump by {np.median(joint):.2f} Å, within the runs by {usual:.2f} Å"
        allowed = "runs that follow each other"
        raise BadInput(path, problem, allowed=allowed, fix="give the runs in time order, or analyse independent runs apart")
    return False


def nearest(vectors: Float[np.ndarray, "atom 3"], cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "atom 3"]:
    """Vectors (Å) less the lattice vector nearest in scaled coordinates; exact below half the smallest height of the cell."""
    frames, periodic = _complete(cell[None])
    scaled = vectors @ np.linalg.inv(frames[0])
    return (scaled - np.rint(scaled) * periodic) @ frames[0]


def _complete(cells: Float[np.ndarray, "frame 3 3"]) -> tuple[Float[np.ndarray, "frame 3 3"], Bool[np.ndarray, " 3"]]:
    """Cells with open directions filled by unit vectors, and which directions are periodic."""
    from ase.geometry import complete_cell

    periodic = np.linalg.norm(cells[0], axis=-1) > 1e-6
    return (cells if periodic.all() else np.stack([complete_cell(cell) for cell in cells])), periodic


def _check_order(
    moves: Float[np.ndarray, "step atom 3"], positions: Float[np.ndarray, "frame atom 3"], frames: Float[np.ndarray, "frame 3 3"],
    periodic: Bool[np.ndarray, " 3"], *, numbers: Int[np.ndarray, " atom"], path: Path,
) -> None:  # fmt: skip
    """Reject frames in which atoms of one element exchange places: each atom that moves far arrives where another was."""
    from scipy.optimize import linear_sum_assignment

    far = (moves**2).sum(axis=-1) > SUSPECT_MOVE**2
    for frame in np.flatnonzero(far.sum(axis=1) >= 2):
        movers = np.flatnonzero(far[frame])
        for number in np.unique(numbers[movers]):
            same = movers[numbers[movers] == number]
            if len(same) < 2:
                continue
            step = positions[frame + 1, same][:, None] - positions[frame, same][None]
            scaled = step @ np.linalg.inv(frames[frame + 1])
            distance = np.linalg.norm((scaled - np.rint(scaled) * periodic) @ frames[frame + 1], axis=-1)
            np.fill_diagonal(distance, 1e6)
            row, column = linear_sum_assignment(distance)
            swapped = distance[row, column] < np.sqrt((moves[frame, same] ** 2).sum(-1))[row] / 3
            if swapped.mean() > 0.9:
                symbol = chemical_symbols[number]
                raise order_changed(
                    path, int(frame) + 2, f"{len(same)} {symbol} atoms (first: atom {same[0] + 1}) exchange places"
                )


def order_changed(path: Path, frame: int, detail: str) -> BadInput:
    """The error for a trajectory whose atoms do not stay in order."""
    problem, allowed = f"the order of the atoms changes at frame {frame}: {detail}", "the same order in every frame"
    return BadInput(path, problem, allowed=allowed, fix="sort every frame by atom id (LAMMPS: dump_modify sort id)")

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
FARTHEST = 1000.0
"""Å; no atom moves farther between two frames, in a direction without a cell."""
FEW_ATOMS = 4
"""Fewest atoms of an element whose median move at a joint is judged."""
LARGEST_STRETCH = 1.5
"""Largest ratio of the volumes of two frames that follow each other."""


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
    before: Float[np.ndarray, "frame atom 3"], after: Float[np.ndarray, "frame atom 3"], cells: Float[np.ndarray, "frame 3 3"]
) -> bool:
    """Whether the first frame of a run repeats the last of the run before it."""
    return bool(np.linalg.norm(nearest(after[0] - before[-1], cells[0]), axis=-1).max() < 1e-4)


def check_joint(
    before: Float[np.ndarray, "frame atom 3"], after: Float[np.ndarray, "frame atom 3"], cells: Float[np.ndarray, "frame 3 3"],
    numbers: Int[np.ndarray, " atom"], *, path: Path,
) -> None:  # fmt: skip
    """Reject a run that starts elsewhere than the run before it ends.

    Raises:
        BadInput: The step at the joint is far larger than those within the runs, for all atoms or for those of one element
            (four or more).
    """
    joint = np.linalg.norm(nearest(after[0] - before[-1], cells[0]), axis=-1)
    steps = [
        np.linalg.norm(nearest(run[k + 1] - run[k], cells[0]), axis=-1)
        for run in (before, after)
        for k in range(min(len(run) - 1, 20))
    ]
    inside = np.array(steps) if steps else np.full((1, len(numbers)), np.inf)
    everyone = np.ones(len(numbers), bool)
    groups = [("", everyone, 3.0 * float(np.median(inside)))]
    for number in np.unique(numbers):
        same = numbers == number
        moves = np.median(inside[:, same], axis=1)
        if same.sum() >= FEW_ATOMS:
            groups.append((f"{chemical_symbols[number]} ", same, max(2.0 * float(np.median(moves)), 1.5 * float(moves.max()))))
    for symbol, same, most in groups:
        jump, usual = float(np.median(joint[same])), float(np.median(inside[:, same]))
        if jump > most + 0.05:
            problem = f"does not continue the run before it: {symbol}atoms jump by {jump:.2f} Å, within the runs by {usual:.2f} Å"
            allowed = "runs that follow each other"
            raise BadInput(path, problem, allowed=allowed, fix="give the runs in time order, or analyse independent runs apart")


def check_cells(cells: Float[np.ndarray, "frame 3 3"], periodic: Bool[np.ndarray, " 3"], *, path: Path, first: int = 1) -> None:
    """Reject zero edges, flat cells, and cells whose volume jumps between two frames.

    Args:
        cells: Cells (Å), rows are lattice vectors.
        periodic: Directions along which the file is periodic.
        path, first: File, and number of its first frame here, for the message.
    Raises:
        BadInput: An edge or a volume of zero, or a ratio of consecutive volumes above 1.5.
    """
    fix = "correct the cell in the file, or cut the run off before this frame"
    lengths = np.linalg.norm(cells, axis=-1)
    short = (lengths < 1e-3) & periodic
    if short.any():
        frame, edge = np.argwhere(short)[0]
        problem = (
            f"periodic along {'abc'[edge]}, but this edge of the cell is {lengths[frame, edge]:.3g} Å in frame {frame + first}"
        )
        raise BadInput(path, problem, allowed="edges above 0 Å", fix=fix)
    sizes = np.where(periodic, lengths, 1.0).prod(axis=1)
    if periodic.all():
        volumes = np.abs(np.linalg.det(cells))
        if (volumes < 1e-6 * sizes).any():
            frame = int(np.argmax(volumes < 1e-6 * sizes))
            raise BadInput(path, f"the cell of frame {frame + first} has no volume", allowed="a volume above 0 Å³", fix=fix)
        sizes = volumes
    ratios = np.maximum(sizes[1:] / sizes[:-1], sizes[:-1] / sizes[1:])
    if (ratios > LARGEST_STRETCH).any():
        frame = int(np.argmax(ratios > LARGEST_STRETCH)) + 1
        now, before = float(sizes[frame]), float(sizes[frame - 1])
        unit = "Å³" if periodic.all() else "Å (product of the edges)"
        problem = f"the cell changes from {before:.4g} to {now:.4g} {unit} at frame {frame + first}"
        raise BadInput(path, problem, allowed=f"a ratio of at most {LARGEST_STRETCH:g} between frames", fix=fix)


def check_jumps(positions: Float[np.ndarray, "frame atom 3"], cells: Float[np.ndarray, "frame 3 3"], *, path: Path) -> None:
    """Reject frames in which a few atoms move by two cells or more, which is neither wrapping nor motion.

    Raises:
        BadInput: At most a tenth of the atoms move so, or one atom; or an atom moves by 1000 Å along an open direction.
    """
    frames, periodic = _complete(cells)
    moves = np.diff(positions, axis=0)
    images = np.abs(np.rint(np.diff(positions @ np.linalg.inv(frames), axis=0)))  # Å along open directions
    far = ((images >= 2) & periodic).any(axis=-1)
    far &= far.sum(axis=1, keepdims=True) <= max(1, far.shape[1] // 10)
    far |= ((images > FARTHEST) & ~periodic).any(axis=-1)
    if far.any():
        frame, atom = np.argwhere(far)[0]
        problem = f"atom {atom + 1} moves by {np.linalg.norm(moves[frame, atom]):.3g} Å from frame {frame + 1} to {frame + 2}"
        allowed = "moves of less than two cells between frames"
        raise BadInput(path, problem, allowed=allowed, fix="restore the broken frame, or cut the run off before it")


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

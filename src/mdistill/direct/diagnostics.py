r"""What direct forces lack, measured: equivariance, a symmetric Jacobian, a constant energy, bonds that hold.

    E_eq = √⟨|F_k − F̄|² / 3⟩     F_k: forces of the structure turned by R_k, turned back   F̄: their mean over k
    λ = ‖J − Jᵀ‖ / 2‖J‖           J = ∂F/∂r; 0 of a potential, 1/√2 of a random matrix
    h(r): density of distances between atoms, ∫ h dr = 1      error: ∫ |h − h_ref| dr

The rotations R_k are the 60 of the icosahedral group, whose 120 quaternions are the vertices of the 600-cell: they average
polynomials in the rotation matrix up to degree 5 exactly, the angle about the axis included.

References: F. Bigi, M. Langer, M. Ceriotti, ICML 2025, arXiv 2412.11569 (λ); X. Fu et al., Forces are not enough, TMLR 2023,
arXiv 2210.07237 (stability, h); M. Eissler et al., arXiv 2503.01431 (E_eq).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.derivatives import hessian
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.graph import build_graph, concatenate, turned
from mdistill.nets.repulsion import covalent_sums
from mdistill.types import Potential, System, Trajectory
from mdistill.units import PS

BROKEN = 0.5
"""Deviation of a bond from its mean length (Å) at which a run counts as unstable."""
LEAST_FRAMES = 20
"""Fewest frames that a slope of the temperature is fitted to."""
_BONDED = 1.25


def rotations() -> Float[Tensor, "60 3 3"]:
    """The 60 rotations of the icosahedral group."""
    golden = (1.0 + sqrt(5.0)) / 2.0
    corners = [np.eye(4)[k] for k in range(4)] + [np.array([0.5, *half]) for half in product((0.5, -0.5), repeat=3)]
    even = [order for order in permutations(range(4)) if _parity(order) == 0]
    for a, b, c in product((1.0, -1.0), repeat=3):
        values = 0.5 * np.array([a * golden, b, c / golden, 0.0])
        corners += [values[list(order)] for order in even]
    unique = {tuple(np.round(q * np.sign(q[np.flatnonzero(np.abs(q) > 1e-9)[0]]), 9)) for q in corners}
    return torch.stack([_matrix(np.array(q)) for q in sorted(unique)])


def _parity(order: Sequence[int]) -> int:
    return sum(order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order))) % 2


def _matrix(quaternion: np.ndarray) -> Tensor:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    rows = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64)


def equivariance_error(potential: Potential, systems: Sequence[System]) -> Estimate:
    """E_eq, eV/Å: mean over structures of one struct each, with its standard error."""
    turns, each = rotations(), []
    for system in systems:
        batch = concatenate([turned(system, turn.to(system.positions)) for turn in turns])
        forces = potential(build_graph(batch, potential.cutoff)).forces.double().view(len(turns), -1, 3)
        back = forces @ turns.transpose(1, 2)
        each.append(float((back - back.mean(0)).square().mean().sqrt()))
    return _mean(each, "eV/Å")


def antisymmetry(potential: Potential, systems: Sequence[System]) -> Estimate:
    """λ: mean over structures of one struct each, with its standard error."""
    each = []
    for system in systems:
        jacobian = hessian(potential, system).double().flatten(1)
        each.append(float((jacobian - jacobian.T).norm() / (2.0 * jacobian.norm())))
    return _mean(each, "")


def heating(times: Float[np.ndarray, " frame"], temperatures_K: Float[np.ndarray, " frame"]) -> Estimate:
    """Slope of the temperature of a run in NVE, K/ns, by regression; its error from the scatter of five blocks about the line.

    Args:
        times: fs.
        temperatures_K: Kinetic temperature at each of them.
    Raises:
        BadInput: Fewer than `LEAST_FRAMES` frames.
    """
    if len(times) < LEAST_FRAMES:
        raise BadInput("run", f"{len(times)} frames", allowed=f"at least {LEAST_FRAMES}", fix="a longer run, or more frames")
    nanoseconds = times / (1000.0 * PS)
    slope, offset = np.polyfit(nanoseconds, temperatures_K, 1)
    residual = temperatures_K - slope * nanoseconds - offset
    means = np.array([block.mean() for block in np.array_split(residual, 5)])
    spread = means.std(ddof=2) / np.std([block.mean() for block in np.array_split(nanoseconds, 5)]) / sqrt(5.0)
    return Estimate(value=float(slope), error=float(spread), unit="K/ns", samples=len(times))


def bonds(system: System) -> Int[Tensor, "bond 2"]:
    """Pairs of atoms of one struct closer than 1.25 × the sum of their covalent radii."""
    elements = sorted({int(z) for z in system.numbers})
    species = torch.tensor([elements.index(int(z)) for z in system.numbers])
    graph = build_graph(system, _BONDED * float(covalent_sums(elements).max()))
    ends = torch.stack([graph.receiver, graph.sender], 1)
    vectors = system.positions[ends[:, 1]] + graph.shift @ system.cell[0] - system.positions[ends[:, 0]]
    near = vectors.norm(dim=1) < _BONDED * covalent_sums(elements)[species[ends[:, 0]], species[ends[:, 1]]]
    return ends[near & (ends[:, 0] < ends[:, 1])]


def first_break(
    positions: Float[Tensor, "frame atom 3"], pairs: Int[Tensor, "bond 2"], lengths: Float[Tensor, " bond"]
) -> int | None:
    """The first frame in which a bond deviates by more than 0.5 Å from its reference length, or is not finite; None without."""
    if not len(pairs):
        return None
    ends = positions[:, pairs[:, 1]] - positions[:, pairs[:, 0]]
    broken = (~((ends.norm(dim=2) - lengths).abs().amax(1) <= BROKEN)).nonzero()
    return int(broken[0]) if len(broken) else None


def stable_time(trajectory: Trajectory, pairs: Int[Tensor, "bond 2"], lengths: Float[Tensor, " bond"]) -> float:
    """Time (fs) of the first frame with a broken bond (`first_break`); the last time, where there is none."""
    broken = first_break(trajectory.positions, pairs, lengths)
    return float(trajectory.times[-1 if broken is None else broken])


def distance_density(
    positions: Float[Tensor, "frame atom 3"], *, width: float = 0.05, longest: float = 15.0
) -> Float[np.ndarray, " bin"]:
    """h(r) of one molecule over frames, 1/Å, in bins of this width (Å)."""
    first, second = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
    distances = (positions[:, first] - positions[:, second]).norm(dim=2).flatten().numpy()
    counts = np.histogram(distances, bins=round(longest / width), range=(0.0, longest))[0]
    return counts / (width * max(len(distances), 1))


def density_error(found: Float[np.ndarray, " bin"], reference: Float[np.ndarray, " bin"], *, width: float = 0.05) -> float:
    """∫ |h − h_ref| dr, between 0 and 2."""
    return float(np.abs(found - reference).sum() * width)


def _mean(values: Sequence[float], unit: str) -> Estimate:
    error = float(np.std(values, ddof=1) / sqrt(len(values))) if len(values) > 1 else None
    return Estimate(value=float(np.mean(values)), error=error, unit=unit, samples=len(values))

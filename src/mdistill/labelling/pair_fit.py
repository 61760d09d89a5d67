r"""Pair potential fitted to the forces alone: tells whether energies and stress of a file belong to its forces.

φ_ab(r) = Σ_k c_k g_k(r),  F_i = Σ_j φ'(r_ij) r_ij/|r_ij|,  E = ½ Σ_ij φ(r_ij),  σ = ½/V Σ_ij φ'(r_ij) r_ij r_ijᵀ/|r_ij|

g_k: Gaussians between the closest distance and the cutoff, times (1 − r/r_c)²   r_ij = r_j − r_i   a, b: elements of i and j
The energy is compared within one composition, less a parabola in the volume, the stress without its trace: forces do not
determine the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdistill.graph import build_graph, edge_vectors
from mdistill.types import Graph, LabelledFrame

CUTOFF = 5.0
"""Cutoff, Å."""
_FUNCTIONS, _FRAMES, _ATOMS, _PAIRS, _LARGEST = 14, 120, 6000, 21, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Label over what the forces imply.

    Attributes:
        value: Ratio of the spreads, with the sign of the correlation; 1 for labels that belong together.
        correlation: Correlation coefficient of the two.
    """

    value: float
    correlation: float


def implied_ratios(frames: Sequence[LabelledFrame]) -> dict[str, Ratio]:
    """Ratios of "energy" and "stress" to those of a pair potential fitted to the forces; without what cannot be compared."""
    chosen = _sample([f for f in frames if "forces" not in f.missing and 1 < f.system.n_atoms <= _LARGEST])
    elements = sorted({int(z) for f in chosen for z in f.system.numbers.unique()})
    if len(chosen) < 4 or len(elements) * (len(elements) + 1) // 2 > _PAIRS:
        return {}
    graphs = [build_graph(f.system, CUTOFF) for f in chosen]
    nearest = min((float(edge_vectors(g).norm(dim=1).min()) for g in graphs if len(g.receiver)), default=CUTOFF)
    if nearest >= CUTOFF:
        return {}
    rows = [_rows(graph, elements, nearest) for graph in graphs]
    design = torch.cat([forces.reshape(-1, forces.shape[-1]) for _, forces, _ in rows])
    label = torch.cat([f.target.forces.double().reshape(-1) for f in chosen])
    gram = design.T @ design
    ridge = 1e-8 * float(gram.diagonal().max()) * torch.eye(len(gram), dtype=torch.float64)
    weights = torch.linalg.solve(gram + ridge, design.T @ label)
    return _energy_ratio(chosen, [e @ weights for e, _, _ in rows]) | _stress_ratio(chosen, [s @ weights for _, _, s in rows])


def _sample(frames: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """At most 120 frames and about 6,000 atoms, evenly spaced."""
    if not frames:
        return []
    atoms = sum(f.system.n_atoms for f in frames) / len(frames)
    count = max(4, min(_FRAMES, int(_ATOMS / atoms), len(frames)))
    return [frames[int(k)] for k in np.unique(np.linspace(0, len(frames) - 1, count).astype(int))]


def _rows(graph: Graph, elements: Sequence[int], nearest: float) -> tuple[Tensor, Tensor, Tensor]:
    """Energy [weight], forces [atom, 3, weight] and volume × stress [3, 3, weight] per unit weight."""
    system, vectors = graph.system, edge_vectors(graph).double()
    index = torch.searchsorted(torch.tensor(elements), system.numbers)
    first, second = index[graph.receiver], index[graph.sender]
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    pair = low * len(elements) - low * (low - 1) // 2 + high - low
    count = len(elements) * (len(elements) + 1) // 2
    r = vectors.norm(dim=1, keepdim=True)
    centres = torch.linspace(nearest, CUTOFF, _FUNCTIONS, dtype=torch.float64)
    width = float(centres[1] - centres[0])
    bell, fade = torch.exp(-0.5 * ((r - centres) / width) ** 2), 1.0 - r / CUTOFF
    value = bell * fade**2
    slope = bell * (-(r - centres) / width**2 * fade**2 - 2.0 * fade / CUTOFF)
    hot = torch.nn.functional.one_hot(pair, count).double()
    values = torch.einsum("ek,ep->epk", value, hot).flatten(1)
    pulls = torch.einsum("ek,ep->epk", slope, hot).flatten(1)
    along = vectors / r
    forces = torch.zeros(system.n_atoms, 3, values.shape[1], dtype=torch.float64)
    forces.index_add_(0, graph.receiver, along.unsqueeze(2) * pulls.unsqueeze(1))
    return 0.5 * values.sum(0), forces, 0.5 * torch.einsum("ea,eb,ew->abw", along, vectors, pulls)


def _energy_ratio(frames: Sequence[LabelledFrame], implied: Sequence[Tensor]) -> dict[str, Ratio]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, frame in enumerate(frames):
        if "energy" not in frame.missing:
            groups.setdefault(tuple(sorted(frame.system.numbers.tolist())), []).append(k)
    label, answer = list[np.ndarray](), list[np.ndarray]()
    for mine in groups.values():
        energies = np.array([[float(frames[k].target.energy[0]), float(implied[k])] for k in mine])
        energies -= energies.mean(0)
        volumes = np.array([float(torch.linalg.det(frames[k].system.cell[0]).abs()) for k in mine])
        if len(mine) > 6 and np.ptp(volumes) > 1e-6 * volumes.max():
            x = (volumes - volumes.mean()) / volumes.std()
            shape = np.stack([np.ones_like(x), x, x**2], axis=1)
            energies -= shape @ np.linalg.lstsq(shape, energies, rcond=None)[0]
        label.append(energies[:, 0])
        answer.append(energies[:, 1])
    return _ratio("energy", label, answer)


def _stress_ratio(frames: Sequence[LabelledFrame], implied: Sequence[Tensor]) -> dict[str, Ratio]:
    label, answer = list[np.ndarray](), list[np.ndarray]()
    for frame, virial in zip(frames, implied, strict=True):
        if frame.target.stress is not None and bool(frame.system.pbc.all()):
            volume = float(torch.linalg.det(frame.system.cell[0].double()).abs())
            for kept, tensor in ((label, frame.target.stress[0].double()), (answer, virial / volume)):
                kept.append((tensor - torch.eye(3) * tensor.trace() / 3.0).flatten().numpy())
    return _ratio("stress", label, answer)


def _ratio(name: str, label: Sequence[np.ndarray], answer: Sequence[np.ndarray]) -> dict[str, Ratio]:
    """The ratio of two sets of numbers of mean zero; nothing where there are too few or one does not vary."""
    x, y = (np.concatenate(part) if part else np.zeros(0) for part in (answer, label))
    spread = float(np.sqrt((x**2).sum() * (y**2).sum()))
    if len(x) < 4 or spread == 0.0 or not np.isfinite(spread):
        return {}
    correlation = float((x * y).sum() / spread)
    return {name: Ratio(value=float(np.sign(correlation) * np.sqrt((y**2).sum() / (x**2).sum())), correlation=correlation)}

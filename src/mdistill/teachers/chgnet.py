r"""CHGNet 0.3.0 as an energy network of edge vectors: forces, stress and curvature follow by autodiff (`Conservative`).

Pairs within 6 Å, angles between pairs shorter than 3 Å. Its own calculator gives stress in GPa unless told otherwise;
here stress is always eV/Å³. The network works in float32 (forces repeat to about 1e-6 eV/Å).

Reference:
    Deng, Zhong, Jun, et al., Nat. Mach. Intell. 5, 1031 (2023), doi 10.1038/s42256-023-00716-3.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.derivatives import Conservative
from mdistill.runs.identity import weights_sha256
from mdistill.teachers.ase import refuse_unknown
from mdistill.types import Graph


def load_chgnet(name: str, *, device: str = "cpu") -> Conservative:
    """CHGNet 0.3.0, whose weights come with the package `chgnet`.

    Raises:
        ModuleNotFoundError: `chgnet` is not installed.
    """
    from chgnet.model.model import BatchedGraph, CHGNet

    model = CHGNet.load(model_name="0.3.0", use_device=device, verbose=False).eval().requires_grad_(False)
    reference = model.composition_model.fc.weight[0]
    return Conservative(
        CHGNetEnergy(name=name, model=model, batch=BatchedGraph, reference=reference, sha256=weights_sha256(model))
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CHGNetEnergy:
    """CHGNet up to the atomic energies, fed from our graph.

    Attributes:
        reference: [94] energy per atom of each element in its linear composition model, eV.
        elements: H to Pu without Po, At, Rn, Fr, Ra, of which its training data (MPtrj) hold none.
    """

    name: str
    model: Any
    batch: Any
    reference: Float[Tensor, " number"]
    sha256: str
    elements: frozenset[int] = frozenset(range(1, 95)) - frozenset(range(84, 89))

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """All weights by name, without the energies of elements."""
        return {name: one for name, one in self.model.named_parameters() if not name.startswith("composition_model.")}

    def copied(self) -> CHGNetEnergy:
        """The network with a copy of its model."""
        return replace(self, model=deepcopy(self.model))

    def potential(self, *, name: str, sha256: str) -> Conservative:
        """The network as a potential."""
        return Conservative(replace(self, name=name, sha256=sha256))

    @property
    def cutoff(self) -> float:
        return float(self.model.graph_converter.atom_graph_cutoff)

    def __call__(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        refuse_unknown(graph.system.numbers, self.elements, self.name)
        device = self.reference.device
        edges = vectors.to(device=device, dtype=torch.float32)
        receiver, numbers = graph.receiver.to(device), graph.system.numbers.to(device)
        lengths = edges.square().sum(1).sqrt()
        units = edges / lengths.unsqueeze(1)
        pair_of, edge_of = _pairs(graph)
        pair_of, edge_of = pair_of.to(device), edge_of.to(device)
        left, right = _angles(receiver, lengths.detach() < self.model.graph_converter.bond_graph_cutoff)
        basis = self.model.bond_basis_expansion
        pair_lengths = lengths.index_select(0, edge_of)
        batch = self.batch(
            atomic_numbers=numbers, bond_bases_ag=basis.rbf_expansion_ag(pair_lengths),
            bond_bases_bg=basis.rbf_expansion_bg(pair_lengths),
            angle_bases=self.model.angle_basis_expansion(units[left], units[right]) if len(left) else edges.new_zeros(0),
            batched_atom_graph=torch.stack([receiver, graph.sender.to(device)], 1),
            batched_bond_graph=torch.stack([receiver[left], pair_of[left], pair_of[right]], 1),
            atom_owners=graph.system.owner.to(device), directed2undirected=pair_of, atom_positions=(), strains=(), volumes=(),
        )  # fmt: skip
        atomic = torch.cat(self.model._compute(batch, return_site_energies=True)["site_energies"])
        return (atomic + self.reference[numbers - 1]).to(vectors)


def _pairs(graph: Graph) -> tuple[Int[Tensor, " edge"], Int[Tensor, " pair"]]:
    """Undirected pairs: the pair of each edge, and one edge of each pair."""
    receiver, sender = graph.receiver.cpu().numpy(), graph.sender.cpu().numpy()
    shift = np.rint(graph.shift.cpu().numpy()).astype(np.int64)
    there = np.lexsort((*shift.T[::-1], sender, receiver))
    back = np.lexsort((*(-shift.T[::-1]), receiver, sender))
    reverse = np.empty_like(there)
    reverse[back] = there
    edge_of, pair_of = np.unique(np.minimum(np.arange(len(reverse)), reverse), return_inverse=True)
    return torch.from_numpy(pair_of), torch.from_numpy(edge_of)


def _angles(receiver: Int[Tensor, " edge"], short: Tensor) -> tuple[Int[Tensor, " angle"], Int[Tensor, " angle"]]:
    """All ordered pairs of different short edges that share their receiver (edges are sorted by receiver)."""
    near = short.nonzero()[:, 0]
    _, inverse, counts = torch.unique_consecutive(receiver[near], return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    repeats = counts[inverse]
    left = torch.arange(len(near), device=near.device).repeat_interleave(repeats)
    offset = torch.arange(len(left), device=near.device) - (repeats.cumsum(0) - repeats)[left]
    right = starts[inverse][left] + offset
    different = left != right
    return near[left[different]], near[right[different]]

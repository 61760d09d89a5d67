r"""SevenNet as an energy network of edge vectors: forces, stress and curvature follow by autodiff (`Conservative`).

E = Σ_i e_i({d_ij}),  d_ij = r_j − r_i within 5 Å; the network works in float32 (forces repeat to about 1e-6 eV/Å), sums
over atoms and edges are done in the caller's precision.

Reference:
    Park, Kim, Hwang, Han, J. Chem. Theory Comput. 20, 4857 (2024), doi 10.1021/acs.jctc.4c00190 (NequIP's equations).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.derivatives import Conservative
from mdistill.teachers.ase import refuse_unknown
from mdistill.types import Graph

_MODELS = {
    "sevennet-0": ("7net-0", None),
    "sevennet-l3i5": ("7net-l3i5", None),
    "sevennet-mf-0": ("7net-mf-0", "R2SCAN"),
    "sevennet-mf-0-pbe": ("7net-mf-0", "PBE"),
}
"""Our name -> (the package's name, modality). The multi-fidelity model speaks r2SCAN unless PBE is asked for."""


def load_sevennet(name: str, *, device: str = "cpu") -> Conservative:
    """A SevenNet model whose weights come with the package `sevenn`.

    Args:
        name: One of "sevennet-0", "sevennet-l3i5", "sevennet-mf-0" (r2SCAN), "sevennet-mf-0-pbe".
        device: "cpu" or "cuda".
    Raises:
        ModuleNotFoundError: `sevenn` is not installed.
    """
    import sevenn._keys as keys
    from sevenn.util import load_checkpoint

    checkpoint, modality = _MODELS[name]
    model = load_checkpoint(checkpoint).build_model()
    model.set_is_batch_data(False)
    model.eval().requires_grad_(False).to(device)
    index_of = torch.full((120,), -1, dtype=torch.int64)
    for number, index in model.type_map.items():
        index_of[number] = index
    layers = [layer for key, layer in model._modules.items() if key not in ("reduce_total_enegy", "force_output")]
    return Conservative(
        SevenNetEnergy(
            name=name,
            layers=tuple(layers),
            keys=keys,
            index_of=index_of.to(device),
            modality=None if modality is None else model.modal_map[modality],
            cutoff=float(model.cutoff),
            elements=frozenset(int(number) for number in model.type_map),
        )
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SevenNetEnergy:
    """The layers of a SevenNet model up to the atomic energies.

    Attributes:
        index_of: [120] column of each atomic number in the network's element table, −1 where it knows none.
        modality: Index of the level of theory in a multi-fidelity model.
    """

    name: str
    layers: tuple[Any, ...]
    keys: Any
    index_of: Int[Tensor, " number"]
    modality: int | None
    cutoff: float
    elements: frozenset[int]

    def __call__(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        refuse_unknown(graph.system.numbers, self.elements, self.name)
        device = self.index_of.device
        data = {
            self.keys.NODE_FEATURE: self.index_of[graph.system.numbers.to(device)],
            self.keys.EDGE_IDX: torch.stack([graph.receiver, graph.sender]).to(device),
            self.keys.EDGE_VEC: vectors.to(device=device, dtype=torch.float32),
        }
        if self.modality is not None:
            data[self.keys.MODAL_TYPE] = torch.tensor(self.modality, device=device)
        for layer in self.layers:
            data = layer(data)
        return data[self.keys.ATOMIC_ENERGY].reshape(-1).to(vectors)

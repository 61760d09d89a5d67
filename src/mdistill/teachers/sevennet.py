r"""SevenNet as an energy network of edge vectors: forces, stress and curvature follow by autodiff.

E = Σ_i e_i({d_ij}),  d_ij = r_j − r_i within 5 Å; the network works in float32 (forces repeat to about 1e-6 eV/Å), sums
over atoms and edges are done in the caller's precision. Its convolutions are nearly all of its cost. Energies, forces and
stress on a CPU use compiled ones (`compiled_convolution`). Curvature products, GPUs and machines without a C++ compiler use
`EdgeConvolution`, with channels last: same numbers as the package's own, in less than half the time.

Reference:
    Park, Kim, Hwang, Han, J. Chem. Theory Comput. 20, 4857 (2024), doi 10.1021/acs.jctc.4c00190 (NequIP's equations).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.derivatives import Conservative
from mdistill.graph import edge_vectors
from mdistill.kernels.build import NoKernel, enabled
from mdistill.notices import notify
from mdistill.runs.identity import weights_sha256
from mdistill.teachers.ase import refuse_unknown
from mdistill.teachers.channels_last import channels_last
from mdistill.teachers.compiled_convolution import LOWEST, CompiledConvolution
from mdistill.types import CurvedPotential, Graph, Prediction

_MODELS = {
    "sevennet-0": ("7net-0", None),
    "sevennet-l3i5": ("7net-l3i5", None),
    "sevennet-mf-0": ("7net-mf-0", "R2SCAN"),
    "sevennet-mf-0-pbe": ("7net-mf-0", "PBE"),
}
"""Our name -> (the package's name, modality). The multi-fidelity model answers for r2SCAN unless the name says PBE."""


def load_sevennet(name: str, *, device: str = "cpu") -> CurvedPotential:
    """A SevenNet model whose weights come with the package `sevenn`.

    Args:
        name: One of "sevennet-0", "sevennet-l3i5", "sevennet-mf-0" (r2SCAN), "sevennet-mf-0-pbe".
        device: "cpu" or "cuda".
    Raises:
        ModuleNotFoundError: `sevenn` is not installed.
    """
    import sevenn._keys as keys
    from sevenn.nn.convolution import IrrepsConvolution
    from sevenn.util import load_checkpoint

    checkpoint, modality = _MODELS[name]
    model = load_checkpoint(checkpoint).build_model()
    model.set_is_batch_data(False)
    model.eval().requires_grad_(False).to(device)
    index_of = torch.full((120,), -1, dtype=torch.int64)
    for number, index in model.type_map.items():
        index_of[number] = index
    modules = {k: v for k, v in model._modules.items() if k not in ("reduce_total_enegy", "force_output")}
    layers = [EdgeConvolution(layer) if isinstance(layer, IrrepsConvolution) else layer for layer in modules.values()]
    net = SevenNetEnergy(
        name=name, layers=tuple(layers), embed=list(modules).index("onehot_to_feature_x") + 1,
        reduce=list(modules).index("reduce_input_to_hidden"), keys=keys, index_of=index_of.to(device),
        modality=None if modality is None else model.modal_map[modality], cutoff=float(model.cutoff),
        elements=frozenset(int(number) for number in model.type_map), sha256=weights_sha256(model, mode=modality or ""),
    )  # fmt: skip
    return fastest(net)


def fastest(net: SevenNetEnergy) -> CurvedPotential:
    """The network as a potential, with compiled convolutions on a CPU; with a notice where they cannot be built."""
    if net.index_of.device.type != "cpu" or not enabled():
        return Conservative(net)
    try:
        return CompiledSevenNet(net=net, compiled=_compiled(net))
    except NoKernel as error:
        notify(f"{net.name} runs in torch, about five times slower: {error}")
        return Conservative(net)


def _compiled(net: SevenNetEnergy) -> SevenNetEnergy:
    """The network with compiled convolutions and channels last; its gradient can be taken once.

    Raises:
        NoKernel: They cannot be built here.
    """
    embedding = deepcopy(net.layers[0]).double()

    def radial(lengths: Float[Tensor, " edge"]) -> Float[Tensor, "edge basis"]:
        return embedding.basis_function(lengths) * embedding.cutoff_function(lengths).unsqueeze(1)

    def fast(layer: Any) -> Any:
        convolves = isinstance(layer, EdgeConvolution)
        return CompiledConvolution(layer.layer, radial, net.keys, net.cutoff) if convolves else channels_last(layer)

    return replace(net, layers=tuple(map(fast, net.layers)))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CompiledSevenNet:
    """A SevenNet model with compiled convolutions for energies, forces and stress, as a `CurvedPotential`.

    Attributes:
        net: The network in torch, for curvature products.
        compiled: The network with compiled convolutions, for distances that their splines cover.
    """

    net: SevenNetEnergy
    compiled: SevenNetEnergy

    @property
    def cutoff(self) -> float:
        return self.net.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.net.elements

    @property
    def name(self) -> str:
        return self.net.name

    def __call__(self, graph: Graph) -> Prediction:
        distances = edge_vectors(graph).detach().square().sum(1)
        usual = len(distances) > 0 and float(distances.min()) > LOWEST**2
        return Conservative(self.compiled if usual else self.net)(graph)

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        return Conservative(self.net).curvature(graph, probes)


class EdgeConvolution:
    r"""One convolution of the network, with channels as the last dimension.

    x'_i[c] = (1/D) Σ_j Σ_p w_p(|d_ij|)[u] Σ_ab C^p_cab x_j[u, a] Y_b(d_ij),   out channel c of path p

    x: node features (u: channel, a: component)   Y: spherical harmonics   w_p: radial network   C^p: Clebsch–Gordan
    coefficients with the path's norm   D: mean number of neighbours. For each block of equal angular momentum in x the
    sum over b is one matrix product for all paths, and the sum over a one batched product.

    Args:
        layer: The package's convolution, whose radial network and coefficients are used.
    """

    def __init__(self, layer: Any) -> None:
        from e3nn.o3 import wigner_3j

        product = layer.convolution
        device = layer.denominator.device
        self.layer = layer
        self.blocks = [(block.mul, block.ir.dim) for block in product.irreps_in1]
        self.paths: list[list[tuple[int, int, int]]] = [[] for _ in self.blocks]
        """For each block of x: (place among the weights, place in the output, components) of its paths."""
        coefficients: list[list[Tensor]] = [[] for _ in self.blocks]
        harmonics = product.irreps_in2.slices()
        for place, path in enumerate(product.instructions):
            first, second, out = product.irreps_in1[path.i_in1], product.irreps_in2[path.i_in2], product.irreps_out[path.i_out]
            table = torch.zeros(product.irreps_in2.dim, out.ir.dim, first.ir.dim)
            table[harmonics[path.i_in2]] = path.path_weight * wigner_3j(first.ir.l, second.ir.l, out.ir.l).permute(1, 2, 0)
            coefficients[path.i_in1].append(table)
            self.paths[path.i_in1].append((place, path.i_out, out.ir.dim))
        self.coefficients = [torch.cat(tables, 1).to(device) for tables in coefficients]
        self.weight_sizes = [self.blocks[path.i_in1][0] for path in product.instructions]

    def __call__(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        layer = self.layer
        features, harmonics = data[layer.key_x], data[layer.key_filter]
        receiver, sender = data[layer.key_edge_idx]
        weights = layer.weight_nn(data[layer.key_weight_input]).split(self.weight_sizes, 1)
        outputs: dict[int, Tensor] = {}
        atoms, edges, start = len(features), len(sender), 0
        for (channels, components), paths, table in zip(self.blocks, self.paths, self.coefficients, strict=True):
            block = features[:, start : start + channels * components].reshape(atoms, channels, components)
            start += channels * components
            source = block.transpose(1, 2).contiguous().index_select(0, sender)
            mixing = (harmonics @ table.flatten(1)).reshape(edges, table.shape[1], components)
            sizes = [size for _, _, size in paths]
            parts = torch.bmm(mixing, source).split(sizes, 1)
            message = torch.cat([part * weights[place].unsqueeze(1) for part, (place, _, _) in zip(parts, paths, strict=True)], 1)
            summed = message.new_zeros((atoms, *message.shape[1:])).index_add(0, receiver, message)
            for part, (_, out, _) in zip(summed.split(sizes, 1), paths, strict=True):
                outputs[out] = part.transpose(1, 2).flatten(1)
        data[layer.key_x] = torch.cat([outputs[out] for out in sorted(outputs)], 1) / layer.denominator
        return data


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SevenNetEnergy:
    """The layers of a SevenNet model up to the atomic energies.

    Attributes:
        embed: Layers that come before an atom has features of its element.
        reduce: Layers that come before its last features are reduced to an energy.
        index_of: [120] column of each atomic number in the network's element table, −1 where it knows none.
        modality: Index of the level of theory in a multi-fidelity model.
    """

    name: str
    layers: tuple[Any, ...]
    embed: int
    reduce: int
    keys: Any
    index_of: Int[Tensor, " number"]
    modality: int | None
    cutoff: float
    elements: frozenset[int]
    sha256: str

    def __call__(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        return self.after(len(self.layers), graph, vectors)[self.keys.ATOMIC_ENERGY].reshape(-1).to(vectors)

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """All weights by name."""
        modules = ((k, getattr(layer, "layer", layer)) for k, layer in enumerate(self.layers))
        return {f"{k}.{name}": weight for k, module in modules for name, weight in module.named_parameters()}

    def copied(self) -> SevenNetEnergy:
        """The network with copies of its layers."""
        return deepcopy(self)

    def potential(self, *, name: str, sha256: str) -> CurvedPotential:
        """The network in its fastest form."""
        return fastest(replace(self, name=name, sha256=sha256))

    def __deepcopy__(self, memo: dict[int, Any]) -> SevenNetEnergy:
        return replace(self, layers=deepcopy(self.layers, memo))

    @property
    def node_width(self) -> int:
        """Number of node features."""
        return int(self.layers[self.reduce].linear.irreps_in.dim)

    def node_features(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, "atom feature"]:
        """The (scalar) features of every atom after the last interaction."""
        return self.after(self.reduce, graph, vectors)[self.keys.NODE_FEATURE].to(vectors)

    def element_features(self, graph: Graph) -> Float[Tensor, "atom feature"]:
        """What every atom's element is embedded as."""
        vectors = torch.ones((len(graph.receiver), 3), dtype=torch.float64)
        return self.after(self.embed, graph, vectors)[self.keys.NODE_FEATURE].to(torch.float64)

    def after(self, count: int, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> dict[str, Tensor]:
        """The network's data after this many layers."""
        refuse_unknown(graph.system.numbers, self.elements, self.name)
        device = self.index_of.device
        data = {
            self.keys.NODE_FEATURE: self.index_of[graph.system.numbers.to(device)],
            self.keys.EDGE_IDX: torch.stack([graph.receiver, graph.sender]).to(device),
            self.keys.EDGE_VEC: vectors.to(device=device, dtype=torch.float32),
        }
        if self.modality is not None:
            data[self.keys.MODAL_TYPE] = torch.tensor(self.modality, device=device)
        for layer in self.layers[:count]:
            data = layer(data)
        return data

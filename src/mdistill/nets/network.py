"""Classes of networks by their task: an energy, a long-stride map, a one-step map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.nets.layers import species_index, species_table
from mdistill.nets.repulsion import BONDED, CoreRepulsion, covalent_sums
from mdistill.nets.uncertainty import LastLayerUncertainty
from mdistill.types import Graph, System


class Network(torch.nn.Module):
    """A network of a model file. Names of its tensors are part of the file; `settings` holds its size and kind, `header` what the
    file says of it where `load_model` read it (else empty)."""

    species_of: Tensor
    header: dict[str, Any]

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings, self.header = settings, {}
        self.register_buffer("species_of", species_table(settings.elements), persistent=False)

    @property
    def kind(self) -> str:
        """Its name in `nets.catalogue`."""
        return str(self.settings.kind)

    @property
    def cutoff(self) -> float:
        """Cutoff, Å."""
        return float(self.settings.cutoff)

    @property
    def elements(self) -> frozenset[int]:
        return frozenset(self.settings.elements)

    @property
    def name(self) -> str:
        return "-".join([self.kind, *(chemical_symbols[z] for z in self.settings.elements)])

    def species(self, numbers: Int[Tensor, " atom"]) -> Int[Tensor, " atom"]:
        """Index of each atom's element in `settings.elements`.

        Raises:
            BadInput: An element the network does not know.
        """
        return species_index(self.species_of, numbers)

    def folded(self) -> Self:
        """A float64 copy on the CPU, as saved: the same function, without training-only parts."""
        raise NotImplementedError

    def in_type(self, dtype: torch.dtype) -> Self:
        """Compute in this float type, in place; exact quantities stay float64."""
        raise NotImplementedError


class Student(Network):
    """`net(graph, vectors)` gives the energy of every atom (eV, float64), in any float type.

    Buffers set by training: `reference` E0 per species (eV), `scale` (eV; eV/Å of direct forces), `closest` per pair: where its
    learned functions begin (Å; the cutoff for a pair without labels, which then has no learned interaction). `begins_below`:
    distance of that point below the closest label, Å.
    """

    begins_below: ClassVar[float] = 0.0
    reference: Tensor
    scale: Tensor
    closest: Tensor

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.core = CoreRepulsion(settings.elements)
        self.register_buffer("reference", torch.zeros(len(settings.elements), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("closest", BONDED * covalent_sums(settings.elements))

    @property
    def direct(self) -> bool:
        """Whether forces come from a head of their own, not from the gradient of the energy."""
        return bool(self.settings.direct)

    def set_closest(self, closest: Float[Tensor, "species species"]) -> None:
        """Set where the learned functions of each pair begin (Å; ≥ the cutoff: a pair without labels)."""
        self.closest.copy_(closest.clamp_max(self.cutoff))
        self.core.reach_to(self.closest)

    def in_type(self, dtype: torch.dtype) -> Self:
        """Compute in this float type; E0, scale and the sum of energies stay float64."""
        reference, scale = self.reference, self.scale
        self.to(dtype)
        self.reference, self.scale = reference, scale
        return self

    def pair(self, graph: Graph, species: Int[Tensor, " atom"]) -> Int[Tensor, " edge"]:
        """Species of the receiver × number of species + species of the sender."""
        n = len(self.settings.elements)
        return n * species.index_select(0, graph.receiver) + species.index_select(0, graph.sender)

    def core_energies(self, graph: Graph, vectors: Float[Tensor, "edge 3"], species: Int[Tensor, " atom"]) -> Tensor:
        """[atom] energy of the repulsion at short distance, eV, float64."""
        energy, near = self.core(vectors, self.pair(graph, species))
        zeros = torch.zeros(len(species), dtype=torch.float64, device=vectors.device)
        return zeros.index_add(0, graph.receiver.index_select(0, near), 0.5 * energy.to(torch.float64))

    def core_forces(
        self, graph: Graph, vectors: Float[Tensor, "edge 3"], species: Int[Tensor, " atom"]
    ) -> tuple[Float[Tensor, " atom"], Float[Tensor, "atom 3"]]:
        """The same with its forces, eV/Å."""
        with torch.enable_grad():
            edges = vectors if vectors.requires_grad else vectors.detach().requires_grad_(True)
            energy = self.core_energies(graph, edges, species)
            (gradient,) = torch.autograd.grad(energy.sum(), edges, create_graph=vectors.requires_grad)
        zeros = gradient.new_zeros((len(species), 3))
        return energy, zeros.index_add(0, graph.receiver, gradient).index_add(0, graph.sender, -gradient)

    def forward(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        raise NotImplementedError


class StrideMap(Network):
    """`net(system, momenta, masses, stride_fs)` gives the positions and momenta after the stride.

    `equivariant`: whether a rotated structure gives a rotated answer for any weights; `has_kicks`: whether it consists of kicks,
    which `scale_kicks` scales.
    """

    equivariant: ClassVar[bool] = True
    has_kicks: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "-".join([f"{self.kind}{self.settings.stride_fs:g}fs", *(chemical_symbols[z] for z in self.settings.elements)])

    def check(self, stride_fs: float) -> None:
        """Reject a stride outside its training.

        Raises:
            BadInput: The stride is outside.
        """
        shortest, longest = min(self.settings.strides_fs), max(self.settings.strides_fs)
        if not (1.0 - 1e-9) * shortest <= stride_fs <= (1.0 + 1e-9) * longest:
            known = f"{longest:g} fs" if shortest == longest else f"{shortest:g} to {longest:g} fs"
            raise BadInput("stride", f"{stride_fs:g} fs", allowed=known, fix="train a map for this stride, or leave it out")

    def scale_kicks(self, factor: float) -> None:
        """Multiply its kicks by this factor, in place."""
        raise NotImplementedError

    def forward(
        self, system: System, momenta: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], stride_fs: float
    ) -> tuple[Float[Tensor, "atom 3"], Float[Tensor, "atom 3"]]:
        raise NotImplementedError


Net = TypeVar("Net", bound=Network)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """State after a stride; features: input of the last layer, for every atom."""

    positions: Float[Tensor, "atom 3"]
    momenta: Float[Tensor, "atom 3"]
    features: Float[Tensor, "atom feature"]


class OneStepMap(StrideMap):
    """A map without kicks, with an uncertainty from its last layer; `leap` also returns the features."""

    doubt: LastLayerUncertainty

    def forward(
        self, system: System, momenta: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], stride_fs: float
    ) -> tuple[Float[Tensor, "atom 3"], Float[Tensor, "atom 3"]]:
        arrival = self.leap(system, momenta, masses, stride_fs)
        return arrival.positions, arrival.momenta

    def leap(
        self, system: System, momenta: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], stride_fs: float, *,
        forces: Float[Tensor, "atom 3"] | None = None, graph: Graph | None = None,
    ) -> Arrival:  # fmt: skip
        """The state after a stride.

        Args:
            system, momenta, masses: The state.
            stride_fs: t, fs.
            forces: Forces of its student, eV/Å, where they are known.
            graph: Neighbours within the cutoff, where they are known.
        """
        raise NotImplementedError


def double_copy(net: Net, state: dict[str, Tensor]) -> Net:
    """A network like this one with these weights, float64, on the CPU."""
    copy = type(net)(net.settings)
    copy.load_state_dict({name: value.detach().cpu().to(torch.float64) for name, value in state.items()})
    return copy

r"""Forces, stress and curvature products of an energy network, by autodiff on edge vectors, and their
finite-difference twin.

With d_e the edge vectors and g_e = ∂E/∂d_e:
    F_i  = Σ_{e: receiver=i} g_e − Σ_{e: sender=i} g_e
    σ    = (1/V) Σ_e sym(d_e ⊗ g_e)                      (tension positive)
    H·v  = −dF/dε at r + εv, by differentiating Σ_e g_e·(v[sender] − v[receiver]) once more.

A network with a head for forces (`DirectNet`) has no stress, and −vᵀJ, J = ∂F/∂r, in place of H·v: with
h_e = ∂(Σ_i v_i·F_i)/∂d_e,  −(vᵀJ)_i = Σ_{e: receiver=i} h_e − Σ_{e: sender=i} h_e.  Where F is a gradient, −vᵀJ equals H·v.
Rows of the Hessian are products with unit directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors, volumes
from mdistill.notices import notify
from mdistill.types import CurvedPotential, Graph, Potential, Prediction, System


class EnergyNet(Protocol):
    """A network of edge vectors: net(graph, vectors) -> energy per atom (eV), differentiable twice in vectors."""

    @property
    def cutoff(self) -> float: ...
    @property
    def elements(self) -> frozenset[int]: ...
    @property
    def name(self) -> str: ...
    def __call__(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]: ...


class DirectNet(EnergyNet, Protocol):
    """An energy network that also has a head for forces; `direct` says whether it is used."""

    @property
    def direct(self) -> bool: ...
    def energies_and_forces(
        self, graph: Graph, vectors: Float[Tensor, "edge 3"]
    ) -> tuple[Float[Tensor, " atom"], Float[Tensor, "atom 3"]]: ...


@dataclass(frozen=True, slots=True)
class NetPotential:
    """What a potential takes over from its network: cutoff, elements and name."""

    net: EnergyNet

    @property
    def cutoff(self) -> float:
        return self.net.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.net.elements

    @property
    def name(self) -> str:
        return self.net.name


@dataclass(frozen=True, slots=True)
class Conservative(NetPotential):
    """An energy network as a `CurvedPotential`: forces and stress are exact derivatives of one energy."""

    conservative: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> Prediction:
        prediction = _conservative(self.net, graph)[0]
        stress = None if prediction.stress is None else prediction.stress.detach()
        atomic = None if prediction.atomic is None else prediction.atomic.detach()
        return Prediction(energy=prediction.energy.detach(), forces=prediction.forces.detach(), stress=stress, atomic=atomic)

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        return _conservative(self.net, graph, probes=probes)[1].detach()


@dataclass(frozen=True, slots=True)
class Direct(NetPotential):
    """A network with a force head as a `CurvedPotential`. Its forces are not the gradient of an energy; curvature products are
    −vᵀJ, and stress is None."""

    net: DirectNet

    def __call__(self, graph: Graph) -> Prediction:
        with torch.no_grad():
            atomic, forces = self.net.energies_and_forces(graph, edge_vectors(graph))
        return Prediction(energy=_to_structs(graph, atomic), forces=forces, atomic=atomic)

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        return _direct(self.net, graph, probes=probes)[1].detach()


def potential_of(net: EnergyNet) -> Conservative | Direct:
    """The network as a potential: `Direct` if it has a force head, else `Conservative`."""
    return Direct(cast(DirectNet, net)) if _is_direct(net) else Conservative(net)


def is_gradient(potential: Potential) -> bool:
    """Whether forces are minus the gradient of the energy: not those of a force head, unless the potential is `conservative`."""
    return bool(getattr(potential, "conservative", not _is_direct(getattr(potential, "net", None))))


def tell_heating(potential: Potential, remedy: str) -> None:
    """Issue a notice before NVE of forces that are no gradient of an energy."""
    if not is_gradient(potential):
        notify(f"forces of {potential.name} are no gradient of an energy: NVE dynamics heats up. Use {remedy}")


def predict(
    net: EnergyNet, graph: Graph, *, probes: Float[Tensor, "probe atom 3"] | None = None, create_graph: bool = False,
) -> tuple[Prediction, Float[Tensor, "probe atom 3"]]:  # fmt: skip
    """Energy, forces, stress and curvature products of a batch.

    Args:
        net: The network; a force head, where it has one, gives the forces.
        graph: Edges within net.cutoff.
        probes: Directions v for the products H·v; None for no products (an empty tensor comes back).
        create_graph: Keep the result differentiable in the network's weights (training).
    Returns:
        The prediction (stress None unless every struct is periodic in three directions), and H·v (eV/Å²).
    """
    if _is_direct(net):
        return _direct(cast(DirectNet, net), graph, probes=probes, create_graph=create_graph)
    return _conservative(net, graph, probes=probes, create_graph=create_graph)


def energy_forces(net: EnergyNet, graph: Graph, *, create_graph: bool = False) -> Float[Tensor, "atom 3"]:
    """Minus the gradient of the energy (eV/Å), also of a network with a force head."""
    return _conservative(net, graph, create_graph=create_graph)[0].forces


def forces_through(net: EnergyNet, graph: Graph, *, create_graph: bool = False) -> Float[Tensor, "atom 3"]:
    """Forces (eV/Å) by the gradient of the energy. With `create_graph` they are differentiable in weights and positions, also
    through positions that depend on earlier forces."""
    with torch.enable_grad():
        vectors = edge_vectors(graph)
        if not create_graph:
            vectors = vectors.detach()
        if not vectors.requires_grad:
            vectors = vectors.requires_grad_(True)
        return _to_atoms(graph, _gradient(net(graph, vectors).sum(), vectors, create_graph=create_graph))


def _is_direct(net: EnergyNet | None) -> bool:
    return bool(getattr(net, "direct", False))


def _direct(
    net: DirectNet, graph: Graph, *, probes: Float[Tensor, "probe atom 3"] | None = None, create_graph: bool = False
) -> tuple[Prediction, Float[Tensor, "probe atom 3"]]:
    with torch.enable_grad():
        vectors = edge_vectors(graph).detach().requires_grad_(probes is not None)
        atomic, forces = net.energies_and_forces(graph, vectors)
        products = [
            _to_atoms(graph, _gradient((forces * probe).sum(), vectors, create_graph=create_graph, retain=True))
            for probe in (() if probes is None else probes)
        ]
    empty = forces.new_zeros((0, graph.system.n_atoms, 3))
    prediction = Prediction(energy=_to_structs(graph, atomic), forces=forces, atomic=atomic)
    return prediction, torch.stack(products) if products else empty


def _conservative(
    net: EnergyNet, graph: Graph, *, probes: Float[Tensor, "probe atom 3"] | None = None, create_graph: bool = False
) -> tuple[Prediction, Float[Tensor, "probe atom 3"]]:
    system = graph.system
    second = create_graph or probes is not None
    with torch.enable_grad():
        vectors = edge_vectors(graph).detach().requires_grad_(True)
        atomic = net(graph, vectors)
        energy = _to_structs(graph, atomic)
        gradient = _gradient(energy.sum(), vectors, create_graph=second)
        forces = _to_atoms(graph, gradient)
        stress = _stress(graph, vectors, gradient)
        products = [
            -_to_atoms(
                graph, _gradient((gradient * _edge_probe(graph, probe)).sum(), vectors, create_graph=create_graph, retain=True)
            )
            for probe in (() if probes is None else probes)
        ]
    empty = forces.new_zeros((0, system.n_atoms, 3))
    return Prediction(energy=energy, forces=forces, stress=stress, atomic=atomic), torch.stack(products) if products else empty


def _gradient(scalar: Tensor, vectors: Tensor, *, create_graph: bool, retain: bool = False) -> Tensor:
    if not scalar.requires_grad:
        return torch.zeros_like(vectors)
    (gradient,) = torch.autograd.grad(
        scalar, vectors, create_graph=create_graph, retain_graph=retain or create_graph, allow_unused=True
    )
    return torch.zeros_like(vectors) if gradient is None else gradient


def _to_structs(graph: Graph, atomic: Float[Tensor, " atom"]) -> Float[Tensor, " struct"]:
    return atomic.new_zeros(graph.system.n_structs).index_add(0, graph.system.owner, atomic)


def _to_atoms(graph: Graph, gradient: Float[Tensor, "edge 3"]) -> Float[Tensor, "atom 3"]:
    zeros = gradient.new_zeros((graph.system.n_atoms, 3))
    return zeros.index_add(0, graph.receiver, gradient).index_add(0, graph.sender, -gradient)


def _edge_probe(graph: Graph, probe: Float[Tensor, "atom 3"]) -> Float[Tensor, "edge 3"]:
    return probe.index_select(0, graph.sender) - probe.index_select(0, graph.receiver)


def _stress(graph: Graph, vectors: Tensor, gradient: Tensor) -> Float[Tensor, "struct 3 3"] | None:
    system = graph.system
    if not bool(system.pbc.all()):
        return None
    outer = vectors.unsqueeze(2) * gradient.unsqueeze(1)
    owner = system.owner.index_select(0, graph.receiver)
    virial = outer.new_zeros((system.n_structs, 9)).index_add(0, owner, outer.reshape(-1, 9)).reshape(-1, 3, 3)
    return 0.5 * (virial + virial.transpose(1, 2)) / volumes(system).reshape(-1, 1, 1)


def curvature_by_differences(
    potential: Potential, system: System, probes: Float[Tensor, "probe atom 3"], *, step: float = 0.01
) -> Float[Tensor, "probe atom 3"]:
    r"""H·v by central differences of forces: H·v ≈ −(F(r + h v̂) − F(r − h v̂)) |v| / (2h), two force calls a probe.

    Args:
        potential: Any potential.
        system: One struct.
        probes: Directions v; the displacement is `step` (Å) along v scaled to unit root-mean-square per atom.
        step: Root-mean-square displacement per atom, Å.
    """
    products = []
    for probe in probes:
        scale = step / probe.square().sum(-1).mean().sqrt().clamp_min(1e-300)
        forces = [
            potential(build_graph(replace(system, positions=system.positions + sign * scale * probe), potential.cutoff)).forces
            for sign in (1.0, -1.0)
        ]
        products.append(-(forces[0] - forces[1]) / (2.0 * scale))
    return torch.stack(products) if products else system.positions.new_zeros((0, system.n_atoms, 3))


def hessian(
    potential: Potential, system: System, *, rows: Sequence[int] | None = None, block: int = 32, step: float = 0.01
) -> Float[Tensor, "row atom 3"]:
    r"""Rows of the energy Hessian, H_(ia)(jb) = ∂²E/∂r_ia ∂r_jb = −∂F_jb/∂r_ia, eV/Å².

    One vector–Jacobian product with a one-hot direction a row where the potential differentiates itself, else two force
    calls a row (central differences).    i, j: atoms   a, b: axes

    Args:
        potential: Any potential; for one whose forces are no gradient the rows are those of minus the force Jacobian.
        system: One struct.
        rows: Which rows, 3 i + a each; None for all 3N.
        block: Rows taken through one graph of the network; bounds the memory.
        step: Displacement of the central differences, Å.
    Raises:
        BadInput: A row that does not exist.
    """
    n = system.n_atoms
    chosen = range(3 * n) if rows is None else rows
    if any(not 0 <= row < 3 * n for row in chosen):
        raise BadInput(
            "rows", f"{list(chosen)}", allowed=f"0 to {3 * n - 1}, 3 · atom + axis", fix="choose rows of this structure"
        )
    directions = unit_directions(system, chosen)
    parts = [curvature_products(potential, system, part, step=step / n**0.5) for part in directions.split(block)]
    return torch.cat(parts) if parts else system.positions.new_zeros((0, n, 3))


def unit_directions(system: System, rows: Sequence[int]) -> Float[Tensor, "row atom 3"]:
    """Unit directions, 1 at coordinate 3 · atom + axis, one for each row."""
    directions = system.positions.new_zeros((len(rows), 3 * system.n_atoms))
    directions[torch.arange(len(rows)), torch.tensor(list(rows), dtype=torch.int64)] = 1.0
    return directions.reshape(-1, system.n_atoms, 3)


def curvature_products(
    potential: Potential, system: System, directions: Float[Tensor, "probe atom 3"], *, step: float = 0.01
) -> Float[Tensor, "probe atom 3"]:
    """H·v (eV/Å²) of one struct: by automatic differentiation if the potential can, else by central differences.

    Args:
        potential: Any potential.
        system: One struct.
        directions: The v.
        step: Root-mean-square displacement per atom of the central differences, Å.
    """
    if isinstance(potential, CurvedPotential):
        return potential.curvature(build_graph(system, potential.cutoff), directions)
    return curvature_by_differences(potential, system, directions, step=step)

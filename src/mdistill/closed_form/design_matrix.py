r"""Invariants that keep the energy linear in the weights, their derivatives, and their translation into a `MomentNet`.

Moments are projected onto the leading directions of their own scatter (per species and degree), A_lm,a = Σ_b M_lm,b P^l_b,a;
    first order   M_00,b                                        every basis function b
    second order  Σ_m A_lm,a A_lm,b                             a ≤ b ≤ p₂, every l
    third order   ∫ f_a f_b f_c dΩ,  f_a(n) = Σ_lm A_lm,a Y_lm(n)      a ≤ b ≤ c ≤ p₃
Any weights w of these equal a student without hidden layer: the quadratic form of each degree is a sum of squares
of rotated channels (its eigenvectors), the cubic form a sum of cubes of channels (Waring), so the fitted energy
transfers exactly and runs on the same kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import factorial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.errors import MdistillError
from mdistill.graph import edge_vectors, volumes
from mdistill.nets.layers import rows
from mdistill.nets.moment import MomentNet
from mdistill.nets.moment_basis import geometry_of
from mdistill.types import Graph
from mdistill.units import VOIGT

_FLOOR = 1e-3
_TRIES = 40


@dataclass(frozen=True, slots=True)
class Products:
    """The invariants of a network's moments.

    Attributes:
        net: A `MomentNet` with reference energies, closest distances and core set.
        directions: [species, degree + 1, basis, p] P, columns by falling scatter.
        pairs: [pair, 2] a ≤ b below p₂.
        triples: [triple, 3] a ≤ b ≤ c below p₃.
    """

    net: MomentNet
    directions: Float[Tensor, "species degree basis p"]
    pairs: Int[Tensor, "pair 2"]
    triples: Int[Tensor, "triple 3"]

    @property
    def per_species(self) -> int:
        degrees = self.net.settings.degree + 1
        return self.directions.shape[2] + degrees * len(self.pairs) + len(self.triples)

    @property
    def count(self) -> int:
        """Number of weights."""
        return len(self.net.settings.elements) * self.per_species


@dataclass(frozen=True, slots=True)
class Design:
    """Energy (eV), forces (eV/Å) and stress (eV/Å³, six components xx, yy, zz, yz, xz, xy) of one struct per unit weight."""

    energy: Float[Tensor, " weight"]
    forces: Float[Tensor, "coordinate weight"]
    stress: Float[Tensor, "component weight"] | None


def make_products(net: MomentNet, moments: Tensor, species: Tensor, *, second: int, third: int) -> Products:
    """Products along the leading directions of these moments [atom, lm, basis] (as many as there are, at most)."""
    n, degrees, size = net.mixing.shape[:3]
    second, third = min(second, size), min(third, size)
    directions = torch.zeros((n, degrees, size, max(second, third)), dtype=torch.float64)
    for z in range(n):
        for degree in range(degrees):
            values = moments[species == z][:, net.degrees == degree].flatten(0, 1)
            eigenvalues, vectors = torch.linalg.eigh(values.T @ values / max(len(values), 1))
            eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
            floor = _FLOOR * eigenvalues[0].clamp_min(1e-12)
            directions[z, degree] = (vectors / eigenvalues.clamp_min(float(floor)).sqrt())[:, : directions.shape[3]]
    return Products(net, directions, *pairs_and_triples(second, third))


def pairs_and_triples(second: int, third: int) -> tuple[Int[Tensor, "pair 2"], Int[Tensor, "triple 3"]]:
    """All a ≤ b below `second`, and all a ≤ b ≤ c below `third`."""
    lists = (list(combinations_with_replacement(range(n), order)) for n, order in ((second, 2), (third, 3)))
    pairs, triples = (torch.tensor(one) for one in lists)
    return pairs, triples


def design(products: Products, graph: Graph) -> Design:
    """Contributions of each weight to energy, forces and stress of one struct."""
    net, system = products.net, graph.system
    n, species = len(net.settings.elements), net.species(system.numbers)
    vectors = edge_vectors(graph).to(torch.float64)
    slots = rows(graph.receiver, system.n_atoms)
    values, slopes = _invariants(products, graph, vectors, species, slots)
    size, edges = values.shape[1], len(graph.receiver)
    flat = values.new_zeros((edges + 1, 3, size))
    flat[slots.flatten()] = slopes.flatten(0, 1)
    flat = flat[:edges]
    owner = species.index_select(0, graph.receiver)
    energy = values.new_zeros((n, size)).index_add(0, species, values).flatten()
    at = values.new_zeros((system.n_atoms * n, 3 * size))
    at = at.index_add(0, graph.receiver * n + owner, flat.flatten(1)).index_add(0, graph.sender * n + owner, -flat.flatten(1))
    forces = at.view(system.n_atoms, n, 3, size).transpose(1, 2).reshape(3 * system.n_atoms, n * size)
    stress = None
    if bool(system.pbc.all()):
        virial = torch.stack([(vectors[:, a, None] * flat[:, b] + vectors[:, b, None] * flat[:, a]) for a, b in VOIGT])
        summed = values.new_zeros((6, n, size)).index_add(1, owner, 0.5 * virial)
        stress = summed.flatten(1) / float(volumes(system)[0])
    return Design(energy, forces, stress)


def _invariants(
    products: Products, graph: Graph, vectors: Tensor, species: Tensor, slots: Tensor
) -> tuple[Float[Tensor, "atom invariant"], Float[Tensor, "atom slot 3 invariant"]]:
    """Invariants of every atom and their derivatives in its edge vectors."""
    net = products.net
    dense, _, basis = net.basis(graph, vectors, species, slots)
    edges = geometry_of(dense.view(*slots.shape, 3), basis)
    radial, slope = edges.radial.chunk(2, 1)
    unit, angular = edges.unit, edges.angular
    tangent = (edges.slopes - unit.unsqueeze(2) * (edges.slopes * unit.unsqueeze(2)).sum(-1, keepdim=True)) * (
        edges.inverse.unsqueeze(-1)
    )
    mixing = products.directions.index_select(0, species)
    moments = torch.bmm(angular.transpose(1, 2), radial)
    A = torch.einsum("amb,ambp->amp", moments, mixing.index_select(1, net.degrees))
    values, slopes = [moments[:, 0]], [unit.unsqueeze(-1) * (slope * angular[..., :1]).unsqueeze(2)]
    third = int(products.triples.max()) + 1
    couples = torch.tensor(list(combinations_with_replacement(range(third), 2)))
    sphere = torch.einsum("pm,amq->apq", net.on_grid, A[..., :third])
    squares = sphere[..., couples[:, 0]] * sphere[..., couples[:, 1]]
    held = torch.einsum("p,pm,apq->amq", net.grid_weights[0], net.on_grid, squares)
    parts = _partners(products.triples, couples)
    cubes = torch.einsum("p,apt->at", net.grid_weights[0], sphere[..., products.triples[:, 0]] * squares[..., parts[0]])
    cube_slopes: Any = 0.0
    for degree in range(net.settings.degree + 1):
        mine = net.degrees == degree
        r, rate = (torch.einsum("asb,abp->asp", x, mixing[:, degree]) for x in (radial, slope))
        along, across = _projections(angular[..., mine], tangent[:, :, mine], A[:, mine])
        a, b = products.pairs.unbind(1)
        values.append((A[:, mine][..., a] * A[:, mine][..., b]).sum(1))
        slopes.append(
            unit.unsqueeze(-1) * (rate[..., a] * along[..., b] + rate[..., b] * along[..., a]).unsqueeze(2)
            + r[..., a].unsqueeze(2) * across[..., b]
            + r[..., b].unsqueeze(2) * across[..., a]
        )
        along, across = _projections(angular[..., mine], tangent[:, :, mine], held[:, mine])
        for c, others in zip(products.triples.unbind(1), parts, strict=True):
            cube_slopes = cube_slopes + unit.unsqueeze(-1) * (rate[..., c] * along[..., others]).unsqueeze(2)
            cube_slopes = cube_slopes + r[..., c].unsqueeze(2) * across[..., others]
    return torch.cat([*values, cubes], -1), torch.cat([*slopes, cube_slopes], -1)


def _projections(angular: Tensor, tangent: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_m Y_m h_m and Σ_m ∇Y_m h_m of every slot."""
    return torch.einsum("asm,amq->asq", angular, held), torch.einsum("asmx,amq->asxq", tangent, held)


def _partners(triples: Tensor, couples: Tensor) -> list[Tensor]:
    """For each position in a triple, the index of the pair of the other two."""
    number = {tuple(pair): k for k, pair in enumerate(couples.tolist())}
    return [
        torch.tensor([number[tuple(sorted(t[:place] + t[place + 1 :]))] for t in triples.tolist()], dtype=torch.int64)
        for place in range(3)
    ]


def to_student(products: Products, weights: Float[Tensor, " weight"], *, seed: int = 0) -> MomentNet:
    """The student without hidden layer with exactly this energy.

    Raises:
        MdistillError: The cubic form of some species could not be written as a sum of cubes.
    """
    net, settings = products.net, products.net.settings
    n, degrees, size = len(settings.elements), settings.degree + 1, products.directions.shape[2]
    second, third = (int(x.max()) + 1 for x in (products.pairs, products.triples))
    cubes = -(-len(products.triples) // third) + 3
    channels = second + cubes + 1
    student = MomentNet(replace(settings, channels=channels, hidden=0))
    mixing = torch.zeros((n, degrees, size, channels), dtype=torch.float64)
    last = torch.zeros((n, degrees + 2, channels), dtype=torch.float64)
    for z, share in enumerate(weights.view(n, -1)):
        first, squares, cubic = share.split([size, degrees * len(products.pairs), len(products.triples)])
        mixing[z, 0, :, -1], last[z, 0, -1] = first, 1.0
        for degree, part in enumerate(squares.view(degrees, -1)):
            form = torch.zeros((second, second), dtype=torch.float64)
            a, b = products.pairs.unbind(1)
            form[a, b] += 0.5 * part
            form[b, a] += 0.5 * part
            values, vectors = torch.linalg.eigh(form)
            mixing[z, degree, :, :second] = products.directions[z, degree][:, :second] @ vectors
            last[z, 1 + degree, :second] = values
        strength, vectors = sum_of_cubes(products.triples, cubic, cubes, seed=seed)
        mixing[z, :, :, second:-1] = products.directions[z][..., :third] @ vectors.T
        last[z, degrees + 1, second:-1] = strength
    with torch.no_grad():
        student.mixing.copy_(mixing)
        student.last.weight.copy_(last.flatten(1).unsqueeze(2))
        student.reference.copy_(net.reference)
        student.set_closest(net.closest)
    return student


def sum_of_cubes(
    triples: Int[Tensor, "triple 3"], cubic: Float[Tensor, " triple"], count: int, *, seed: int = 0
) -> tuple[float, Float[Tensor, "cube variable"]]:
    """A strength s and vectors v_r with s Σ_r (v_r·f)³ = Σ cubic_abc f_a f_b f_c, by least squares from random starts.

    Raises:
        MdistillError: No start led to an exact sum.
    """
    from scipy.optimize import least_squares

    size = float(cubic.norm())
    variables = int(triples.max()) + 1
    if size == 0.0:
        return 0.0, torch.zeros((count, variables), dtype=torch.float64)
    index, target = triples.numpy(), (cubic / size).numpy()
    times = np.array([6.0 / np.prod([float(factorial(c)) for c in np.unique(t, return_counts=True)[1]]) for t in index])
    best = np.inf
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, attempt])

        def residual(flat: np.ndarray) -> np.ndarray:
            v = flat.reshape(count, variables)
            return times * (v[:, index[:, 0]] * v[:, index[:, 1]] * v[:, index[:, 2]]).sum(0) - target

        def jacobian(flat: np.ndarray) -> np.ndarray:
            v = flat.reshape(count, variables)
            rates = np.zeros((len(index), count, variables))
            for place in range(3):
                others = [index[:, k] for k in range(3) if k != place]
                rates[np.arange(len(index))[:, None], np.arange(count), index[:, [place]]] += (
                    times[:, None] * (v[:, others[0]] * v[:, others[1]]).T
                )
            return rates.reshape(len(index), -1)

        solution = least_squares(
            residual, rng.normal(0.0, 0.5, count * variables), jac=jacobian, method="trf", xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
        best = min(best, float(np.abs(solution.fun).max()))
        if best < 1e-11:
            return size, torch.from_numpy(solution.x.reshape(count, variables))
    raise MdistillError(f"the cubic form of the closed-form fit is exact only to {best:.1e} only")

"""Parts of networks: spherical harmonics, cutoffs, dense layouts of ragged data, layers per species."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import pi, sqrt

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.errors import BadInput

FREEZE = 0.15
"""Width (Å) of the zone in which learned radial functions become constant, just below the closest labelled distance."""


def monomials(unit: Float[Tensor, "... 3"], count: int) -> Float[Tensor, "... monomial"]:
    """The products 1, a, ab and, for count 40, abc of the components a, b, c ∈ x, y, z; first factor slowest."""
    squares = (unit.unsqueeze(-1) * unit.unsqueeze(-2)).flatten(-2)
    parts = [torch.ones_like(unit[..., :1]), unit, squares]
    if count > 13:
        parts.append((squares.unsqueeze(-1) * unit.unsqueeze(-2)).flatten(-2))
    return torch.cat(parts, -1)


def harmonics(unit: Float[Tensor, "... 3"], table: Float[Tensor, "monomial lm"]) -> Float[Tensor, "... lm"]:
    r"""Real spherical harmonics Y_lm of unit vectors, orthonormal on the sphere (∫ Y_lm Y_l'm' dΩ = δδ).

    Order: l = 0, 1, …; within l: m = −l … l. `table` is `harmonics_table(degree)` in the float type of `unit`. They are
    polynomials of (x, y, z), so that derivatives of any order exist everywhere, also at the zero vector.
    """
    return monomials(unit, table.shape[0]) @ table


def harmonics_table(degree: int) -> Float[Tensor, "monomial lm"]:
    """Coefficients (float64) of the real Y_lm, l ≤ degree ≤ 3, on the products 1, a, ab, abc (a, b, c ∈ x, y, z).

    Reference:
        D. A. Varshalovich, A. N. Moskalev, V. K. Khersonskii, Quantum Theory of Angular Momentum (1988), section 5.
    """
    x, y, z = 0, 1, 2
    one, first, second, third = 0, 1, 4, 13

    def term(*axes: int) -> int:
        base = (one, first, second, third)[len(axes)]
        return base + sum(axis * 3 ** (len(axes) - 1 - k) for k, axis in enumerate(axes))

    c1, c2, c3 = sqrt(3 / (4 * pi)), sqrt(15 / pi), sqrt(1 / pi)
    columns: list[dict[int, float]] = [{one: sqrt(1 / (4 * pi))}]
    columns += [{term(y): c1}, {term(z): c1}, {term(x): c1}]
    columns += [
        {term(x, y): c2 / 2},
        {term(y, z): c2 / 2},
        {term(z, z): sqrt(5 / pi) / 2, term(x, x): -sqrt(5 / pi) / 4, term(y, y): -sqrt(5 / pi) / 4},
        {term(x, z): c2 / 2},
        {term(x, x): c2 / 4, term(y, y): -c2 / 4},
    ]
    a, b, c = sqrt(35 / 2) / 4 * c3, sqrt(105) / 2 * c3, sqrt(21 / 2) / 4 * c3
    d, e = sqrt(7) / 4 * c3, sqrt(105) / 4 * c3
    columns += [
        {term(x, x, y): 3 * a, term(y, y, y): -a},
        {term(x, y, z): b},
        {term(y, z, z): 4 * c, term(x, x, y): -c, term(y, y, y): -c},
        {term(z, z, z): 2 * d, term(x, x, z): -3 * d, term(y, y, z): -3 * d},
        {term(x, z, z): 4 * c, term(x, x, x): -c, term(x, y, y): -c},
        {term(x, x, z): e, term(y, y, z): -e},
        {term(x, x, x): a, term(x, y, y): -3 * a},
    ]
    table = torch.zeros((13 if degree <= 2 else 40, (degree + 1) ** 2), dtype=torch.float64)
    for column, terms in enumerate(columns[: (degree + 1) ** 2]):
        for row, value in terms.items():
            table[row, column] = value
    return table


def gradient_table(table: Float[Tensor, "monomial lm"]) -> Float[Tensor, "lower lm_xyz"]:
    """Coefficients of ∂Y_lm/∂(x, y, z) on the products of one degree less; columns lm slow, xyz fast."""
    starts, lower = (0, 1, 4, 13), 13 if table.shape[0] > 13 else 4
    slopes = table.new_zeros((lower, table.shape[1], 3))
    for length in range(1, 4 if lower == 13 else 3):
        for index in range(3**length):
            axes = [index // 3 ** (length - 1 - k) % 3 for k in range(length)]
            for dropped, axis in enumerate(axes):
                rest = axes[:dropped] + axes[dropped + 1 :]
                row = starts[length - 1] + sum(a * 3 ** (length - 2 - k) for k, a in enumerate(rest))
                slopes[row, :, axis] += table[starts[length] + index]
    return slopes.flatten(1)


def sphere_quadrature(degree: int) -> tuple[Float[Tensor, "point 3"], Float[Tensor, " point"]]:
    """Points on the unit sphere and weights that integrate every polynomial up to degree ≤ 9 exactly (weights sum to 4π).

    26 points up to degree 7, else 38: vertices of octahedron and cube, and edge points (p, q, 0) with p² + q² = 1.

    Reference:
        V. I. Lebedev, USSR Comput. Math. Math. Phys. 16, 10 (1976), doi 10.1016/0041-5553(76)90100-2.
    """
    signs = np.array(list(product((-1.0, 1.0), repeat=3)))
    axes = np.array([sign * np.eye(3)[k] for k in range(3) for sign in (-1.0, 1.0)])
    small, large = sqrt((1 - sqrt(1 / 3)) / 2), sqrt((1 + sqrt(1 / 3)) / 2)
    p, q = (sqrt(0.5), sqrt(0.5)) if degree <= 7 else (small, large)
    edges = {
        tuple(np.roll((s * x, t * y, 0.0), k)) for s in (-1, 1) for t in (-1, 1) for k in range(3) for x, y in ((p, q), (q, p))
    }
    shares = (1 / 21, 9 / 280, 4 / 105) if degree <= 7 else (1 / 105, 9 / 280, 1 / 35)
    groups = (axes, signs / sqrt(3.0), np.array(sorted(edges)))
    weights = np.concatenate([np.full(len(group), 4 * pi * share) for group, share in zip(groups, shares, strict=True)])
    return torch.from_numpy(np.concatenate(groups)), torch.from_numpy(weights)


def cutoff_envelope(distance: Tensor, cutoff: float) -> Tensor:
    """(1 − (r/r_c)²)³ below the cutoff, 0 beyond: value and first two derivatives vanish at r_c."""
    return (1.0 - (distance * (1.0 / cutoff)).square()).clamp_min(0.0).pow(3)


def frozen_below(distance: Tensor, closest: Tensor, width: float) -> Tensor:
    r"""The distance itself where r ≥ closest, constant where r ≤ closest − width, twice continuously differentiable.

    r̃ = c − w/2 + w (u³ − u⁴/2) + max(r − c, 0),  u = clamp((r − c)/w + 1, 0, 1);  dr̃/dr = 3u² − 2u³ in between.
    A function of r̃ has no radial derivative below closest − width: it cannot attract atoms there.
    """
    beyond = distance - closest
    u = (beyond * (1.0 / width) + 1.0).clamp(0.0, 1.0)
    return closest + width * (u.pow(3) * (1.0 - 0.5 * u) - 0.5) + beyond.clamp_min(0.0)


def rows(group: Int[Tensor, " item"], n_groups: int, *, spare: int = 0) -> Int[Tensor, "group slot"]:
    """Positions of the items of each group in a dense table; group must be ascending.

    Slots without an item hold len(group): gather from the items with one filler row appended. `spare` adds that many
    empty slots to the longest group; there is always at least one slot.
    """
    count = torch.bincount(group, minlength=n_groups)
    width = max(int(count.max()) + spare, 1)
    slot = torch.arange(width, device=group.device)
    first = (count.cumsum(0) - count).unsqueeze(1)
    return torch.where(slot < count.unsqueeze(1), first + slot, group.shape[0])


def species_table(elements: Sequence[int]) -> Int[Tensor, " number"]:
    """Index of every atomic number in `elements`, −1 for others."""
    table = torch.full((119,), -1, dtype=torch.int64)
    table[list(elements)] = torch.arange(len(elements))
    return table


def species_index(table: Int[Tensor, " number"], numbers: Int[Tensor, " atom"]) -> Int[Tensor, " atom"]:
    """Index of each atom's element by `species_table`.

    Raises:
        BadInput: An element the table does not know.
    """
    species = table.index_select(0, numbers)
    if numbers.numel() and int(species.min()) < 0:
        strange = sorted({chemical_symbols[int(z)] for z in numbers[species < 0]})
        known = sorted((int(place), z) for z, place in enumerate(table.tolist()) if place >= 0)
        allowed = f"elements of this potential: {', '.join(chemical_symbols[z] for _, z in known)}"
        raise BadInput("structure", f"has {', '.join(strange)}", allowed=allowed, fix="train one for them")
    return species


class Linear(torch.nn.Module):
    """A linear layer with initial weights from a generator."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.randn((n_in, n_out), generator=generator, dtype=torch.float64) / sqrt(n_in)
        self.weight = torch.nn.Parameter(start)
        self.bias = torch.nn.Parameter(torch.zeros(n_out, dtype=torch.float64)) if bias else None

    def forward(self, values: Float[Tensor, "... n_in"]) -> Float[Tensor, "... n_out"]:
        return values @ self.weight if self.bias is None else values @ self.weight + self.bias


class SpeciesLinear(torch.nn.Module):
    """A linear layer with weights of its own for every species: [species, item, in] → [species, item, out]."""

    def __init__(self, n_species: int, n_in: int, n_out: int, *, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.randn((n_species, n_in, n_out), generator=generator, dtype=torch.float64) / sqrt(n_in)
        self.weight = torch.nn.Parameter(start)
        self.bias = torch.nn.Parameter(torch.zeros((n_species, 1, n_out), dtype=torch.float64)) if bias else None

    def forward(self, values: Float[Tensor, "species item n_in"]) -> Float[Tensor, "species item n_out"]:
        return torch.bmm(values, self.weight) if self.bias is None else torch.baddbmm(self.bias, values, self.weight)

r"""The moment student: a one-hop energy network of radial functions per species pair and spherical-harmonic moments.

Symbols: i, j atoms; Z species; r, r̂ length and direction of the edge i→j; c channel; k radial function; lm degree, order.

    A_i,c,lm = Σ_j R_c,l^{Z_i Z_j}(r) Y_lm(r̂),      R_c,l^{ZZ'}(r) = Σ_k W_c,l,k^{ZZ'} cos(π k x) f(r̃)
    x = (r̃ − r₀)/(r_c − r₀),  r̃ = r frozen below r₀, just below the closest label of the pair,  f(r̃) = (1 − (r̃/r_c)²)³
    first order   A_c,00
    second order  Σ_m A_c,lm²                                            for every l and c
    third order   ∫ f_c³ dΩ,  f_c(n) = Σ_lm A_c,lm Y_lm(n)   (all Gaunt-coupled triples at once)
    E_i = E0_Z + s (MLP_Z(features) − MLP_Z(0)) + ½ Σ_j core repulsion      (hidden = 0: linear in the features)

R is linear in W, so the sum over neighbours is taken over the fixed basis first and the weights act once per atom.
Squares and cubes of learned mixtures span the mixed products (4ab = (a+b)² − (a−b)²).

References:
    Moments: R. Drautz, Phys. Rev. B 99, 014104 (2019), doi 10.1103/PhysRevB.99.014104; A. V. Shapeev, Multiscale Model.
    Simul. 14, 1153 (2016), doi 10.1137/15M1054183. MLP of such invariants: J. Behler, M. Parrinello, Phys. Rev. Lett. 98,
    146401 (2007), doi 10.1103/PhysRevLett.98.146401.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.nets.layers import (
    FREEZE,
    SpeciesLinear,
    gradient_table,
    harmonics,
    harmonics_table,
    rows,
    sphere_quadrature,
)
from mdistill.nets.moment_basis import Basis, moments
from mdistill.nets.network import Student, double_copy
from mdistill.nets.settings import MomentSettings
from mdistill.types import Graph


class MomentNet(Student):
    """The network: `net(graph, vectors)` gives the energy of every atom (eV, float64), in any float type.

    Mixing weights act through `whitening` [species, degree, basis, basis], a fixed change of basis set by training, so that
    all directions are learned at similar speed; `folded` multiplies it in.

    Further buffers set by training: `mean` and `spread` of the features. The radial basis has no slope where it begins, so it
    begins below the closest label. With a start at the label, force errors were a quarter larger and the curvature of closer
    pairs was wrong.
    """

    begins_below = 0.3
    mean: Tensor
    spread: Tensor
    whitening: Tensor | None
    degrees: Tensor
    waves: Tensor
    by_degree: Tensor
    table: Tensor
    slopes: Tensor
    on_grid: Tensor
    grid_weights: Tensor

    def __init__(self, settings: MomentSettings, *, seed: int = 0) -> None:
        super().__init__(settings)
        generator = torch.Generator().manual_seed(seed)
        n, channels = len(settings.elements), settings.channels
        basis = n * settings.radial
        start = torch.randn((n, settings.degree + 1, basis, channels), generator=generator, dtype=torch.float64)
        self.mixing = torch.nn.Parameter(start * (0.15 / sqrt(settings.radial)))
        features = (settings.degree + 3) * channels
        if settings.hidden:
            self.first = SpeciesLinear(n, features, settings.hidden, bias=True, generator=generator)
            self.second = SpeciesLinear(n, settings.hidden, settings.hidden, bias=True, generator=generator)
        self.last = SpeciesLinear(n, settings.hidden or features, 1, bias=False, generator=generator)
        self.register_buffer("mean", torch.zeros((n, 1, features), dtype=torch.float64))
        self.register_buffer("spread", torch.ones((n, 1, features), dtype=torch.float64))
        self.register_buffer("whitening", None, persistent=False)
        self._register_constants()

    def _register_constants(self) -> None:
        settings = self.settings
        degrees = torch.tensor([degree for degree in range(settings.degree + 1) for _ in range(2 * degree + 1)])
        points, weights = sphere_quadrature(3 * settings.degree)
        constants = {
            "degrees": degrees, "waves": pi * torch.arange(settings.radial, dtype=torch.float64),
            "by_degree": (degrees == torch.arange(settings.degree + 1).unsqueeze(1)).to(torch.float64),
            "table": harmonics_table(settings.degree), "slopes": gradient_table(harmonics_table(settings.degree)),
            "on_grid": harmonics(points, harmonics_table(settings.degree)), "grid_weights": weights.unsqueeze(0),
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def folded(self) -> MomentNet:
        """A copy whose mixing weights act without whitening; the same function."""
        return double_copy(self, self.state_dict() | {"mixing": self._mixing()})

    def _mixing(self) -> Tensor:
        return self.mixing if self.whitening is None else self.whitening @ self.mixing

    def forward(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        species = self.species(graph.system.numbers)
        moments, core = self.moments(graph, vectors, species)
        slots = self.layout(species)
        out = self.last(self.last_features(moments, slots)).squeeze(-1)
        learned = (out - out[:, -1:]).to(torch.float64) * self.scale
        atomic = learned.new_zeros(len(species) + 1).index_add(0, slots.flatten(), learned.flatten())[:-1]
        return atomic + self.reference.index_select(0, species) + core

    def last_features(
        self, moments: Float[Tensor, "atom lm basis"], slots: Int[Tensor, "species slot"]
    ) -> Float[Tensor, "species slot last"]:
        """What the last layer is linear in, in the dense layout by species; spare slots hold that of an isolated atom."""
        x = (self.features(moments, slots) - self.mean) / self.spread
        if self.settings.hidden:
            x = torch.nn.functional.silu(self.second(torch.nn.functional.silu(self.first(x))))
        return x

    def layout(self, species: Int[Tensor, " atom"]) -> Int[Tensor, "species slot"]:
        """Atoms in a dense table by species, with at least one spare slot (with the number of atoms) per species."""
        order = torch.argsort(species, stable=True)
        slots = rows(species.index_select(0, order), len(self.settings.elements), spare=1)
        return torch.cat([order, order.new_full((1,), len(order))]).index_select(0, slots.flatten()).view(slots.shape)

    def moments(
        self, graph: Graph, vectors: Tensor, species: Tensor
    ) -> tuple[Float[Tensor, "atom lm basis"], Float[Tensor, " atom"]]:
        """Σ_j of basis × harmonics, one block of radial functions per neighbour species; and the core energy per atom."""
        slots = rows(graph.receiver, graph.system.n_atoms)
        dense, pair, basis = self.basis(graph, vectors, species, slots)
        return moments(dense.view(*slots.shape, 3), basis), self._core_energies(dense, pair, slots)

    def basis(
        self, graph: Graph, vectors: Tensor, species: Tensor, slots: Int[Tensor, "atom slot"]
    ) -> tuple[Float[Tensor, "flat 3"], Int[Tensor, " flat"], Basis]:
        """Edge vectors in a dense table (atoms slow, slots fast), their pairs of species, and their basis."""
        n, kind = len(self.settings.elements), self.mixing.dtype
        filler = vectors.new_tensor([[self.cutoff, 0.0, 0.0]], dtype=kind)
        dense = torch.cat([vectors.to(kind), filler]).index_select(0, slots.flatten())
        sender = torch.cat([species.index_select(0, graph.sender), species.new_zeros(1)]).index_select(0, slots.flatten())
        pair = (n * species.unsqueeze(1) + sender.view(slots.shape)).flatten()
        met = torch.eye(n, dtype=kind, device=vectors.device) * (self.closest < self.cutoff).to(kind).unsqueeze(2)
        inverse_range = 1.0 / (self.cutoff - self.closest).clamp_min(FREEZE)
        basis = Basis(
            cutoff=self.cutoff, freeze=FREEZE, closest=self.closest.flatten().index_select(0, pair).view(*slots.shape, 1),
            inverse_range=inverse_range.flatten().index_select(0, pair).view(*slots.shape, 1),
            sender=met.view(n * n, n).index_select(0, pair).view(*slots.shape, n, 1), waves=self.waves, table=self.table,
            slopes=self.slopes,
        )  # fmt: skip
        return dense, pair, basis

    def _core_energies(self, dense: Tensor, pair: Tensor, slots: Tensor) -> Float[Tensor, " atom"]:
        energy, near = self.core(dense, pair)
        zeros = torch.zeros(len(slots), dtype=torch.float64, device=dense.device)
        if len(near) == 0:
            return zeros
        return zeros.index_add(0, near.div(slots.shape[1], rounding_mode="floor"), 0.5 * energy.to(torch.float64))

    def features(
        self, moments: Float[Tensor, "atom lm basis"], slots: Int[Tensor, "species slot"]
    ) -> Float[Tensor, "species slot feature"]:
        """Invariants of every atom in the dense layout by species; spare slots hold those of an isolated atom."""
        (n, width), atoms, channels = slots.shape, len(moments), self.settings.channels
        filled = torch.cat([moments.flatten(1), moments.new_zeros((1, moments.shape[1] * moments.shape[2]))])
        by_species = filled.index_select(0, slots.flatten()).view(n, width, *moments.shape[1:])
        mixed = (by_species.transpose(1, 2) @ self._mixing().index_select(1, self.degrees)).transpose(0, 1).flatten(1, 2)
        place = torch.arange(n * width, device=slots.device)
        place = torch.empty(atoms + 1, dtype=torch.int64, device=slots.device).index_copy(0, slots.flatten(), place)[:-1]
        flat = mixed.index_select(1, place).flatten(1)
        on_sphere = self.on_grid @ flat
        cubes = self.grid_weights @ (on_sphere.square() * on_sphere)
        invariants = torch.cat([flat[:1], self.by_degree @ flat.square(), cubes]).view(-1, atoms, channels)
        invariants = invariants.transpose(0, 1).flatten(1)
        filled = torch.cat([invariants, invariants.new_zeros((1, invariants.shape[1]))])
        return filled.index_select(0, slots.flatten()).view(n, width, -1)

"""Repulsion of nuclei at short distance under every learned potential, so that atoms cannot collapse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.units import COULOMB

CHARGES = (0.18175, 0.50986, 0.28022, 0.02817)
_DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
_SCREENING = 0.46850
BONDED = 0.75
"""End of the core without labels, as a multiple of the sum of covalent radii."""
CONTACT, NEIGHBOURS = 1.5, 1.8
"""Multiples of the sum of covalent radii: the core ends at the closest label if that is within the second, else at the first."""
_INNER = 0.8
_TINY = 1e-18


def covalent_sums(elements: Sequence[int]) -> Float[Tensor, "species species"]:
    """Sum of the covalent radii of every pair, Å (Cordero et al., Dalton Trans. 2832 (2008), doi 10.1039/b801115j)."""
    radii = torch.tensor([float(covalent_radii[z]) for z in elements], dtype=torch.float64)
    return radii.unsqueeze(0) + radii.unsqueeze(1)


class CoreRepulsion(torch.nn.Module):
    r"""Ziegler–Biersack–Littmark repulsion times a smooth switch, never trained.

    E(r) = s(r) · (k Z_i Z_j / r) φ(r / a),   a = 0.4685 Å / (Z_i^0.23 + Z_j^0.23),   φ(x) = Σ_n c_n e^{−d_n x}
    s = 1 below 0.8 `outer`, 0 beyond `outer`, quintic between: value, force and curvature are continuous; s and φ both
    fall, so that the force is repulsive at every distance below `outer`.

    `outer` [species, species] (Å) is 0.75 × the sum of covalent radii until `reach_to` moves it to the closest labelled
    distance (or a little below): where labels exist the core is exactly zero; below it alone acts.

    Reference:
        J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Matter, vol. 1 (1985).
    """

    outer: Tensor
    strength: Tensor
    decay: Tensor

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        z = torch.tensor(elements, dtype=torch.float64)
        screening = _SCREENING / (z.pow(0.23).unsqueeze(0) + z.pow(0.23).unsqueeze(1))
        self.register_buffer("outer", BONDED * covalent_sums(elements))
        self.register_buffer("strength", (COULOMB * z.unsqueeze(0) * z.unsqueeze(1)).flatten(), persistent=False)
        decays = torch.tensor(_DECAYS, dtype=torch.float64)
        self.register_buffer("decay", decays / screening.reshape(-1, 1), persistent=False)
        self._sums = covalent_sums(elements)

    def reach_to(self, closest: Float[Tensor, "species species"]) -> None:
        """Set the end of the core to the first labels: at the distance given for each pair (Å) if that is within 1.8 × the
        sum of covalent radii, so that no gap is left between core and labels; otherwise at 1.5 × the sum."""
        near = closest.to(self._sums)
        self.outer.copy_(torch.where(near <= NEIGHBOURS * self._sums, near, CONTACT * self._sums))

    def forward(
        self, vectors: Float[Tensor, "edge 3"], pair: Int[Tensor, " edge"]
    ) -> tuple[Float[Tensor, " near"], Int[Tensor, " near"]]:
        """Energy (eV) of the edges within the core, and their indices. pair = species_i · n_species + species_j."""
        outer = self.outer.flatten().index_select(0, pair)
        near = (vectors.detach().square().sum(1) < outer.square()).nonzero()[:, 0]
        r, which = (vectors.index_select(0, near).square().sum(1) + _TINY).sqrt(), pair.index_select(0, near)
        outer = self.outer.flatten().index_select(0, which)
        charges = torch.tensor(CHARGES, dtype=r.dtype, device=r.device)
        screened = (charges * torch.exp(-self.decay.index_select(0, which) * r.unsqueeze(1))).sum(1)
        u = ((r / outer - _INNER) / (1.0 - _INNER)).clamp(0.0, 1.0)
        switch = 1.0 - u.pow(3) * (10.0 - 15.0 * u + 6.0 * u.square())
        return switch * self.strength.index_select(0, which) / r * screened, near

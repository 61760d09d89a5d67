"""The core repulsion against its formula written out independently, and where it begins and ends."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch
from ase.data import covalent_radii

from mdistill.nets.repulsion import BONDED, CONTACT, CoreRepulsion

ELEMENTS = (3, 16)


def energy(core: CoreRepulsion, distance: float, pair: int) -> torch.Tensor:
    r = torch.tensor([[0.0, 0.0, distance]], dtype=torch.float64, requires_grad=True)
    value, near = core(r, torch.tensor([pair]))
    if len(near) == 0:
        return torch.zeros(3, dtype=torch.float64)
    (first,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 2], r)
    return torch.stack([value[0], first[0, 2], second[0, 2]]).detach()


def zbl(z1: int, z2: int, r: float) -> float:
    x = r / (0.8854 * 0.529177 / (z1**0.23 + z2**0.23))
    phi = 0.18175 * exp(-3.1998 * x) + 0.50986 * exp(-0.94229 * x) + 0.28022 * exp(-0.4029 * x) + 0.02817 * exp(-0.20162 * x)
    return 14.399645 * z1 * z2 / r * phi


@pytest.mark.parametrize(("pair", "z1", "z2"), [(0, 3, 3), (1, 3, 16), (2, 16, 3), (3, 16, 16)])
def test_inside_it_is_the_universal_potential(pair, z1, z2):
    core = CoreRepulsion(ELEMENTS)
    for distance in (0.2, 0.5, 1.0):
        assert float(energy(core, distance, pair)[0]) == pytest.approx(zbl(z1, z2, distance), rel=2e-4)


def test_it_vanishes_at_bonding_distances():
    core = CoreRepulsion(ELEMENTS)
    bond = covalent_radii[3] + covalent_radii[16]
    assert float(energy(core, BONDED * bond + 1e-9, 1)[0]) == 0.0
    assert float(energy(core, BONDED * bond - 0.1, 1)[0]) > 0.0


def test_value_slope_and_curvature_are_continuous(trust):
    core, worst = CoreRepulsion(ELEMENTS), 0.0
    outer = float(core.outer[0, 1])
    for edge in (outer, 0.8 * outer):
        below, above = energy(core, edge - 1e-8, 1), energy(core, edge + 1e-8, 1)
        worst = max(worst, float((below - above).abs().max()))
    assert worst < 1e-4
    trust("T11", "jump of core energy, force, curvature at the ends of its switch (eV, eV/Å, eV/Å²)", worst, "1e-4")


def test_it_falls_everywhere(trust):
    core, steepest = CoreRepulsion(ELEMENTS), 0.0
    for pair in range(4):
        outer = float(core.outer.flatten()[pair])
        slopes = [float(energy(core, r, pair)[1]) for r in np.linspace(0.05, outer - 1e-3, 200)]
        assert max(slopes) < 0.0
        steepest = min(steepest, min(slopes))
    trust("T11", "core alone: sign changes of the force from 0.05 Å to its end", 0, "0")


def test_it_reaches_to_the_closest_labelled_distance_and_no_further_than_contact():
    core = CoreRepulsion(ELEMENTS)
    core.reach_to(torch.tensor([[2.0, 1.9], [1.9, 9.0]], dtype=torch.float64))
    assert float(core.outer[0, 0]) == 2.0
    assert float(core.outer[0, 1]) == 1.9
    assert float(core.outer[1, 1]) == pytest.approx(CONTACT * 2 * covalent_radii[16])

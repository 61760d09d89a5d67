"""More invariants: they do not change when a structure turns, and the parts hold what they say."""

from __future__ import annotations

import pytest
import torch

from mdistill.graph import build_graph, make_system
from mdistill.nets.settings import MomentSettings
from research.moment_orders import ORDERS, invariants, richer

SETTINGS = MomentSettings(elements=(1, 8), cutoff=4.0, channels=3, radial=4, hidden=5)


@pytest.mark.parametrize("parts", [(part,) for part in ORDERS] + [tuple(ORDERS)])
def test_energies_do_not_change_when_a_molecule_turns(parts: tuple[str, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    places = torch.randn((6, 3), generator=random, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn((3, 3), generator=random, dtype=torch.float64))[0]
    net = richer(parts)(SETTINGS, seed=1)
    energies = []
    for positions in (places, places @ turn):
        system = make_system(positions.numpy(), [1, 8, 1, 8, 1, 1], torch.eye(3).numpy(), [False] * 3)
        graph = build_graph(system, net.cutoff)
        vectors = graph.system.positions[graph.sender] - graph.system.positions[graph.receiver]
        energies.append(net(graph, vectors).detach())
    assert energies[0].std() > 1e-3
    torch.testing.assert_close(energies[0], energies[1], rtol=0.0, atol=1e-10)


def test_the_sum_of_third_orders_is_that_of_their_degrees() -> None:
    """∫ (f₁ + f₂ + f₃)³ = 3 ∫ f₁f₁f₂ + ∫ f₂f₂f₂ + 6 ∫ f₁f₂f₃ + 3 ∫ f₂f₃f₃; all other products are odd or too far apart."""
    net = richer(("by degree",))(SETTINGS)
    flat = torch.randn((16, 7), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    flat[0] = 0.0
    whole, parts = invariants(net, flat, ())[-1], invariants(net, flat, ("by degree",))[-4:]
    shares = (3.0, 1.0, 6.0, 3.0)
    torch.testing.assert_close(whole, sum(share * part for share, part in zip(shares, parts, strict=True)))

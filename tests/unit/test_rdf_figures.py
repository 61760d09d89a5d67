"""RDFs on the page: to the second shell, pairs of the mobile ion first, the worst first, the rest folded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdistill.analysis.gates import Overlap
from mdistill.analysis.rdf import two_shells
from mdistill.analysis.statistics import Curve
from mdistill.judge.potential_tables import Measured, _rdf_figures


def shells(*places: float, height: float = 6.0, farthest: float = 8.0) -> Curve:
    """g(r) with a Gaussian shell at each place, Å."""
    r = np.linspace(0.025, farthest, 160)
    g = sum(height * np.exp(-0.5 * ((r - place) / 0.2) ** 2) for place in places)
    return Curve(
        x=torch.from_numpy(r), y=torch.from_numpy(np.asarray(g)), error=torch.zeros(160), x_unit="Å", y_unit="", label=""
    )


@pytest.mark.parametrize("height", [0.8, 6.0, 40.0])
def test_the_second_shell_ends_before_the_third(height: float) -> None:
    assert two_shells(shells(2.0, 3.6, 5.4, height=height)) == pytest.approx(4.5, abs=0.2)
    assert two_shells(shells(2.0, 3.6, height=height)) > 4.0
    assert two_shells(shells(2.5, height=height)) == 8.0


def measured(**beyond: float) -> Measured:
    """Overlaps (%) by "pair, temperature", written pair_temperature."""
    found = Measured.__new__(Measured)
    names = {name.replace("_", "–", 1).replace("_", ", ") + " K": share for name, share in beyond.items()}
    object.__setattr__(found, "overlaps", {n: Overlap(divergence=s / 100, noise=0.0, shift=0.01) for n, s in names.items()})
    object.__setattr__(found, "curves", {n: (shells(2.0, 3.6, 5.4), shells(2.0, 3.6, 5.4)) for n in names})
    object.__setattr__(found, "mobile", "Li")
    return found


def test_worst_pairs_of_the_mobile_ion_come_first_and_the_rest_is_folded() -> None:
    figures = _rdf_figures(measured(P_S_500=9, Li_S_500=1, Li_S_900=3, Li_P_500=2, Cl_S_500=8, Cl_Cl_500=7, Li_Li_500=0.5))
    assert [figure.title for figure in figures] == [
        "RDF Li–S, 900 K", "RDF Li–P, 500 K", "RDF Li–Li, 500 K", "RDF P–S, 500 K", "RDF Cl–S, 500 K", "RDF Cl–Cl, 500 K",
    ]  # fmt: skip
    assert [figure.folded for figure in figures] == [False] * 4 + [True] * 2
    assert max(figures[0].series[0].x) == pytest.approx(4.5, abs=0.2)

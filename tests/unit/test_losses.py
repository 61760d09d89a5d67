"""Losses: each term by hand, missing labels left out, bad terms refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mdistill.errors import BadInput
from mdistill.training.losses import Target, Term, root_mean_square, total_loss
from mdistill.types import Prediction

DOUBLE = torch.float64
ATOMS = torch.tensor([2.0, 1.0], dtype=DOUBLE)
NONE = torch.zeros((0, 3, 3), dtype=DOUBLE)


def prediction(energy, force, stress=0.0):
    return Prediction(
        energy=torch.tensor(energy, dtype=DOUBLE),
        forces=torch.full((3, 3), force, dtype=DOUBLE),
        stress=torch.full((2, 3, 3), stress, dtype=DOUBLE),
    )


def target(*, has_stress=(True, True), products=None, known=None):
    return Target(label=prediction([1.0, 2.0], 0.0), has_stress=torch.tensor(has_stress), products=products, has_products=known)


def test_each_term_by_hand():
    found = prediction([1.4, 2.1], 0.3, 0.02)
    cases = [
        (Term(quantity="energy", norm="absolute", weight=2.0, scale=0.1), 2.0 * (0.2 + 0.1) / 2 / 0.1),
        (Term(quantity="energy", norm="square"), (0.2**2 + 0.1**2) / 2),
        (Term(quantity="forces", norm="length", scale=0.5), 0.3 * 3**0.5 / 0.5),
        (Term(quantity="forces", norm="absolute"), 0.3),
        (Term(quantity="stress", norm="absolute", weight=3.0, scale=0.01), 3.0 * 2.0),
    ]
    for term, expected in cases:
        assert float(total_loss([term], found, NONE, target(), ATOMS)[0]) == pytest.approx(expected)
    both = total_loss([cases[0][0], cases[3][0]], found, NONE, target(), ATOMS)
    assert float(both[0]) == pytest.approx(cases[0][1] + cases[3][1])
    assert both[1] == pytest.approx({"energy": 0.15, "forces": 0.3})


def test_missing_labels_are_left_out():
    found = prediction([1.0, 2.0], 0.0, 0.02)
    found.stress[1] = 5.0
    term = Term(quantity="stress", norm="absolute")
    assert float(total_loss([term], found, NONE, target(has_stress=(True, False)), ATOMS)[0]) == pytest.approx(0.02)
    loss, errors = total_loss([term], found, NONE, target(has_stress=(False, False)), ATOMS)
    assert float(loss) == 0.0
    assert errors == {}
    open_boundary = Prediction(energy=found.energy, forces=found.forces, stress=None)
    assert total_loss([term], open_boundary, NONE, target(), ATOMS)[1] == {}


def test_curvature_counts_only_atoms_with_a_label():
    found = torch.ones((1, 3, 3), dtype=DOUBLE)
    label = torch.zeros((1, 3, 3), dtype=DOUBLE)
    label[:, 2] = 1e9
    term = Term(quantity="curvature", norm="length", scale=2.0)
    known = torch.tensor([True, True, False])
    loss, errors = total_loss([term], prediction([1.0, 2.0], 0.0), found, target(products=label, known=known), ATOMS)
    assert float(loss) == pytest.approx(3**0.5 / 2.0)
    assert errors == {"curvature": 1.0}
    assert total_loss([term], prediction([1.0, 2.0], 0.0), NONE, target(products=label, known=known), ATOMS)[1] == {}


def test_rows_are_the_published_loss():
    """Per row the sum over column atoms of the length of the error, mean over rows, over the number of atoms of the batch."""
    found, label = torch.rand((4, 3, 3), dtype=DOUBLE), torch.rand((4, 3, 3), dtype=DOUBLE)
    term = Term(quantity="curvature", norm="length")
    loss, _ = total_loss([term], prediction([1.0, 2.0], 0.0), found, target(products=label, known=torch.ones(3) > 0), ATOMS)
    published = sum(float((f - x).norm(dim=1).sum()) for f, x in zip(found, label, strict=True)) / 4 / 3
    assert float(loss) == pytest.approx(published, rel=1e-9)


def test_energies_of_atoms_count_where_they_are_known():
    found = replace(prediction([1.0, 2.0], 0.0), atomic=torch.tensor([0.3, 0.5, 9.0], dtype=DOUBLE))
    wanted = target()
    wanted = replace(
        wanted,
        label=replace(wanted.label, atomic=torch.tensor([0.1, 0.2, 0.0], dtype=DOUBLE)),
        has_atomic=torch.tensor([True, True, False]),
    )
    term = Term(quantity="atomic energy", norm="absolute")
    assert float(total_loss([term], found, NONE, wanted, ATOMS)[0]) == pytest.approx(0.25)
    assert total_loss([term], prediction([1.0, 2.0], 0.0), NONE, wanted, ATOMS)[1] == {}
    assert total_loss([term], found, NONE, target(), ATOMS)[1] == {}


@pytest.mark.parametrize(
    "wrong", [{"quantity": "charge"}, {"norm": "max"}, {"weight": -1.0}, {"scale": 0.0}, {"weight": float("nan")}]
)
def test_bad_terms_are_refused(wrong):
    with pytest.raises(BadInput):
        Term(**({"quantity": "forces"} | wrong))


def test_root_mean_square():
    assert root_mean_square(torch.tensor([[3.0, 4.0], [0.0, 0.0]])) == pytest.approx(2.5)

"""Teaching by trajectories on crystals whose truth is planted: what ridge, λ_b and rates of parts must do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.closed_form.ridge import NormalEquations, solve_ridge
from mdistill.errors import BadInput, MdistillError
from mdistill.transport.ion_rows import IonRows, ion_rows, recorded_structure, scales_of, untaught_rows
from mdistill.transport.taught import (
    ACROSS,
    TRAINER,
    TaughtNet,
    distil,
    inputs_of,
    taught,
    train_alone,
    train_both,
)
from planted_motion import KELVINS, planted

QUICK = replace(TRAINER, steps=150)


@pytest.fixture(scope="module")
def items():
    records = planted(24)
    scales = scales_of(records, expansion="none")
    return [ion_rows(one, scales) for one in records]


def error(net, items, *, seen=False):
    with torch.no_grad():
        return float((net(items, seen=seen) - torch.cat([one.target for one in items])).abs().mean())


def test_ridge_equals_the_augmented_least_squares():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, k, generator=generator, dtype=torch.float64) for n, k in ((400, 12), (400, 3)))
    normal = NormalEquations.empty(12, 3)
    for start in range(0, 400, 7):
        normal.add(x[start : start + 7], y[start : start + 7])
    found = solve_ridge(normal, share=1e-2)
    ridge = 1e-2 * float((x.T @ x).diagonal().mean())
    wide = torch.cat([x, ridge**0.5 * torch.eye(12, dtype=torch.float64)])
    truth = torch.linalg.lstsq(wide, torch.cat([y, torch.zeros(12, 3, dtype=torch.float64)])).solution
    assert torch.allclose(found, truth, atol=1e-12) and normal.rows == 400
    assert normal.square == pytest.approx(float(y.square().sum()))


def test_ridge_of_dependent_columns_is_finite_and_of_bad_rows_refused():
    x = torch.ones(50, 5, dtype=torch.float64)
    normal = NormalEquations.empty(5)
    normal.add(x, torch.ones(50, dtype=torch.float64))
    weights = solve_ridge(normal, share=1e-18)
    assert torch.allclose(x @ weights, torch.ones(50, dtype=torch.float64), atol=1e-6)
    normal.add(x * torch.nan, torch.ones(50))
    with pytest.raises(MdistillError, match="not finite"):
        solve_ridge(normal)


def test_the_closed_form_recovers_a_planted_map(items):
    """Latents of both branches are linear in the structure here, so that W is known."""
    net = TaughtNet(items[0].structure.shape[1], items[0].trajectory.shape[2], seed=3)
    hidden = torch.randn(net.structure.in_features, 8, generator=torch.Generator().manual_seed(1))
    planted_items = []
    for item in items:
        rows = inputs_of([item]).unflatten(0, (4, -1))
        inverse = torch.linalg.pinv(net.trajectory.weight.detach())
        wanted = rows @ hidden - net.structure(rows).detach()
        planted_items.append(replace(item, trajectory=wanted @ inverse.T))
    made = distil(net, planted_items, share=1e-12)
    assert torch.allclose(made.structure.weight.T, hidden, atol=2e-3)
    assert error(made, planted_items) == pytest.approx(error(net, planted_items, seen=True), abs=1e-3)


def test_without_its_own_term_the_structure_branch_is_a_placeholder(items):
    """The trajectory tells the target exactly; only λ_b makes the structure branch predict it too."""
    with_term = train_both(items, QUICK, alone=1.0, seed=0)
    without = train_both(items, QUICK, alone=0.0, seed=0)
    assert error(with_term, items, seen=True) < 0.25 and error(without, items, seen=True) < 0.25
    assert error(with_term, items) < 0.4
    assert error(without, items) > 2.0 * error(with_term, items)


def test_distillation_makes_a_placeholder_predict(items):
    without = train_both(items, QUICK, alone=0.0, seed=0)
    assert error(distil(without, items, share=1e-6), items) < 0.6 * error(without, items)


def test_parts_learn_at_their_own_rates(items):
    start = TaughtNet(items[0].structure.shape[1], items[0].trajectory.shape[2], seed=5)
    moved = train_alone(items, replace(TRAINER, steps=20), start=start, rates=ACROSS)
    change = {name: float((moved.state_dict()[name] - value).abs().max()) for name, value in start.state_dict().items()}
    assert change["trajectory.weight"] == 0.0 and change["structure.weight"] > 20 * change["decoder.0.weight"] > 0.0
    assert change["decoder.2.weight"] < 0.05 * change["decoder.0.weight"]


def test_same_seed_same_predictor(items):
    first, again = (
        taught(items[:6], seed=2, settings=replace(TRAINER, steps=8), fine_tune=replace(TRAINER, steps=5)) for _ in range(2)
    )
    assert all(torch.equal(first.state_dict()[name], value) for name, value in again.state_dict().items())
    assert len(items[0].target) == len(KELVINS)


def test_nothing_to_teach_is_refused(items):
    with pytest.raises(BadInput, match="0 crystals"):
        train_both([])
    with pytest.raises(BadInput, match="0 of 1 crystals have trajectories"):
        train_both([replace(items[0], trajectory=None)])
    broken = [replace(one, about=one.about | {"gate_passed": False}) for one in planted(3)]
    with pytest.raises(BadInput, match="no usable temperature"):
        scales_of(broken)


def test_ions_of_one_kind_share_a_row_where_the_trajectory_is_not_used():
    record = planted(1, ions=6)[0]
    scales = scales_of(planted(8), expansion="pca", components=3)
    every, kinds = ion_rows(record, scales), untaught_rows(recorded_structure(record), scales, KELVINS)
    net = TaughtNet(every.structure.shape[1], every.trajectory.shape[2])
    assert isinstance(kinds, IonRows) and len(kinds.structure) < len(every.structure) == 6
    with torch.no_grad():
        assert torch.allclose(net([every]), net([kinds]), atol=1e-5)


def test_directions_have_unit_variance_and_cubes_follow():
    records = planted(30)
    scales = scales_of(records, expansion="pca", components=4)
    rows = np.concatenate(
        [scales.structure(np.c_[one.features, np.tile(one.physics, (len(one.features), 1))]) for one in records]
    )
    weight = np.concatenate([np.bincount(one.kind) / len(one.kind) for one in records]) / len(records)
    assert np.allclose((weight[:, None] * rows).T @ rows, np.eye(rows.shape[1]), atol=0.05)
    cubic = scales_of(records, expansion="cubic")
    raw = np.c_[records[0].features, np.tile(records[0].physics, (len(records[0].features), 1))]
    x, x2, x3 = np.split(cubic.structure(raw), 3, axis=1)
    assert np.allclose(x**2, x2) and np.allclose(x**3, x3)


def test_a_single_crystal_of_one_kind_has_no_directions():
    """Nothing varies, so that scaled features are zero, not NaN."""
    one = planted(1)[0]
    same = replace(one, features=np.tile(one.features[:1], (2, 1)))
    rows = untaught_rows(recorded_structure(same), scales_of([same], expansion="pca"), KELVINS)
    assert bool((rows.structure == 0.0).all())

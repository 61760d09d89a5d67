"""The closed-form student: rows are derivatives, the student is exactly the regression, weights that are known come back."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch

from laws import assert_close
from mdistill.closed_form.design_matrix import Products, design, make_products, sum_of_cubes, to_student
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.closed_form.posterior import POSTERIOR, load_posterior
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors
from mdistill.nets.moment import MomentNet
from mdistill.training.settings import ClosedFormSettings, TrainSettings
from mdistill.types import System
from mdistill.units import VOIGT
from systems import SYSTEMS, morse_frames, random_box, tiny_net

SMALL = ClosedFormSettings(second=5, third=3, curvature_frames=4, iterations=3)
SETTINGS = TrainSettings(cutoff=4.5, radial=6, held_out=0.25)


def products(seed: int = 1, *, second: int = 6, third: int = 4) -> Products:
    net = tiny_net(seed)
    graph = build_graph(random_box(8, atoms=37, length=9.0), net.cutoff)
    species = net.species(graph.system.numbers)
    moments = net.moments(graph, edge_vectors(graph), species)[0].detach()
    return make_products(net, moments, species, second=second, third=third)


def random_weights(made: Products) -> torch.Tensor:
    return 0.1 * torch.randn(made.count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["box", "cell shorter than the cutoff", "molecule", "slab", "isolated atom", "dimer"])
def test_the_student_is_exactly_the_regression(name, trust):
    made = products()
    weights = random_weights(made)
    graph = build_graph(SYSTEMS[name](), made.net.cutoff)
    rows = design(made, graph)
    found, bare = (Conservative(to_student(made, w))(graph) for w in (weights, 0.0 * weights))
    worst = assert_close((rows.energy @ weights).view(1), found.energy - bare.energy, absolute=1e-9, relative=1e-10)
    worst = max(
        worst, assert_close((rows.forces @ weights).view(-1, 3), found.forces - bare.forces, absolute=1e-9, relative=1e-10)
    )
    if found.stress is not None and bare.stress is not None and rows.stress is not None:
        lacking = (found.stress - bare.stress)[0]
        assert_close(rows.stress @ weights, torch.stack([lacking[a, b] for a, b in VOIGT]), absolute=1e-10, relative=1e-9)
    trust("T1", f"closed-form rows against the student they become, {name} (eV, eV/Å)", worst, "1e-9")


def test_force_rows_are_minus_the_slope_of_the_energy_rows():
    made = products(second=4, third=3)
    weights, system, step = random_weights(made), random_box(3, atoms=5, length=5.0), 1e-4

    def energy(at: System) -> float:
        return float(design(made, build_graph(at, made.net.cutoff)).energy @ weights)

    forces = (design(made, build_graph(system, made.net.cutoff)).forces @ weights).view(-1, 3)
    for atom, axis in ((0, 0), (3, 1), (4, 2)):
        move = torch.zeros_like(system.positions)
        move[atom, axis] = step
        up, down = (energy(replace(system, positions=system.positions + sign * move)) for sign in (1.0, -1.0))
        assert abs(float(forces[atom, axis]) + (up - down) / (2 * step)) < 1e-5


def test_every_cubic_form_is_a_sum_of_cubes():
    triples = torch.tensor(list(combinations_with_replacement(range(5), 3)))
    for seed in range(4):
        cubic = torch.randn(len(triples), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        strength, vectors = sum_of_cubes(triples, cubic, 10)
        f = torch.randn((20, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        direct = (cubic * f[:, triples[:, 0]] * f[:, triples[:, 1]] * f[:, triples[:, 2]]).sum(1)
        assert_close(strength * (f @ vectors.T).pow(3).sum(1), direct, absolute=1e-8)
    assert sum_of_cubes(triples, 0.0 * cubic, 10)[0] == 0.0


def test_a_fit_learns_and_is_the_same_twice(tmp_path, trust):
    frames = morse_frames(60, probes=1)
    results = [fit_closed_form(frames, SETTINGS, tmp_path / str(k), closed_form=SMALL) for k in range(2)]
    (result, posterior, within), (again, _, _) = results
    assert result.sha256 == again.sha256
    force = result.accuracy.force["all"]
    assert force.mean_absolute.value < 0.15 * force.scale
    assert 0.5 < within["within 1 sigma"] <= 1.0 and within["within 2 sigma"] > 0.85
    assert posterior.noise["forces"] > 0 and 0 < posterior.effective <= result.parameters
    assert (tmp_path / "0" / POSTERIOR).is_file()
    assert "curvature" in posterior.noise
    trust("T18", "closed-form fit twice: weights that differ", 0, "0")


def test_error_bars_grow_away_from_the_data(tmp_path):
    frames = morse_frames(40)
    _, posterior, _ = fit_closed_form(frames, SETTINGS, tmp_path, closed_form=SMALL)
    near = frames[0].system
    far = replace(near, positions=0.93 * near.positions, cell=0.93 * near.cell)
    assert float(posterior.force_errors(far).mean()) > 1.2 * float(posterior.force_errors(near).mean())


def test_the_posterior_comes_back_and_damage_is_noticed(tmp_path):
    frames = morse_frames(40)
    result, posterior, _ = fit_closed_form(frames, SETTINGS, tmp_path, closed_form=SMALL)
    path = tmp_path / POSTERIOR
    again = load_posterior(path, model=result.sha256)
    system = frames[0].system
    assert_close(again.force_errors(system), posterior.force_errors(system), absolute=1e-6)
    assert again.noise == posterior.noise
    with pytest.raises(BadInput, match="another student"):
        load_posterior(path, model="0" * 64)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], b"", b"not safetensors"):
        path.write_bytes(damaged)
        with pytest.raises(BadInput):
            load_posterior(path, model=result.sha256)


@pytest.mark.planted
def test_a_fit_to_shuffled_labels_is_seen_to_be_bad(tmp_path, trust):
    frames = morse_frames(40)
    wrong = [replace(f, target=g.target) for f, g in zip(frames, frames[1:] + frames[:1], strict=True)]
    good, bad = (fit_closed_form(x, SETTINGS, tmp_path / n, closed_form=SMALL)[0] for n, x in (("good", frames), ("bad", wrong)))
    assert bad.accuracy.force["all"].mean_absolute.value > 3 * good.accuracy.force["all"].mean_absolute.value
    trust("T28", "closed-form fit to shuffled labels", "seen", "seen", planted=True)


def test_bad_settings_are_refused():
    for wrong in ({"second": 0}, {"third": 17}, {"step_A": 1.0}, {"iterations": 0}, {"curvature_frames": -1}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            ClosedFormSettings(**wrong)


def test_a_linear_student_is_trainable_by_gradient_too():
    net = tiny_net(0, hidden=0)
    assert isinstance(net, MomentNet) and not hasattr(net, "first")
    graph = build_graph(random_box(1), net.cutoff)
    net(graph, edge_vectors(graph)).sum().backward()
    assert np.isfinite(float(net.last.weight.grad.norm())) and float(net.mixing.grad.norm()) > 0

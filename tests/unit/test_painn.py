"""The message-passing student: against the paper's equations written as loops, its direct head, its compiled twin, its sizes."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from laws import assert_batching_transparent, assert_close, evaluate, orthogonal
from mdistill.derivatives import Conservative, Direct, energy_forces, potential_of, predict
from mdistill.errors import BadInput
from mdistill.graph import build_graph, concatenate, edge_vectors
from mdistill.nets import painn
from mdistill.nets.painn import PainnNet
from mdistill.nets.settings import PainnSettings
from systems import CLOSEST, LIPSCL, SYSTEMS, dimer, isolated_atom, random_box, tiny_painn

DOUBLE = torch.float64


def silu(x):
    return x / (1.0 + np.exp(-x))


def by_the_paper(net, system):
    """Energy per atom (eV) without core, one atom and one neighbour at a time, in numpy."""
    size, graph = net.settings, build_graph(system, net.cutoff)
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    species = [LIPSCL.index(int(z)) for z in system.numbers]
    vectors = edge_vectors(graph).numpy()

    def mlp(name, x):
        hidden = silu(x @ weights[f"{name}.first.weight"] + weights[f"{name}.first.bias"])
        return hidden @ weights[f"{name}.last.weight"] + weights[f"{name}.last.bias"]

    def final_scalars(atoms, edges):
        s, v = [weights["embedding"][z] for z in atoms], [np.zeros((3, size.width)) for _ in atoms]
        for layer in range(size.layers):
            ds, dv = [np.zeros(size.width) for _ in atoms], [np.zeros((3, size.width)) for _ in atoms]
            for i, j, d in edges:
                r = np.linalg.norm(d)
                n = np.arange(1, size.radial + 1)
                envelope = (1.0 - (r / size.cutoff) ** 2) ** 3
                basis = np.sqrt(2.0 / size.cutoff) * np.sin(n * np.pi * r / size.cutoff) / r * envelope
                filters = np.concatenate([basis @ w for w in weights[f"messages.{layer}.filters"]])
                heard, along, out = np.split(mlp(f"messages.{layer}.speak", s[j]) * filters, 3)
                ds[i] = ds[i] + heard
                dv[i] = dv[i] + v[j] * along + np.outer(d / r, out)
            s, v = [a + b for a, b in zip(s, ds, strict=True)], [a + b for a, b in zip(v, dv, strict=True)]
            for i in range(len(atoms)):
                u, w = np.split(v[i] @ weights[f"updates.{layer}.mix.weight"], 2, axis=1)
                length = np.sqrt((w**2).sum(0) + 1.0) - 1.0
                a, b, c = np.split(mlp(f"updates.{layer}.answer", np.concatenate([s[i], length])), 3)
                s[i], v[i] = s[i] + b * (u * w).sum(0) + c, v[i] + a * u
        return s

    edges = list(zip(graph.receiver.tolist(), graph.sender.tolist(), vectors, strict=True))
    together, alone = final_scalars(species, edges), final_scalars(range(len(LIPSCL)), [])
    learned = [float((mlp("readout", s) - mlp("readout", alone[z]))[0]) for s, z in zip(together, species, strict=True)]
    return weights["scale"] * np.array(learned) + weights["reference"][species]


@pytest.mark.parametrize("name", ["box", "molecule", "cell shorter than the cutoff"])
def test_it_is_the_network_of_the_paper(name):
    """No pair of these is below the frozen distance, so r̃ = r and the core is silent."""
    net, system = tiny_painn(1, layers=3), SYSTEMS[name]()
    net.core.outer.zero_()
    graph = build_graph(system, net.cutoff)
    assert float(edge_vectors(graph).norm(dim=1).min()) > CLOSEST
    found = net(graph, edge_vectors(graph)).detach()
    expected = torch.from_numpy(by_the_paper(net, system))
    assert float((expected - net.reference[net.species(system.numbers)]).abs().max()) > 1e-2
    assert_close(found, expected, absolute=1e-11)


def test_pairs_that_were_never_met_send_no_messages():
    net = tiny_painn()
    closest = net.closest.clone()
    closest[0, 2] = closest[2, 0] = 9.0
    net.set_closest(closest)
    assert float(evaluate(net, dimer(3, 16, 4.0)).forces.abs().max()) == 0.0
    assert float(evaluate(net, dimer(3, 17, 4.0)).forces.abs().max()) > 1e-4


def test_it_sees_beyond_one_cutoff():
    """A chain of three, ends 8 Å apart: the energy of one end depends on the element of the other; with one hop it does not."""

    def energy_of_the_end(layers, number):
        chain = replace(
            SYSTEMS["isolated atom"](),
            positions=torch.tensor([[0.0, 0, 0], [4.0, 0.5, 0], [8.0, 0, 0]], dtype=DOUBLE),
            numbers=torch.tensor([3, 16, number]),
            owner=torch.zeros(3, dtype=torch.int64),
        )
        net = tiny_painn(layers=layers)
        graph = build_graph(chain, net.cutoff)
        atomic = net(graph, edge_vectors(graph))
        return float(atomic[0])

    assert energy_of_the_end(1, 3) == energy_of_the_end(1, 17)
    assert abs(energy_of_the_end(2, 3) - energy_of_the_end(2, 17)) > 1e-9


def test_unknown_elements_are_refused():
    with pytest.raises(BadInput, match="elements of this potential: Li, P, S, Cl"):
        evaluate(tiny_painn(), isolated_atom(26))


@pytest.mark.parametrize("wrong", [{"width": 1}, {"layers": 0}, {"radial": 1}, {"cutoff": 0.5}, {"elements": ()}, {"direct": 1}])
def test_bad_sizes_are_refused(wrong):
    with pytest.raises(BadInput):
        PainnSettings(**{"elements": (3,)} | wrong)


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, again, other = (PainnNet(PainnSettings(elements=(3, 16)), seed=seed).embedding for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_folded_copy_is_the_same_function():
    net, system = tiny_painn(), SYSTEMS["box"]()
    copy = net.folded()
    assert torch.equal(evaluate(copy, system).forces, evaluate(net, system).forces)
    assert copy.embedding.data_ptr() != net.embedding.data_ptr()


# --- the direct head ---------------------------------------------------------------------------------------------------


def direct_net(seed=0):
    return tiny_painn(seed, direct=True)


def test_the_potential_is_chosen_by_the_head():
    assert isinstance(potential_of(direct_net()), Direct)
    assert isinstance(potential_of(tiny_painn()), Conservative)
    graph = build_graph(SYSTEMS["box"](), 5.0)
    with pytest.raises(BadInput, match="no direct head"):
        tiny_painn().energies_and_forces(graph, edge_vectors(graph))


def test_direct_forces_turn_with_the_structure_and_sum_to_zero(trust):
    worst = net_force = 0.0
    for seed, name in enumerate(SYSTEMS):
        potential, system = Direct(direct_net(seed)), SYSTEMS[name]()
        base = potential(build_graph(system, potential.cutoff))
        assert base.stress is None
        net_force = max(net_force, float(base.forces.sum(0).abs().max()))
        for reflect in (False, True):
            q = orthogonal(seed, reflect=reflect)
            turned = replace(system, positions=system.positions @ q, cell=system.cell @ q)
            found = potential(build_graph(turned, potential.cutoff))
            worst = max(worst, assert_close(found.forces, base.forces @ q, absolute=1e-9))
            worst = max(worst, assert_close(found.energy, base.energy, absolute=1e-9))
    assert net_force < 1e-10
    assert float(Direct(direct_net())(build_graph(SYSTEMS["box"](), 5.0)).forces.abs().max()) > 1e-2
    trust("T3", "direct forces: rotation, reflection (eV/Å)", worst, "1e-9")
    trust("T3", "direct forces: net force on a structure (eV/Å)", net_force, "1e-10")


@pytest.mark.planted
def test_a_vector_that_does_not_turn_is_seen_in_direct_forces(monkeypatch, trust):
    plant_a_stretched_axis(monkeypatch)
    system, q = SYSTEMS["box"](), orthogonal(0, reflect=False)
    potential = Direct(direct_net())
    turned = replace(system, positions=system.positions @ q, cell=system.cell @ q)
    base, found = (potential(build_graph(one, 5.0)) for one in (system, turned))
    with pytest.raises(AssertionError):
        assert_close(found.forces, base.forces @ q, absolute=1e-9)
    trust("T3", "vector features 1 % longer along x, direct forces", "caught", "caught", planted=True)


def plant_a_stretched_axis(monkeypatch):
    right = painn.Update.forward

    def stretched(self, scalar, vector):
        return right(self, scalar, vector * torch.tensor([1.01, 1.0, 1.0], dtype=vector.dtype).view(3, 1))

    monkeypatch.setattr(painn.Update, "forward", stretched)


def test_direct_batches_are_transparent(trust):
    worst = assert_batching_transparent(Direct(direct_net()), [make() for make in SYSTEMS.values()])
    trust("T4", "direct forces: batch of 1 against batch of n", worst, "1e-12")


def test_direct_curvature_is_minus_the_vector_jacobian_product(trust):
    potential, system = Direct(direct_net()), random_box(1, atoms=6)
    n, step = system.n_atoms, 1e-4
    graph = build_graph(system, potential.cutoff)
    jacobian = torch.zeros(n, 3, n, 3, dtype=DOUBLE)
    for b in range(n):
        for axis in range(3):
            move = torch.zeros(n, 3, dtype=DOUBLE)
            move[b, axis] = step
            up, down = (
                potential(build_graph(replace(system, positions=system.positions + sign * move), potential.cutoff)).forces
                for sign in (1.0, -1.0)
            )
            jacobian[:, :, b, axis] = (up - down) / (2.0 * step)
    probes = torch.randn((3, n, 3), dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    expected = -torch.einsum("pax,axby->pby", probes, jacobian)
    worst = assert_close(potential.curvature(graph, probes), expected, absolute=1e-8, relative=1e-6)
    flat = jacobian.reshape(3 * n, 3 * n)
    assert float((flat - flat.T).abs().max()) > 1e-3 * float(flat.abs().max()), "a symmetric Jacobian would not tell vᵀJ from Jv"
    trust("T1", "direct forces: −vᵀJ against the Jacobian by differences (eV/Å²)", worst, "1e-6 rel.")


def test_direct_products_train():
    """Products of a direct net can be differentiated in its weights."""
    net, system = direct_net(), SYSTEMS["box"]()
    probes = torch.ones((1, system.n_atoms, 3), dtype=DOUBLE)
    probes[0, 0] = 0.0
    prediction, products = predict(net, build_graph(system, 5.0), probes=probes, create_graph=True)
    gradient = torch.autograd.grad(products.square().sum() + prediction.forces.square().sum(), net.gate.last.weight)[0]
    assert float(gradient.abs().max()) > 0.0


def test_the_energy_gradient_of_a_direct_net_is_that_of_its_energy():
    net, system, step = direct_net(), SYSTEMS["molecule"](), 1e-4
    found = energy_forces(net, build_graph(system, net.cutoff))
    move = torch.zeros_like(system.positions)
    move[2, 1] = step
    up, down = (
        float(Direct(net)(build_graph(replace(system, positions=system.positions + sign * move), net.cutoff)).energy)
        for sign in (1.0, -1.0)
    )
    assert float(found[2, 1]) == pytest.approx(-(up - down) / (2.0 * step), abs=1e-7)
    other = Direct(net)(build_graph(system, net.cutoff)).forces
    assert float((other - found).abs().max()) > 1e-2, "the heads are different"


def test_direct_forces_hold_the_core(trust):
    """The core's share of direct forces is minus the gradient of its share of the energy; it wins at short distance."""
    net, without = direct_net(), direct_net()
    without.core.outer.zero_()
    batch = concatenate([dimer(3, 16, r) for r in (0.4, 0.8, 1.2)])
    share = Direct(net)(build_graph(batch, 5.0)).forces - Direct(without)(build_graph(batch, 5.0)).forces
    step, energies = 1e-5, []
    for sign in (1.0, -1.0):
        moved = concatenate([dimer(3, 16, r + sign * step) for r in (0.4, 0.8, 1.2)])
        pair = (Direct(one)(build_graph(moved, 5.0)).energy for one in (net, without))
        energies.append(next(pair) - next(pair))
    radial = -(energies[0] - energies[1]) / (2.0 * step)
    assert_close(share[1::2, 2], radial, absolute=1e-6, relative=1e-7)
    assert bool((Direct(net)(build_graph(batch, 5.0)).forces[1::2, 2] > 0.0).all())


# --- compiled by torch ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about its own work
@pytest.mark.slow
def test_torch_compile_gives_the_same_answers():
    """Traced forward and backward of the whole network, run by aten (no C++ compiler needed)."""
    net, system = tiny_painn(), SYSTEMS["box"]()

    class Compiled:
        cutoff, elements, name = net.cutoff, net.elements, net.name
        forward = staticmethod(torch.compile(net, backend="aot_eager"))

        def __call__(self, graph, vectors):
            return self.forward(graph, vectors)

    found, expected = evaluate(Compiled(), system), evaluate(net, system)
    assert_close(found.energy, expected.energy, absolute=1e-10)
    assert_close(found.forces, expected.forces, absolute=1e-10)
    assert_close(found.stress, expected.stress, absolute=1e-10)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about its own work
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_a_message_compiled_to_machine_code_gives_the_same_answers():
    net, system = tiny_painn(), SYSTEMS["box"]()
    graph = build_graph(system, net.cutoff)
    random = torch.Generator().manual_seed(0)
    scalar = torch.randn((system.n_atoms, 6), dtype=DOUBLE, generator=random)
    vector = torch.randn((system.n_atoms, 3, 6), dtype=DOUBLE, generator=random)

    def answers(message):
        vectors = edge_vectors(graph).requires_grad_(True)
        out = message(scalar, vector, net._edges(graph, vectors, net.species(system.numbers)))
        return *out, *torch.autograd.grad(out[0].square().sum() + out[1].sin().sum(), vectors)

    for found, expected in zip(answers(torch.compile(net.messages[1])), answers(net.messages[1]), strict=True):
        assert float(expected.abs().max()) > 1e-3
        assert_close(found.detach(), expected.detach(), absolute=1e-10)

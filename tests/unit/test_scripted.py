"""export/scripted.py: the student in TorchScript against the student."""

from __future__ import annotations

import pytest
import torch

from mdistill.derivatives import Conservative
from mdistill.export.scripted import ScriptedMoment
from mdistill.graph import build_graph, edge_vectors
from mdistill.nets.compiled import kernel_weights
from systems import SYSTEMS, random_box, tiny_net

SIZES = {"degree 3": {}, "linear": {"hidden": 0}, "degree 1": {"degree": 1}, "degree 2": {"degree": 2, "channels": 6}}


@pytest.mark.parametrize("size", SIZES)
def test_energies_and_gradients_are_those_of_the_student(size, trust):
    net, worst = tiny_net(**SIZES[size]), 0.0
    scripted = torch.jit.script(ScriptedMoment(kernel_weights(net, double=True), net.settings.elements))
    overlapping = random_box(6)
    overlapping.positions.mul_(0.35)
    for system in [*(make() for make in SYSTEMS.values()), overlapping]:
        graph = build_graph(system, net.cutoff)
        vectors = edge_vectors(graph).requires_grad_()
        energies = scripted(system.numbers, graph.receiver, graph.sender, vectors)
        wanted = Conservative(net)(graph)
        (gradient,) = torch.autograd.grad(energies.sum(), vectors) if len(vectors) else (vectors,)
        forces = torch.zeros_like(system.positions).index_add(0, graph.receiver, gradient).index_add(0, graph.sender, -gradient)
        for found, expected in ((energies.detach(), wanted.atomic), (forces, wanted.forces)):
            worst = max(worst, float((found - expected).abs().max() / expected.abs().max().clamp_min(1.0)))
    assert worst < 1e-10
    trust("T7", f"TorchScript, {size}: energies and forces, relative", worst, "≤ 1e-10")


def test_an_unknown_element_is_refused():
    net, system = tiny_net(), SYSTEMS["dimer"]()
    scripted = ScriptedMoment(kernel_weights(net, double=True), net.settings.elements)
    graph = build_graph(system, net.cutoff)
    with pytest.raises(ValueError, match="does not know"):
        scripted(torch.tensor([29, 16]), graph.receiver, graph.sender, edge_vectors(graph))

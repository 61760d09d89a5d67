"""The student on a GPU against the CPU (T8); skipped where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_edge_attention import case
from test_replicas import motion_of, net_of, point_of, species_of, structures

from mdistill.derivatives import Conservative
from mdistill.graph import build_graph, cast, checked_box
from mdistill.kernels.motion import Ensemble
from mdistill.kernels.replicas import Replicas
from mdistill.nets.compiled import compiled
from mdistill.nets.edge_transformer import _Attend, attend_plain
from mdistill.nets.gpu import GpuMoment
from systems import SYSTEMS, random_box, tiny_net

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
LIMITS = {torch.float64: 1e-7, torch.float32: 3e-6}


@pytest.mark.parametrize("dtype", LIMITS, ids=["float64", "float32"])
def test_forces_are_those_of_the_cpu(dtype, trust):
    worst = 0.0
    for system in [make() for make in SYSTEMS.values()] + [random_box(8, atoms=37, length=9.0)]:
        expected = Conservative(tiny_net().in_type(dtype))(build_graph(cast(system, dtype=dtype), 5.0))
        net = tiny_net().in_type(dtype).to("cuda")
        found = Conservative(net)(build_graph(cast(system, dtype=dtype, device="cuda"), 5.0))
        assert found.forces.device.type == "cuda"
        off = (found.forces.cpu() - expected.forces).norm(dim=1)
        size = expected.forces.norm(dim=1).clamp_min(1e-3)
        worst = max(worst, float((off / size).median()))
        assert abs(float(found.energy.cpu() - expected.energy)) < 1e-4
    assert worst <= LIMITS[dtype]
    trust("T8", f"GPU against CPU, median relative force difference, {dtype}", worst, f"{LIMITS[dtype]:g}")


# ---- CUDA kernels (their arithmetic is tested without a GPU in test_replicas.py) ------------------------------------------


@pytest.fixture
def kernels():
    """Students on the GPU, on their kernels."""
    pytest.importorskip("cuda.bindings")

    def of(net, *, double: bool) -> GpuMoment:
        found = compiled(Conservative(net.to("cuda")), double=double)
        assert isinstance(found, GpuMoment)
        return found

    return of


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_kernels_are_the_network(double, kernels, trust):
    net, systems = net_of("as trained by default"), [*structures(), random_box(8, atoms=37, length=9.0)]
    expected = [Conservative(net)(build_graph(system, net.cutoff)) for system in systems]
    batch = Replicas(kernels(net, double=double).kernel, [species_of(net, s) for s in systems], 0.3)
    positions, boxes = [s.positions.numpy() for s in systems], [checked_box(s, net.cutoff) for s in systems]
    worst = 0.0
    for answer, (energy, forces, _) in zip(
        expected, batch.evaluate(positions, boxes, [s.pbc[0].numpy() for s in systems]), strict=True
    ):
        scale = 1.0 + abs(float(answer.energy)) + float(answer.forces.abs().max())
        worst = max(worst, abs(energy - float(answer.energy)) / scale, np.abs(forces - answer.forces.numpy()).max() / scale)
    limit = 1e-11 if double else 1e-5
    assert worst < limit
    trust("T8", f"CUDA kernels against torch on the CPU, {'float64' if double else 'float32'}", worst, f"{limit:g}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_attention_is_the_plain_form(dtype):
    pytest.importorskip("cuda.bindings")
    sides, bias, down, triples = case((7, 3), 16)
    answers = []
    for attend, device, kind in ((_Attend.apply, "cuda", dtype), (attend_plain, "cpu", torch.float64)):
        inputs = [part.to(device, kind).requires_grad_() for part in (sides, bias)]
        out = attend(*inputs, triples)
        answers.append([part.double().cpu() for part in (out, *torch.autograd.grad(out, inputs, down.to(device, kind)))])
    for found, expected in zip(*answers, strict=True):
        assert float((found - expected).abs().max()) <= (1e-10 if dtype == torch.float64 else 1e-4) * float(expected.abs().max())


@pytest.mark.parametrize("ensemble", Ensemble, ids=lambda ensemble: ensemble.name)
def test_recorded_steps_are_those_of_the_cpu_engine(ensemble, kernels):
    """45 steps: two recordings of 20 and some alone; replicas of unequal size in one launch."""
    net, systems = net_of("small"), [random_box(3), random_box(4, atoms=21, length=8.0)]
    points, motion = [point_of(s, net, k) for k, s in enumerate(systems)], motion_of(ensemble, 45)
    cpu, batch = (
        compiled(Conservative(net), double=True),
        Replicas(kernels(net_of("small"), double=True).kernel, [species_of(net, s) for s in systems], 0.2),
    )
    assert batch.run([motion] * 2, points) == [(45, False)] * 2
    for k, system in enumerate(systems):
        expected = point_of(system, net, k)
        cpu.engine(system, threads=1, skin=0.2).run(motion, expected)  # type: ignore[attr-defined]
        assert np.abs(points[k].positions - expected.positions).max() < 1e-9
        assert np.abs(points[k].sums - expected.sums).max() < 1e-7


def test_the_same_launch_gives_the_same_bits(kernels):
    net, system = net_of("small"), random_box(8, atoms=37, length=9.0)
    kernel, ends = kernels(net_of("small"), double=False).kernel, []
    for copies in (1, 1, 64):
        points = [point_of(system, net, 0) for _ in range(copies)]
        Replicas(kernel, [species_of(net, system)] * copies, 0.2).run([motion_of(Ensemble.NVE, 40)] * copies, points)
        ends += [points[0].positions, points[-1].positions]
    assert all(np.array_equal(end, ends[0]) for end in ends)

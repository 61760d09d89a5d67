"""Jobs on the kernels of the GPU, here on a CPU (`cpu_program`): the same trajectories as in torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cpu_program import cpu_program
from mdistill.derivatives import Conservative
from mdistill.graph import build_graph
from mdistill.kernels.build import NoKernel, compiler
from mdistill.kernels.replicas import WarpKernel
from mdistill.nets import compiled as nets_compiled
from mdistill.nets import gpu
from mdistill.nets.compiled import compiled, kernel_weights
from mdistill.nets.gpu import GpuMoment, checked
from mdistill.simulation.compiled import CompiledDynamics, compile_propagator
from mdistill.simulation.evaluator import EngineEvaluator, make_evaluator
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.stride_maps import long_strides
from mdistill.simulation.verlet import VelocityVerlet
from systems import random_box, tiny_map, tiny_net

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")
ENSEMBLES = {
    "nve": SimulateSettings(ensemble="nve", temperature_K=300.0),
    "npt, Langevin": SimulateSettings(ensemble="npt", thermostat="langevin", temperature_K=300.0, barostat="isotropic"),
    "nvt, Bussi": SimulateSettings(ensemble="nvt", thermostat="bussi", temperature_K=300.0),
}
SHORT = {"time_ps": 0.012, "equilibration_ps": 0.0, "time_step_fs": 1.0, "every_fs": 6.0}


def box():
    return random_box(21, atoms=5, length=5.5, closest=2.3)


def pair() -> tuple[Conservative, GpuMoment]:
    plain = Conservative(tiny_net())
    weights = kernel_weights(plain.net, double=True)
    return plain, GpuMoment(plain, WarpKernel(weights, cpu_program(weights)))


@pytest.mark.parametrize("name", ["npt, Langevin", *(pytest.param(n, marks=pytest.mark.slow) for n in ("nve", "nvt, Bussi"))])
def test_a_simulation_is_that_of_torch(name, tmp_path):
    ends = []
    for kind, potential in zip(("plain", "fast"), pair(), strict=True):
        assert isinstance(make_evaluator(potential, box()), EngineEvaluator) == (kind == "fast")
        ends.append(simulate(box(), potential, replace(ENSEMBLES[name], **SHORT), tmp_path / kind).state)
    plain, fast = ends
    assert (fast.system.positions - plain.system.positions).abs().max() < 1e-10
    assert (fast.momenta - plain.momenta).abs().max() < 1e-10
    assert (fast.system.positions - box().positions).abs().max() > 0.01


def test_time_steps_leap_and_long_strides_stay_on_the_cpu():
    _, fast = pair()
    evaluate = make_evaluator(fast, box())
    assert isinstance(evaluate, EngineEvaluator)
    steps = VelocityVerlet(evaluate=evaluate, time_step=1.0)
    assert isinstance(compile_propagator(steps, evaluate), CompiledDynamics)
    strides = long_strides(tiny_map(stride_fs=4.0), box(), evaluate, time=4.0, skin=1.2, small_step=1.0)
    assert compile_propagator(strides, evaluate) is strides


def test_a_graph_goes_through_torch_and_an_engine_counts_its_edges():
    plain, fast = pair()
    graph = build_graph(box(), plain.cutoff)
    assert torch.equal(fast(graph).forces, plain(graph).forces)
    evaluate = make_evaluator(fast, box())
    evaluate(box())
    assert evaluate.engine.counts() == {"edges": len(graph.receiver)}


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_kernels_that_differ_from_torch_are_refused(double):
    plain = Conservative(tiny_net())
    weights = kernel_weights(plain.net, double=double)
    for off in (False, True):
        if off:
            weights.mixing[1] *= 1.1
        student = GpuMoment(plain, WarpKernel(weights, cpu_program(weights)))
        if off:
            with pytest.raises(NoKernel, match="differ from those of torch by .* eV/Å\n  fix"):
                checked(student)
        else:
            assert checked(student) is student


def test_without_kernels_a_student_on_a_gpu_stays_in_torch_with_a_notice(monkeypatch):
    """The GPU is played by the meta device."""
    told: list[str] = []

    def refused(sizes: object) -> None:
        raise NoKernel("cuda.bindings is not installed")

    monkeypatch.setattr(nets_compiled, "notify", told.append)
    monkeypatch.setattr(gpu, "cuda_program", refused)
    monkeypatch.setattr(gpu, "kernel_weights", lambda net, double: kernel_weights(tiny_net(), double=double))
    potential = Conservative(tiny_net().to("meta"))
    assert compiled(potential, double=True) is potential
    assert told == ["students run on the GPU in torch: cuda.bindings is not installed"]

"""The student on a GPU against the CPU (T8); skipped where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from mdistill.derivatives import Conservative
from mdistill.graph import build_graph, cast
from mdistill.nets.compiled import compiled
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


def test_a_student_on_a_gpu_keeps_to_torch():
    potential = Conservative(tiny_net().to("cuda"))
    assert compiled(potential, double=True) is potential

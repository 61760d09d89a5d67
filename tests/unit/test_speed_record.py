"""The speed gate names the class of the processor, and a student far below its record is told."""

from __future__ import annotations

import pytest
import torch

from mdistill.derivatives import Conservative
from mdistill.estimates import exactly
from mdistill.graph import build_graph
from mdistill.io.structures import repeated
from mdistill.nets.compiled import OnKernel
from mdistill.nets.moment import MomentNet
from mdistill.nets.painn import PainnNet
from mdistill.nets.settings import SIZES, MomentSettings, PainnSettings
from mdistill.nets.speed_record import RECORD_US, runs_in, speed_notes
from systems import LIPSCL, random_box
from toy_teacher import Born


def student(size: str = "medium", dtype: torch.dtype = torch.float32) -> OnKernel:
    net = MomentNet(MomentSettings(elements=LIPSCL, **SIZES[size]), seed=0).to(dtype)
    return OnKernel(Conservative(net))


BOX = random_box(0, atoms=10, length=6.6)
LARGE = repeated(BOX, (6, 4, 2))
NEIGHBOURS = max(1.0, len(build_graph(LARGE, 4.9).receiver) / LARGE.n_atoms / 25.0)


def notes(model: OnKernel, us: float, instructions: str = "avx512", *, large: bool = True) -> list[str]:
    return speed_notes(model, LARGE if large else BOX, exactly(us * NEIGHBOURS, "µs/atom/step"), instructions)


@pytest.mark.parametrize("instructions", list(RECORD_US))
def test_below_half_of_the_record_of_its_class_is_told(instructions):
    record = RECORD_US[instructions]
    assert notes(student(), 1.9 * record, instructions) == []
    (note,) = notes(student(), 2.1 * record, instructions)
    assert f"a processor with {instructions}" in note and "below half the speed" in note
    assert notes(student("small"), 2.1 * record, instructions)


def test_a_small_cell_is_given_more_time():
    assert notes(student(), 2.9 * 1.08, large=False) == [] and notes(student(), 3.1 * 1.08, large=False)


def test_what_has_no_record_is_not_compared():
    slow = 1000.0
    assert notes(student("large"), slow) == [] and notes(student(dtype=torch.float64), slow) == []
    assert notes(student(), slow, "neon") == [] and notes(student(), slow, "") == []
    assert speed_notes(Conservative(Born()), BOX, exactly(slow, "µs/atom/step"), "avx512") == []


def test_a_student_in_torch_is_told():
    for net in (student().plain.net, PainnNet(PainnSettings(elements=LIPSCL), seed=0)):
        plain = Conservative(net)
        assert "runs in torch, not in compiled code" in speed_notes(plain, BOX, exactly(50.0, "µs/atom/step"), "avx2")[0]
        assert runs_in(plain, "avx2") == "student in torch on a processor with avx2"
    assert runs_in(student(), "avx512") == "student in compiled code on a processor with avx512"
    assert "unknown vector" in runs_in(student(), "") and "its own code" in runs_in(Conservative(Born()), "sse")

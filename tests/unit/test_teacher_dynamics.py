"""judge/teacher_dynamics.py: a student that is its teacher passes, another one does not."""

from __future__ import annotations

import numpy as np
import pytest

from mdistill.analysis.settings import GateLimits
from mdistill.derivatives import Conservative
from mdistill.graph import make_system
from mdistill.judge.teacher_dynamics import REPEATS, follow_teacher
from springs import NearestSprings


def fcc():
    corners = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)], dtype=float)
    sites = (corners[:, None] + [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]).reshape(-1, 3)
    edge = 2.0 * 2**0.5
    return make_system(edge * sites, np.where(np.arange(32) % 8 == 0, 3, 16), 2.0 * edge * np.eye(3), [True] * 3)


@pytest.mark.slow
@pytest.mark.parametrize(("stiffness", "alike"), [(3.0, True), (1.2, False)])
def test_the_student_is_compared_with_the_scatter_of_its_own_runs(tmp_path, stiffness, alike):
    teacher, student = Conservative(NearestSprings()), Conservative(NearestSprings(stiffness=stiffness))
    results = follow_teacher(
        teacher, student, fcc(), tmp_path, temperature_K=300.0, time_ps=1.0, mobile=3, limits=GateLimits(), seed=3
    )
    assert results.gates[0].passed == alike
    energy, _, msd = results.tables[0].rows
    assert (abs(msd[4].value) < 2.5) == alike
    assert energy[1].unit == "eV/atom" and len(list(tmp_path.glob("student-*"))) == REPEATS
    assert len(results.figures[0].series[1].error) == len(results.figures[0].series[0].x)

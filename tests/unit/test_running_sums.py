"""Means between two frames are the means of every step between them."""

from __future__ import annotations

import numpy as np
import pytest

from mdistill.derivatives import Conservative
from mdistill.io.logs import read_log
from mdistill.nets.compiled import compiled
from mdistill.simulation.barostat import strain_interval
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from systems import random_box, tiny_net


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
@pytest.mark.parametrize("kind", ["plain", "compiled"])
def test_means_are_those_of_every_step(kind, ensemble, tmp_path):
    potential = Conservative(tiny_net())
    potential = compiled(potential, double=True) if kind == "compiled" else potential
    system, logs = random_box(21, atoms=12, length=7.0, closest=2.3), {}
    for every in (1.0, 8.0):
        settings = SimulateSettings(
            ensemble=ensemble, temperature_K=300.0, time_ps=0.064, equilibration_ps=0.016, time_step_fs=1.0, every_fs=every
        )
        logs[every] = read_log(simulate(system, potential, settings, tmp_path / f"{every}").log)
    steps = logs[8.0]["step"]
    assert np.isnan(logs[8.0]["mean_temperature_K"][0]) and len(steps) == 11
    averaged = [name.removeprefix("mean_") for name in logs[1.0] if name.startswith("mean_")]
    assert {"temperature_K", "potential_eV", "pressure_GPa"} < set(averaged)
    for name in averaged:
        means, every_step = logs[8.0][f"mean_{name}"], logs[1.0][name]
        one_step = logs[1.0][f"mean_{name}"]
        expected = [one_step[(logs[1.0]["step"] > step - 8) & (logs[1.0]["step"] <= step)].mean() for step in steps[1:]]
        assert np.allclose(means[1:], expected, rtol=1e-9, atol=1e-9)
        strained = (logs[1.0]["step"] % strain_interval(1.0) == 0) & (ensemble == "npt")
        drift_removed = logs[1.0]["step"] == 0
        same = ~(strained | drift_removed)
        assert np.allclose(one_step[same][1:], every_step[same][1:], rtol=1e-7, atol=1e-7)
        assert np.std(means[1:]) < np.std(every_step)

"""Numbers from users: in range, or an error that says what would be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdistill.errors import BadInput
from mdistill.settings import within
from mdistill.simulation.barostat import StochasticCellRescaling
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.langevin import Baoab, Obabo
from mdistill.simulation.verlet import VelocityVerlet


def test_bounds() -> None:
    within("x", 1, 0, 1)
    within("x", np.float32(0.5), 0, 1)
    within("x", 0.0, 0, 1, open_low=False)
    for bad in (0.0, 1.1, -1, math.nan, math.inf, "1", None, True):
        with pytest.raises(BadInput, match=r"(?s)x: .*allowed: above 0, at most 1 m.*fix: ") as caught:
            within("x", bad, 0, 1, unit="m")
        assert repr(bad) in str(caught.value)


VERLET = VelocityVerlet(evaluate=None, time_step=1.0)
BAD = [
    (VelocityVerlet, {"time_step": 0.0}),
    (VelocityVerlet, {"time_step": 50.0}),
    (Baoab, {"time_step": -1.0, "temperature_K": 300.0}),
    (Baoab, {"time_step": 1.0, "temperature_K": 0.0}),
    (Baoab, {"time_step": 1.0, "temperature_K": 300.0, "friction_per_ps": math.nan}),
    (Bussi, {"inner": VERLET, "temperature_K": 1e9}),
    (Bussi, {"inner": VERLET, "temperature_K": 300.0, "relaxation_fs": 0.0}),
    (Obabo, {"inner": VERLET, "temperature_K": 0.0}),
    (Obabo, {"inner": VERLET, "temperature_K": 300.0, "friction_per_ps": -1.0}),
    (CorrectEnergy, {"inner": VERLET, "every": 0}),
    (CorrectEnergy, {"inner": VERLET, "clip": 0.6}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": -1.0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "relaxation_ps": 0.0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "compressibility_per_GPa": -1.0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "every": 0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "pressure_GPa": math.inf}),
]


@pytest.mark.parametrize(("propagator", "settings"), BAD)
def test_propagators_refuse_bad_settings(propagator: type, settings: dict) -> None:
    with pytest.raises(BadInput, match=list(settings)[-1] if settings.get("time_step", 1.0) == 1.0 else "time_step"):
        propagator(**({} if propagator in (Bussi, Obabo) else {"evaluate": None}), **settings)

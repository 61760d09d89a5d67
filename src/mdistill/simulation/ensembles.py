"""Ensembles: a thermostat around an energy-conserving step, a barostat around both."""

from __future__ import annotations

from mdistill.simulation.barostat import ANISOTROPIC, CRYSTAL, ISOTROPIC, StochasticCellRescaling, strain_interval
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.langevin import Baoab, Obabo
from mdistill.simulation.propagators import Evaluate, NveStep
from mdistill.simulation.settings import SimulateSettings
from mdistill.types import Propagator

_EQUILIBRATION_FRICTION = 10.0


def make_propagator(settings: SimulateSettings, nve: NveStep, evaluate: Evaluate, *, equilibrate: bool = False) -> Propagator:
    """The propagator of an ensemble.

    Args:
        settings: Ensemble, temperature and pressure.
        nve: The step that conserves energy: velocity Verlet, or a long stride, which gets an energy correction.
        evaluate: Energy and stress of a system.
        equilibrate: Whether for equilibration, with Langevin dynamics also in NVE.
    """
    plain: Propagator = nve
    if equilibrate and settings.ensemble != "npt":
        plain = _langevin(nve, settings.temperature_K, _EQUILIBRATION_FRICTION)
    elif settings.ensemble != "nve" and settings.thermostat == "langevin":
        plain = _langevin(nve, settings.temperature_K, settings.friction_per_ps)
    elif settings.ensemble != "nve":
        plain = Bussi(inner=nve, temperature_K=settings.temperature_K, relaxation_fs=settings.relaxation_fs)
    corrected = plain if nve.keeps_energy else CorrectEnergy(inner=plain, evaluate=evaluate)
    if settings.ensemble != "npt":
        return corrected
    return StochasticCellRescaling(
        inner=corrected, evaluate=evaluate, temperature_K=settings.temperature_K, pressure_GPa=settings.pressure_GPa,
        relaxation_ps=settings.barostat_ps, compressibility_per_GPa=(rate := settings.compressibility_per_GPa or CRYSTAL),
        strains=ISOTROPIC if settings.barostat == "isotropic" else ANISOTROPIC, every=strain_interval(nve.stride_fs, rate),
    )  # fmt: skip


def _langevin(nve: NveStep, temperature_K: float, friction_per_ps: float) -> Propagator:
    if nve.splits:
        return Baoab(evaluate=nve.evaluate, time_step=nve.stride_fs, temperature_K=temperature_K, friction_per_ps=friction_per_ps)
    return Obabo(inner=nve, temperature_K=temperature_K, friction_per_ps=friction_per_ps)

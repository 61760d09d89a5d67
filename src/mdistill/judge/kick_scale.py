r"""The factor on the kicks of a long-stride map that gives its NVE dynamics the student's mean temperature.

A map of kicks follows a potential V − δ of its own. It is fitted to strides, which hardly determine slow energies.
At a given total energy its mean temperature is off, to first order in δ, by

    ΔT = −cov(V, δ) / (k_B T C)

V: the student's potential energy   C: heat capacity of the structure   cov: in the canonical ensemble at T

A factor 1 + ε on the kicks adds −εV to δ, and ε T (1 − 3N k_B/(2C)) to ΔT: in a harmonic crystal, where C = 3N k_B, ε T/2.
So the map (with energy correction) and time steps of the student run in NVE from one start, and ε = −(2 ΔT/T)(1 − σ²/ΔT²) is
applied, σ the error of ΔT: zero where ΔT is within its error, nearly −2 ΔT/T where it is well known. Then the map runs
again. A factor of 1.005 moves the temperature by 1.5 K at 600 K; the error of a stride hardly changes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mdistill.estimates import Estimate
from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.dynamics import BLOCKS, Judged, equilibrated_start, judged, small_steps
from mdistill.judge.settings import StrideRungSettings
from mdistill.matter.masses import usual_time_step
from mdistill.nets.network import StrideMap
from mdistill.progress import progress
from mdistill.runs.identity import model_id, structure_digests
from mdistill.runs.ledger import Ledger, Work
from mdistill.settings import amended, child_seed
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.stride_maps import long_strides
from mdistill.types import Potential, System

_TIMES, _SHARPER = 3, 0.6
"""Largest number of runs; error of the mean temperature, as a share of the error allowed by its gate."""


def set_kick_scale(
    net: StrideMap, potential: Potential, system: System, settings: StrideRungSettings, folder: Path | None = None, *,
    seed: int = 0, stop: StopRequest = NEVER,
) -> dict[str, float]:  # fmt: skip
    """Scale the kicks of a trained map, in place, until NVE has the temperature of time steps.

    Args:
        net: The map, with its limits; a map without kicks is not changed.
        potential: Its student, in the float type of the runs.
        system: The structure; temperature and length are those of the settings.
        settings, stop: Settings of the rung; stop is checked between blocks.
        seed: Seed of the rung's judgement; runs here have another one.
        folder: Folder with the ledger; an entry of the same map, student and settings is used.
    Returns:
        "factor" of the kicks; error of the mean temperature before, "off_K", and its uncertainty, "off_error_K". Empty where
        there are no kicks, a run broke, or the uncertainty is unknown.
    """
    if not net.has_kicks:
        return {}
    models = {"map": model_id(net), "student": model_id(potential)}
    inputs = {"structure": structure_digests(system)}
    work = Work(key="kick scale", settings=amended(settings.judge, {"seed": seed}), inputs=inputs, models=models)
    known = None if folder is None else Ledger(folder).kept(work)
    if known is not None:
        net.scale_kicks(known.get("factor", 1.0))
        return known
    adjusted = _search(net, potential, system, settings, seed=child_seed(seed, "kick scale"), stop=stop)
    if folder is not None:
        Ledger(folder).keep(work, adjusted)
    return adjusted


def _search(
    net: StrideMap, potential: Potential, system: System, settings: StrideRungSettings, *, seed: int, stop: StopRequest
) -> dict[str, float]:
    judge = replace(settings.judge, temperature_limit_K=_SHARPER * settings.judge.temperature_limit_K)
    evaluate, usual, stride = make_evaluator(potential, system), usual_time_step(system), net.settings.stride_fs
    small = small_steps(evaluate, system, judge)
    start, scale, first = equilibrated_start(small, system, judge, seed=seed), 1.0, None
    with progress("kick scale", (_TIMES + 1) * BLOCKS, unit="block") as advance:
        exact = judged(small, "NVE", start, evaluate, judge, seed=seed, longer="all", stop=stop, advance=advance)
        for _ in range(_TIMES):
            single = net.folded().in_type(torch.float32).requires_grad_(False)
            long = long_strides(single, system, evaluate, time=stride, skin=settings.skin_A, small_step=usual)
            corrected = CorrectEnergy(inner=long, evaluate=evaluate)
            run = judged(corrected, "NVE", start, evaluate, judge, seed=seed, longer="all", stop=stop, advance=advance)
            off = _between(run, exact)
            if off is None:
                break
            first = first or off
            factor = kick_factor(off, judge.temperature_K or 0.0)
            advance(0, f"{off.value:+.1f} K, kicks × {factor:.4f}")
            if factor == 1.0:
                break
            net.scale_kicks(factor)
            scale *= factor
    if first is None or first.value is None or first.error is None:
        return {}
    return {"factor": scale, "off_K": first.value, "off_error_K": first.error}


def kick_factor(off: Estimate, kelvin: float) -> float:
    """The factor 1 + ε for this error of the mean temperature."""
    if not off.value or off.error is None or kelvin <= 0.0:
        return 1.0
    known = max(0.0, 1.0 - (off.error / off.value) ** 2)
    return min(max(1.0 - 2.0 * off.value / kelvin * known, 0.9), 1.1)


def _between(run: Judged, exact: Judged) -> Estimate | None:
    """Difference of mean temperatures; None where a run broke or an error is not known."""
    a, b = run.temperatures.get("all"), exact.temperatures.get("all")
    if run.broken or exact.broken or a is None or b is None:
        return None
    off = a - b
    return None if off.value is None or off.error is None else off

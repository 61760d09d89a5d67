"""Tracer diffusivity of one species with an honest interval: model-averaged regression, hop counting, detection limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from mdistill.analysis.hops import count_hops
from mdistill.analysis.msd import displacements, frame_spacing, geometric_lags, inflation_of, msd_of, pooled_windows
from mdistill.analysis.regression import (
    Posterior,
    earliest_start,
    given_start,
    long_slope,
    modelled_errors,
    positive_slope,
    share_below_zero,
    slope_posterior,
)
from mdistill.analysis.settings import DiffusionSettings
from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.types import Trajectory
from mdistill.units import DIFFUSIVITY_CM2_S, PS

DIMENSIONS = 3
FEW_HOPS = 10
"""Below this many hops neither the slope nor its logarithm can be judged: the count sets the interval."""
DIFFUSIVE, CAGED = 0.9, 0.5
"""Logarithmic slope from which ions diffuse, and below which they are caged."""
SURE, SURE_OF_RUNS, SEVERAL = 0.75, 2.0, 4
"""Standard errors by which the logarithmic slope must lie below 0.9: of one run, and of several. A closed cage in one short run
cannot be told otherwise; of single walks that diffuse (slope 1) 2 % lie so far below."""
LONGEST_RELAXATION = 1 / 8
"""Longest relaxation time of the fit as a share of the longest run."""
Verdict = Literal["diffusive", "subdiffusive", "caged", "no hops"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """Motion of one species in a trajectory, or in independent runs of one state.

    Attributes:
        species: Element symbol.
        tracer: Tracer diffusivity D (cm²/s) with 95 % interval; value None and `upper_limit` where it is below detection.
        msd: Mean square displacement (Å² against fs) at the lags of the fit, over all runs.
        verdict: "diffusive": D has a value. "subdiffusive": the MSD still flattens, "caged": it has no slope, "no hops": no ion
            left its site; of these three an upper limit is known.
        slope: d ln(MSD)/d ln(τ) at the longest lags, less the fast part: 1 diffusive, near 0 caged.
        intercept: MSD of vibration and fast cages, extrapolated to τ = 0 (Å²).
        fit_from: Shortest lag used (fs).
        hops: Hops of all ions together in all runs.
        ions: Number of ions.
        duration: Length of all runs together (fs).
        runs: Number of runs.
        inflation: Factor on the variance for ions that move together and runs that differ; 1 for independent ions.
        notes: Caveats of this number.
    """

    species: str
    tracer: Estimate
    msd: Curve
    verdict: Verdict
    slope: Estimate
    intercept: Estimate
    fit_from: float
    hops: int
    ions: int
    duration: float
    runs: int = 1
    inflation: float = 1.0
    notes: list[str] = field(default_factory=list)

    @property
    def detected(self) -> bool:
        """Whether ions diffuse measurably."""
        return self.verdict == "diffusive"


def diffusivity(
    trajectory: Trajectory | Sequence[Trajectory], *, species: str, settings: DiffusionSettings | None = None
) -> Diffusion:
    r"""Tracer diffusivity of one species, relative to the host, with its error; an upper limit where ions do not diffuse.

    D = m/(2 d), d = 3      m: slope of the MSD at long times, with the posterior of `slope_posterior`

    MSD = c + m τ − a exp(−τ/τ_c) is averaged over the relaxation time τ_c and the line without relaxation. The covariance of
    overlapping windows is multiplied by the measured inflation for ions that move together. Value (mean), error and 95 %
    interval are of one posterior, whose relative width is at least that of the number of independent hops seen.

    An upper limit (one-sided 95 %) replaces the value where no ion hops, where the slope is not significant, and where the
    logarithmic slope lies below 0.9. It covers three hops of `hop_length` too: no hop is seen then in 5 % of runs.

    Args:
        trajectory: Unwrapped positions (Å), evenly spaced frames; a sequence: independent runs of one state, pooled.
        species: Element symbol of the mobile ion.
        settings: How the MSD is fitted and hops are counted.
    Raises:
        BadInput: Species absent, frames unevenly spaced, values not finite, fewer than 20 frames, runs of different atoms or
            spacing, no run.
    Reference:
        Covariance: McCluskey et al., J. Chem. Theory Comput. 21, 79 (2025), doi 10.1021/acs.jctc.4c01249.
    """
    settings = settings or DiffusionSettings()
    trajectories = [trajectory] if isinstance(trajectory, Trajectory) else list(trajectory)
    spacing = _common_spacing(trajectories)
    runs = [displacements(run, species=species) for run in trajectories]
    shortest = min(len(run) for run in runs)
    if shortest < 20:
        raise BadInput("trajectory", f"{shortest} frames", allowed="at least 20", fix="run longer or write frames more often")
    diffusion = _diffusion(runs, spacing, species, settings)
    alone = runs[0].shape[1] == trajectories[0].numbers.shape[0]
    return replace(diffusion, notes=[*diffusion.notes, "no host atoms: displacements are absolute"]) if alone else diffusion


def _common_spacing(trajectories: Sequence[Trajectory]) -> float:
    if not trajectories:
        raise BadInput("trajectory", "no run", allowed="at least one", fix="give a trajectory")
    spacings = [frame_spacing(run) for run in trajectories]
    for number, (run, spacing) in enumerate(zip(trajectories, spacings, strict=True), 1):
        if not torch.equal(run.numbers, trajectories[0].numbers):
            problem = f"run {number} has other atoms than run 1"
            raise BadInput("trajectory", problem, allowed="runs of the same atoms", fix="analyse them apart")
        if abs(spacing - spacings[0]) > 1e-3 * spacings[0]:
            problem = f"run {number} has a frame every {spacing:g} fs, run 1 every {spacings[0]:g} fs"
            raise BadInput("trajectory", problem, allowed="one spacing of frames", fix="analyse them apart")
    return spacings[0]


def _lags(frames: int, settings: DiffusionSettings) -> tuple[Int[np.ndarray, " lag"], int]:
    """Lags (frames) up to `longest`, continued to 90 % of the run for the logarithmic slope; and the number of the former."""
    lags = geometric_lags(frames, count=settings.lags, longest=settings.longest)
    ratio, last = lags[-1] / lags[-2], int(0.9 * (frames - 1))
    later = np.unique(np.round(lags[-1] * ratio ** np.arange(1, 50)).astype(np.int64))
    return np.concatenate([lags, later[(later > lags[-1]) & (later <= last)]]), len(lags)


def _diffusion(
    runs: Sequence[Float[np.ndarray, "_ ion 3"]], spacing: float, species: str, settings: DiffusionSettings
) -> Diffusion:
    frames = max(len(run) for run in runs)
    lags, fitted = _lags(frames, settings)
    whole = msd_of(runs, spacing, lags=lags, label=species)
    windows = np.array([pooled_windows(int(lag), runs) for lag in lags])
    curve = replace(whole, x=whole.x[:fitted], y=whole.y[:fitted], error=whole.error[:fitted])
    given = settings.fit_from_ps
    start = earliest_start(curve) if given is None else given_start(curve, given * PS)
    inflation = inflation_of(runs, spacing, whole)
    longest, around = LONGEST_RELAXATION * frames * spacing if given is None else None, None
    for _ in range(2):
        modelled = modelled_errors(curve, windows[:fitted], start, around=around)
        posterior = slope_posterior(modelled, start, longest_relaxation=longest, inflation=inflation)
        around = posterior.fitted
    hops = sum(count_hops(run, spacing, distance=settings.hop_distance) for run in runs)
    diffusion = Diffusion(
        species=species, tracer=Estimate(value=None, error=None, unit="cm²/s"), msd=curve, verdict="diffusive",
        slope=long_slope(modelled_errors(whole, windows, earliest_start(whole)), inflation=inflation),
        intercept=Estimate(value=posterior.offset, error=posterior.offset_error, unit="Å²"), fit_from=float(curve.x[start]),
        hops=hops, ions=runs[0].shape[1], duration=sum(len(run) - 1 for run in runs) * spacing, runs=len(runs),
        inflation=inflation,
    )  # fmt: skip
    diffusion = replace(diffusion, verdict=_verdict(diffusion, posterior))
    events = max(1.0, hops / inflation)
    if not diffusion.detected:
        return _below_detection(diffusion, posterior, events, settings)
    mean, deviation, (low, high, _) = positive_slope(posterior, events=events)
    slope = Estimate(value=mean, error=deviation, unit="Å²/fs", samples=hops, interval=(low, high))
    return replace(diffusion, tracer=slope.scaled(DIFFUSIVITY_CM2_S / (2 * DIMENSIONS), "cm²/s"), notes=_caveats(diffusion))


def _caveats(diffusion: Diffusion) -> list[str]:
    """Of a value: few hops, or a logarithmic slope that lies below 0.9 without being surely below it."""
    species, hops, slope = diffusion.species, diffusion.hops, diffusion.slope
    if hops < FEW_HOPS:
        return [f"{species}: only {hops} hop(s) seen; the interval is that of counting {hops}"]
    if slope.value is None or slope.error is None or slope.value >= DIFFUSIVE:
        return []
    seen = f"{species}: MSD grows as τ^{slope.value:.2f} (± {slope.error:.2f}) at the longest lags"
    return [f"{seen}: this run does not tell diffusion from motion within cages; a longer run does"]


def _verdict(diffusion: Diffusion, posterior: Posterior) -> Verdict:
    if not diffusion.hops:
        return "no hops"
    if diffusion.hops < FEW_HOPS:
        return "diffusive"
    if share_below_zero(posterior) > 0.05:
        return "caged"
    slope, sure = diffusion.slope, SURE if diffusion.runs < SEVERAL else SURE_OF_RUNS
    if slope.value is None or slope.value + sure * (slope.error or 0.0) >= DIFFUSIVE:
        return "diffusive"
    return "caged" if slope.value < CAGED else "subdiffusive"


def _below_detection(diffusion: Diffusion, posterior: Posterior, events: float, settings: DiffusionSettings) -> Diffusion:
    """The upper limit (one-sided 95 %): of the fit, and of three hops where none was seen."""
    unseen = 3.0 * settings.hop_length**2 / (2 * DIMENSIONS * diffusion.ions * diffusion.duration)
    _, _, (_, _, bound) = positive_slope(posterior, events=events)
    limit = DIFFUSIVITY_CM2_S * max(unseen, bound / (2 * DIMENSIONS))
    slope = "" if diffusion.slope.value is None else f", MSD growing as τ^{diffusion.slope.value:.2f} at the longest lags"
    seen = {
        "no hops": f"no ion left its site by more than {settings.hop_distance:g} Å",
        "caged": f"{diffusion.hops} hops within cages{slope}",
    }.get(diffusion.verdict, f"{diffusion.hops} hops{slope}: not yet diffusive, the value falls as the run grows")
    note = f"{diffusion.species}: below detection in {diffusion.duration / PS:.3g} ps ({seen}); the limit bounds D from above"
    tracer = replace(diffusion.tracer, samples=max(1, diffusion.hops), upper_limit=limit)
    return replace(diffusion, tracer=tracer, notes=[note])

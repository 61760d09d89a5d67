"""Tracer diffusivity of one species with an honest interval: kinisi's Bayesian regression, hop counting, detection limit."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from scipy.stats import chi2

from mdistill.analysis.msd import displacements, frame_spacing, geometric_lags, independent_windows, msd_of
from mdistill.analysis.regression import (
    RATTLING_TIME,
    Line,
    choose_start,
    covariance,
    given_start,
    latest_start,
    long_slope,
    modelled_errors,
    straight_line,
)
from mdistill.analysis.settings import DiffusionSettings
from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput, MissingPackage
from mdistill.estimates import Estimate
from mdistill.types import Trajectory
from mdistill.units import DIFFUSIVITY_CM2_S, PS

DIMENSIONS = 3
FEW_HOPS = 10
"""Below this many hops a slope cannot be told from none: the count decides."""
CAGED_SLOPE = 0.5
"""Ions whose MSD grows more slowly than τ^0.5 and still flattens are caged."""
COUNTED_HOPS = 100
"""Below this many hops the interval is at least as wide as that of the count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """Motion of one species in a trajectory.

    Attributes:
        species: Element symbol.
        tracer: Tracer diffusivity D (cm²/s) with 95 % interval; value None and `upper_limit` where it is below detection.
        msd: Mean square displacement (Å² against fs) at the lags of the fit.
        detected: Whether ions diffuse measurably.
        slope: d ln(MSD)/d ln(τ) at the longest lags: 1 diffusive, near 0 caged.
        intercept: MSD of the vibration, extrapolated to τ = 0 (Å²).
        fit_from: Shortest lag used (fs).
        hops: Hops of all ions together in the run.
        ions: Number of ions.
        duration: Length of the run (fs).
        notes: Caveats of this number.
    """

    species: str
    tracer: Estimate
    msd: Curve
    detected: bool
    slope: Estimate
    intercept: Estimate
    fit_from: float
    hops: int
    ions: int
    duration: float
    notes: list[str] = field(default_factory=list)


def diffusivity(trajectory: Trajectory, *, species: str, settings: DiffusionSettings | None = None) -> Diffusion:
    r"""Tracer diffusivity of one species, relative to the host, with its error; "below detection" where ions do not hop.

    D = lim MSD(τ)/(2 d τ), d = 3: slope of a straight line with intercept, its posterior sampled by kinisi with the
    covariance of overlapping windows. The 95 % interval is widened to the Poisson interval of the number of hops seen,
    so that a handful of hops never looks precise. Not detected: no hop at all; or many hops without a significant slope, or
    with an MSD that grows more slowly than τ^0.5 and still flattens (cages). Then the upper limit covers both the line
    fit (one-sided 95 %) and three hops of `hop_length`, the number that would be seen as none in 5 % of runs.

    Args:
        trajectory: Unwrapped positions (Å), evenly spaced frames.
        species: Element symbol of the mobile ion.
        settings: How the line is fitted and hops are counted.
    Raises:
        BadInput: Species absent, frames unevenly spaced, values not finite, fewer than 20 frames.
        MissingPackage: kinisi is not installed.
    Reference:
        McCluskey et al., J. Chem. Theory Comput. 21, 79 (2025), doi 10.1021/acs.jctc.4c01249 (kinisi).
    """
    settings = settings or DiffusionSettings()
    spacing = frame_spacing(trajectory)
    moved = displacements(trajectory, species=species)
    if len(moved) < 20:
        raise BadInput("trajectory", f"{len(moved)} frames", allowed="at least 20", fix="run longer or write frames more often")
    hops = count_hops(moved, spacing, distance=settings.hop_distance)
    diffusion = _diffusion(moved, spacing, species, hops=hops, settings=settings)
    alone = moved.shape[1] == trajectory.numbers.shape[0]
    return replace(diffusion, notes=[*diffusion.notes, "no host atoms: displacements are absolute"]) if alone else diffusion


def count_hops(moved: Float[np.ndarray, "frame ion 3"], spacing: float, *, distance: float) -> int:
    """Hops of all ions: the position averaged over 1 ps leaves its last site by more than `distance` (Å), twice running."""
    size = max(1, min(round(RATTLING_TIME / spacing), len(moved) // 4))
    count = len(moved) // size
    means = moved[: count * size].reshape(count, size, *moved.shape[1:]).mean(axis=1)
    site, hops = means[0].copy(), 0
    for now, after in itertools.pairwise(means[1:]):
        gone = (((now - site) ** 2).sum(-1) > distance**2) & (((after - site) ** 2).sum(-1) > distance**2)
        site[gone] = after[gone]
        hops += int(gone.sum())
    return hops


def _diffusion(
    moved: Float[np.ndarray, "frame ion 3"], spacing: float, species: str, *, hops: int, settings: DiffusionSettings
) -> Diffusion:
    frames, ions = moved.shape[:2]
    lags = geometric_lags(frames, count=settings.lags, longest=settings.longest)
    curve = msd_of(moved, spacing, lags=lags, label=species)
    windows = np.array([independent_windows(lag, frames, ions) for lag in lags])
    start = choose_start(curve, windows) if settings.fit_from_ps is None else given_start(curve, settings.fit_from_ps * PS)
    fitted = modelled_errors(curve, windows, start)
    line = straight_line(fitted, windows, start)
    late = _late_line(curve, windows, line)
    slope = long_slope(curve, windows)
    steepness = 1.0 if slope.value is None else slope.value + 2.0 * (slope.error or 0.0)
    diffusion = Diffusion(
        species=species, tracer=Estimate(value=None, error=None, unit="cm²/s"), msd=curve, detected=False, slope=slope,
        intercept=Estimate(value=line.offset, error=line.offset_error, unit="Å²"), fit_from=float(curve.x[start]), hops=hops,
        ions=ions, duration=(frames - 1) * spacing,
    )  # fmt: skip
    caged = late is not None and steepness < CAGED_SLOPE
    if not hops or (hops >= FEW_HOPS and (caged or line.slope <= 1.645 * line.slope_error)):
        return _below_detection(diffusion, line, settings)
    tracer = _sampled(fitted, windows, start, hops, settings.seed)
    notes = []
    if hops < COUNTED_HOPS:
        tracer = _widened(tracer, hops)
    if hops < FEW_HOPS:
        notes.append(f"{species}: only {hops} hop(s) seen; the interval is that of counting {hops}")
    if late is not None and steepness < 0.8:
        tracer = _with_late_fit(tracer, late)
        notes.append(
            f"{species}: MSD grows as τ^{slope.value:.2f} and flattens: this run hardly reaches diffusion; "
            "the interval covers the line through the longest lags too"
        )
    return replace(diffusion, tracer=tracer, detected=True, notes=notes)


def _late_line(curve: Curve, windows: Float[np.ndarray, " lag"], line: Line) -> Line | None:
    """The line through the longest lags (from half of the longest) where it is flatter by three standard errors, else None."""
    start = latest_start(curve, share=0.5)
    late = straight_line(modelled_errors(curve, windows, start), windows, start)
    flatter = line.slope - late.slope > 3.0 * np.sqrt(max(late.slope_error**2 - line.slope_error**2, 0.0))
    return late if flatter else None


def _below_detection(diffusion: Diffusion, line: Line, settings: DiffusionSettings) -> Diffusion:
    """The upper limit (one-sided 95 %): of the line fit, and of three hops where none was seen."""
    unseen = 3.0 * settings.hop_length**2 / (2 * DIMENSIONS * diffusion.ions * diffusion.duration)
    fitted = (max(line.slope, 0.0) + 1.645 * line.slope_error) / (2 * DIMENSIONS)
    limit = DIFFUSIVITY_CM2_S * max(unseen, fitted)
    seen = f"no ion left its site by more than {settings.hop_distance:g} Å"
    if diffusion.hops:
        slope = "" if diffusion.slope.value is None else f", MSD growing as τ^{diffusion.slope.value:.2f} at the longest lags"
        seen = f"{diffusion.hops} hops within cages{slope}; a line from {diffusion.fit_from / PS:.3g} ps on bounds D from above"
    note = f"{diffusion.species}: below detection in {diffusion.duration / PS:.3g} ps ({seen})"
    tracer = replace(diffusion.tracer, samples=max(1, diffusion.hops), upper_limit=limit)
    return replace(diffusion, tracer=tracer, notes=[note])


def _sampled(curve: Curve, windows: Float[np.ndarray, " lag"], start: int, hops: int, seed: int) -> Estimate:
    """Posterior of D (cm²/s), from kinisi."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import scipp
            from kinisi.diffusion import Diffusion as Regression
    except ImportError as error:
        raise MissingPackage("kinisi", "pip install 'kinisi>=2.1'", "the diffusivity") from error
    # Lengths in m: kinisi starts its walkers at an intercept of 1e-20, which is 1 Å² there; in Å they would take long to spread.
    lag, square = ["time interval"], 1e-20
    time = scipp.array(dims=lag, values=curve.x.numpy(), unit="fs")
    data = scipp.Variable(dims=lag, values=curve.y.numpy() * square, variances=(curve.error.numpy() * square) ** 2, unit="m^2")
    coordinates = {"time interval": time, "n_samples": scipp.array(dims=lag, values=windows)}
    group = scipp.DataGroup(
        {"da": scipp.DataArray(data=data, coords=coordinates), "dimensionality": DIMENSIONS * scipp.units.one}
    )
    spread = scipp.array(dims=["lag 1", "lag 2"], values=covariance(curve, windows)[start:, start:] * square**2, unit="m^4")
    regression = Regression(group)
    regression.compute_covariance_matrix = lambda: spread
    with _alone(), np.errstate(all="ignore"):
        state = np.random.RandomState(seed)
        regression.bayesian_regression(start_dt=time[start], progress=False, random_state=state, n_samples=600, n_burn=300)
    draws = DIFFUSIVITY_CM2_S * np.asarray(regression.gradient.values) / (2 * DIMENSIONS * square)
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    return Estimate(value=float(draws.mean()), error=float(draws.std()), unit="cm²/s", samples=hops, interval=(low, high))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """kinisi draws from numpy's global generator and prints: both are put back as they were."""
    before = np.random.get_state()  # noqa: NPY002
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _widened(tracer: Estimate, hops: int) -> Estimate:
    """The interval for few hops: a rate is uncertain by a factor, not symmetrically.

    It takes in value · exp(± 1.96 error/value) and the exact 95 % Poisson interval of the hop count (Garwood, Biometrika 28,
    437 (1936), doi 10.1093/biomet/28.3-4.437).
    """
    value, error, (low, high) = float(tracer.value or 0.0), float(tracer.error or 0.0), tracer.interval or (0.0, 0.0)
    fewest, most = chi2.ppf(0.025, 2 * hops) / (2 * hops), chi2.ppf(0.975, 2 * hops + 2) / (2 * hops)
    factor = float(np.exp(1.96 * min(error / value, 1.0)))
    low, high = max(0.0, float(min(low, value * fewest))), float(max(high, value * most, value * factor))
    return replace(tracer, error=max(error, (high - low) / 3.92), interval=(low, high))


def _with_late_fit(tracer: Estimate, line: Line) -> Estimate:
    """The interval together with that of a fit to the longest lags."""
    factor = DIFFUSIVITY_CM2_S / (2 * DIMENSIONS)
    low, high = tracer.interval or (0.0, 0.0)
    low = min(low, max(0.0, factor * (line.slope - 1.96 * line.slope_error)))
    high = max(high, factor * (line.slope + 1.96 * line.slope_error))
    return replace(tracer, error=max(float(tracer.error or 0.0), (high - low) / 3.92), interval=(low, high))

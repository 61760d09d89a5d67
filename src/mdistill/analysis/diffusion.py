"""Tracer diffusivity of one species with an honest interval: kinisi's Bayesian regression, hop counting, detection limit."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from scipy.stats import chi2

from mdistill.analysis.msd import displacements, frame_spacing, geometric_lags, independent_windows, msd_of
from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput, MissingPackage
from mdistill.types import Estimate, Trajectory
from mdistill.units import DIFFUSIVITY_CM2_S, PS

DIMENSIONS = 3
RATTLING_TIME = 1.0 * PS
"""Ions forget ballistic motion and the phase of their vibration within about this time (fs)."""
FEW_HOPS = 10
"""Below this many hops a slope cannot be told from none: the count decides."""
COUNTED_HOPS = 100
"""Below this many hops the interval is at least as wide as that of the count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionSettings:
    """How D is read from a trajectory.

    Attributes:
        lags: How many lags (geometric from one frame on); more than 50 makes the covariance singular.
        longest: Longest lag as a fraction of the run.
        fit_from_ps: Shortest lag of the fit (ps); None: chosen by `choose_start`.
        hop_distance: An ion has hopped once its position, averaged over 1 ps, stays farther than this (Å) from where it was.
        hop_length: Distance of one hop (Å) assumed in the upper limit when none was seen.
        seed: Seed of the Bayesian sampling.
    """

    lags: int = 40
    longest: float = 0.5
    fit_from_ps: float | None = None
    hop_distance: float = 1.5
    hop_length: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = [
            ("lags", self.lags, 5 <= self.lags <= 50, "5 to 50"),
            ("longest", self.longest, 0.1 <= self.longest <= 0.9, "0.1 to 0.9 of the run"),
            ("fit_from_ps", self.fit_from_ps, self.fit_from_ps is None or self.fit_from_ps > 0, "a time > 0 ps"),
            ("hop_distance", self.hop_distance, self.hop_distance > 0, "a distance > 0 Å"),
            ("hop_length", self.hop_length, self.hop_length > 0, "a distance > 0 Å"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "0 to 2³² − 1"),
        ]
        for name, value, good, allowed in checks:
            if not good:
                raise BadInput(name, f"{value!r}", allowed=allowed, fix="choose a value in that range")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """What a trajectory says about the motion of one species.

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
        notes: What the reader must know about this number.
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
    so that a handful of hops never looks precise. Not detected: no hop at all, or many hops without a significant slope
    (rattling between neighbouring sites); then the upper limit covers both the line fit (one-sided 95 %) and three
    hops of `hop_length`, the number that would be seen as none in 5 % of runs.

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
    found = _diffusion(moved, spacing, species, hops=hops, settings=settings)
    alone = moved.shape[1] == trajectory.numbers.shape[0]
    return replace(found, notes=[*found.notes, "no host atoms: displacements are absolute"]) if alone else found


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
    duration = (frames - 1) * spacing
    lags = geometric_lags(frames, count=settings.lags, longest=settings.longest)
    curve = msd_of(moved, spacing, lags=lags, label=species)
    windows = np.array([independent_windows(lag, frames, ions) for lag in lags])
    start = choose_start(curve, windows) if settings.fit_from_ps is None else _given_start(curve, settings.fit_from_ps * PS)
    fitted = modelled_errors(curve, windows, start)
    line, line_error, offset, offset_error = straight_line(fitted, windows, start)
    significant = line > 1.645 * line_error
    detected = hops > 0 and (significant or hops < FEW_HOPS)
    notes = []
    if detected:
        tracer, offset, offset_error = _sampled(fitted, windows, start, hops, settings.seed)
        tracer = _widened(tracer, hops) if hops < COUNTED_HOPS else tracer
    else:
        unseen = 3.0 * settings.hop_length**2 / (2 * DIMENSIONS * ions * duration)
        limit = DIFFUSIVITY_CM2_S * max(unseen, (max(line, 0.0) + 1.645 * line_error) / (2 * DIMENSIONS))
        tracer = Estimate(value=None, error=None, unit="cm²/s", samples=round(windows[0]), upper_limit=limit)
        seen = (
            f"{hops} hops without long-range motion" if hops else f"no ion left its site by more than {settings.hop_distance:g} Å"
        )
        notes.append(f"{species}: below detection in {duration / PS:.3g} ps ({seen})")
    slope = _long_slope(curve, windows)
    if detected and hops < FEW_HOPS:
        notes.append(f"{species}: only {hops} hop(s) seen; the interval is that of counting {hops}")
    if detected and slope.value is not None and slope.error is not None and abs(slope.value - 1.0) > max(0.2, 2 * slope.error):
        late = latest_start(curve, share=0.5)
        tracer = _with_late_fit(tracer, straight_line(modelled_errors(curve, windows, late), windows, late))
        notes.append(
            f"{species}: MSD grows as τ^{slope.value:.2f} at the longest lags: this run does not reach diffusion; "
            "the interval covers fits to all lags and to the longest only"
        )
    return Diffusion(
        species=species,
        tracer=tracer,
        msd=curve,
        detected=detected,
        slope=slope,
        intercept=Estimate(value=offset, error=offset_error, unit="Å²"),
        fit_from=float(curve.x[start]),
        hops=hops,
        ions=ions,
        duration=duration,
        notes=notes,
    )


def covariance(curve: Curve, windows: Float[np.ndarray, " lag"]) -> Float[np.ndarray, "lag lag"]:
    r"""Covariance (Å⁴) of the MSD at two lags i ≤ j: that of a random walk, and white noise of the vibration on the diagonal.

    C_ij = b_i n_i²/(n_i n_j) + δ_ij (s_i² − b_i)      s_i: error of the MSD   n: independent windows

    b_i ≤ s_i² is the largest random-walk part for which C is positive definite (b n² must grow with the lag).
    """
    variance = curve.error.numpy() ** 2
    walk = np.minimum.accumulate((variance * windows**2)[::-1])[::-1]
    order = np.arange(len(windows))
    spread = walk[np.minimum.outer(order, order)] / np.outer(windows, windows)
    return spread + np.diag(variance - np.diag(spread))


def modelled_errors(curve: Curve, windows: Float[np.ndarray, " lag"], start: int) -> Curve:
    r"""The curve with the errors of a hopping walk around the line fitted from lag `start` on.

    s² n = q L + p L²      L: line c + m τ (Å²)   n: independent windows   q ≥ 0: from hops of finite length (Å²)
                           p ≥ 2/3: 2/3 for Gaussian displacements, more where some ions move and others do not

    p and q are fitted to the measured variances from 1 ps on. Errors read straight off the data would be small where the MSD
    happens to be small, and noisy at long lags where few windows are left: weights that follow them bias D and upset it.
    """
    y, variance, first = curve.y.numpy(), curve.error.numpy() ** 2 * windows, earliest_start(curve)
    if not ((variance[first:] > 0).all() and (y[first:] > 0).all()):
        return curve
    weight, late = np.sqrt(windows[first:]), y[first:]
    excess = weight * (variance[first:] / late**2 - 2 / 3)
    (heterogeneity, hop), _ = nnls(np.stack([weight, weight / late], axis=1), excess)
    line, fitted = y[start:], curve
    for _ in range(3):
        modelled = np.sqrt(((2 / 3 + heterogeneity) * line**2 + hop * line) / windows[start:])
        fitted = replace(curve, error=torch.cat([curve.error[:start], torch.from_numpy(modelled)]))
        slope, _, offset, _ = straight_line(fitted, windows, start)
        line = offset + slope * curve.x[start:].numpy()
        if not (line > 0).all():
            break
    return fitted


def choose_start(curve: Curve, windows: Float[np.ndarray, " lag"]) -> int:
    r"""Index of the first lag of the fit: the earliest from which the line agrees with those of twice and four times that lag.

    Candidates run from 1 ps (ballistic motion and vibration are over) to a quarter of the longest lag. If the MSD is
    straight from lag s on, the slopes of the efficient fits from s and from a later L obey var(m_L − m_s) = var(m_L) − var(m_s)
    (Hausman); s is refused where a difference exceeds three such standard deviations.

    Reference:
        Hausman, Econometrica 46, 1251 (1978), doi 10.2307/1913827.
    """
    lags = curve.x.numpy()
    first, last = earliest_start(curve), latest_start(curve)

    def fit(start: int) -> tuple[float, float, float, float]:
        return straight_line(modelled_errors(curve, windows, start), windows, start)

    for start in range(first, last):
        slope, error, *_ = fit(start)
        later = (fit(min(int(np.searchsorted(lags, k * lags[start])), last)) for k in (2, 4))
        if all((m - slope) ** 2 <= 3.0**2 * max(e**2 - error**2, 0.0) for m, e, *_ in later):
            return start
    return last


def earliest_start(curve: Curve) -> int:
    """Index of the first lag from 1 ps on, at most `latest_start`."""
    return min(int(np.searchsorted(curve.x.numpy(), RATTLING_TIME * (1 - 1e-9))), latest_start(curve))


def latest_start(curve: Curve, *, share: float = 0.25) -> int:
    """Index of the lag at `share` of the longest, with at least four lags left to fit."""
    return min(int(np.searchsorted(curve.x.numpy(), share * curve.x[-1].item())), len(curve.x) - 4)


def _given_start(curve: Curve, fit_from: float) -> int:
    lags = curve.x.numpy()
    start = int(np.searchsorted(lags, fit_from * (1 - 1e-9)))
    if start > len(lags) - 4:
        raise BadInput(
            "fit_from_ps",
            f"{fit_from / PS:g} ps",
            allowed=f"at most {lags[-4] / PS:.3g} ps here",
            fix="start earlier or run longer",
        )
    return start


def straight_line(curve: Curve, windows: Float[np.ndarray, " lag"], start: int) -> tuple[float, float, float, float]:
    """Generalised least squares of MSD = c + m τ from lag `start` on: m, its error (Å²/fs), c, its error (Å²)."""
    x, y = curve.x.numpy()[start:], curve.y.numpy()[start:]
    return _weighted_line(x, y, covariance(curve, windows)[start:, start:])


def _weighted_line(
    x: Float[np.ndarray, " lag"], y: Float[np.ndarray, " lag"], spread: Float[np.ndarray, "lag lag"]
) -> tuple[float, float, float, float]:
    weight = np.linalg.pinv(spread, hermitian=True)
    scale = float(np.abs(x).max())
    design = np.stack([x / scale, np.ones_like(x)], axis=1)
    parameters = np.linalg.pinv(design.T @ weight @ design, hermitian=True)
    slope, offset = parameters @ design.T @ weight @ y
    errors = np.sqrt(np.maximum(np.diag(parameters), 0.0))
    return float(slope / scale), float(errors[0] / scale), float(offset), float(errors[1])


def _long_slope(curve: Curve, windows: Float[np.ndarray, " lag"]) -> Estimate:
    """d ln(MSD)/d ln(τ) over the longest lags (a factor of five), with the error from the covariance."""
    near = np.flatnonzero((curve.x.numpy() >= curve.x[-1].item() / 5) & (curve.y.numpy() > 0))
    if len(near) < 3:
        return Estimate(value=None, error=None, unit="")
    x, y = np.log(curve.x.numpy()[near]), curve.y.numpy()[near]
    spread = covariance(curve, windows)[np.ix_(near, near)] / np.outer(y, y)
    slope, error, *_ = _weighted_line(x - x.mean(), np.log(y), spread)
    return Estimate(value=slope, error=error, unit="", samples=len(near))


def _sampled(curve: Curve, windows: Float[np.ndarray, " lag"], start: int, hops: int, seed: int) -> tuple[Estimate, float, float]:
    """Posterior of D (cm²/s), mean and standard deviation of the intercept (Å²), from kinisi."""
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
    offsets = np.asarray(regression.intercept.values) / square
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    tracer = Estimate(value=float(draws.mean()), error=float(draws.std()), unit="cm²/s", samples=hops, interval=(low, high))
    return tracer, float(offsets.mean()), float(offsets.std())


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


def _with_late_fit(tracer: Estimate, line: tuple[float, float, float, float]) -> Estimate:
    """The interval together with that of a fit to the longest lags (slope and error in Å²/fs)."""
    factor = DIFFUSIVITY_CM2_S / (2 * DIMENSIONS)
    low, high = tracer.interval or (0.0, 0.0)
    low, high = min(low, max(0.0, factor * (line[0] - 1.96 * line[1]))), max(high, factor * (line[0] + 1.96 * line[1]))
    return replace(tracer, error=max(float(tracer.error or 0.0), (high - low) / 3.92), interval=(low, high))

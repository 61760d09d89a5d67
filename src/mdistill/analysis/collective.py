"""Collective (charge) diffusivity of the mobile ions and the Haven ratio, with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mdistill.estimates import Estimate, unknown
from mdistill.units import DIFFUSIVITY_CM2_S, PS

AVERAGED = 1.0 * PS
"""Positions are averaged over this time (fs) first: vibrations then hardly leak into the low frequencies."""
SHORTEST_PERIOD = 4.0
"""Shortest period of the fit, in averaged frames."""
MOST_TERMS = 32
"""Most frequencies of a run, the lowest: one relaxation does not describe a wide spectrum of returns, and the terms of high
frequency would outweigh those that tell D."""
RESOLVED = 0.5
"""Largest relative error of a value; a wider one is given as an interval."""
SHORTEST_RUN = 8.0 * PS
"""A shorter run has hardly a period to fit (fs)."""
DRAWS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """Collective motion of one species.

    Attributes:
        diffusivity: Collective diffusivity of one ion's share (cm²/s); value None, with interval and limit: not resolved.
        haven: Haven ratio: tracer over collective diffusivity; the same where it is not resolved.
    """

    diffusivity: Estimate
    haven: Estimate


def collective_diffusion(
    moved: Sequence[Float[np.ndarray, "frame ion 3"]], spacing: float, *, tracer: Estimate, hops: int, seed: int = 0
) -> Collective:
    r"""Collective diffusivity and Haven ratio from independent runs of one state.

    D_c = lim ⟨|Σ_i Δr_i(τ)|²⟩/(6 N τ)      H = D/D_c      σ_c = N q² D_c/(V k_B T)      N ions of one charge q

    D_c is the spectral density of the summed velocity at frequency zero. The periodogram of Σ_i r_i has independent,
    exponentially distributed terms about S(ω) = D_c [1 + a (ωτ)²/(1 + (ωτ)²)]: a > 0 where ions return within τ. The posterior
    is summed over a and τ on a grid (prior of ln(1 + a): normal, width 1; τ: logarithmic, up to a twelfth of the run), so
    the choice of a diffusive regime adds to the error. D_c is widened by the count of the hops.

    Args:
        moved: Displacements (Å) in the frame of the host, one array a run.
        spacing: Time between frames (fs).
        tracer: Tracer diffusivity (cm²/s).
        hops: Hops of all ions and runs.
        seed: Seed of the draws.
    Reference:
        Whittle's likelihood for a transport coefficient: Ercole, Marcolongo and Baroni, Sci. Rep. 7, 15835 (2017),
        doi 10.1038/s41598-017-15843-2. Haven ratio: Murch, Solid State Ionics 7, 177 (1982), doi 10.1016/0167-2738(82)90050-9.
    """
    ions, rng = moved[0].shape[1], np.random.default_rng(seed)
    spectra = [_spectrum(run.sum(axis=1) / np.sqrt(ions), spacing) for run in moved if len(run) * spacing > SHORTEST_RUN]
    if not (spectra and hops):
        return Collective(diffusivity=unknown("cm²/s"), haven=unknown())
    omega, power, terms = (np.concatenate(part) for part in zip(*spectra, strict=True))
    longest = max(2.0 * np.pi / spectrum[0][1] for spectrum in spectra)
    drawn = DIFFUSIVITY_CM2_S * _posterior(omega, power, terms, longest=longest, rng=rng)
    drawn *= np.exp(rng.normal(size=DRAWS) / np.sqrt(max(1.0, hops * _correlation(tracer, drawn))))
    haven = unknown() if tracer.value is None else _estimate(_draws(tracer, rng) / drawn, "")
    return Collective(diffusivity=_estimate(drawn, "cm²/s"), haven=haven)


def _spectrum(walk: Float[np.ndarray, "frame 3"], spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angular frequencies (1/fs), periodogram (Å²/fs) summed over the axes, and its number of complex terms.

    Averages over m frames of a random walk have increments of the spectrum D [(2m² + 1) + (m² − 1) cos ωτ]/(3m²).
    """
    m = max(1, round(AVERAGED / spacing))
    count, step = len(walk) // m, m * spacing
    increments = np.diff(walk[: count * m].reshape(count, m, 3).mean(axis=1), axis=0)
    length = (count - 1) * step
    power = (np.abs(np.fft.rfft(increments, axis=0)) ** 2).sum(axis=1) / (2.0 * length)
    omega = 2.0 * np.pi * np.arange(len(power)) / length
    power /= ((2 * m**2 + 1) + (m**2 - 1) * np.cos(omega * step)) / (3 * m**2)
    terms = np.full(len(power), 3.0)
    terms[0], power[0] = terms[0] / 2.0, power[0] / 2.0
    slow = omega <= 2.0 * np.pi / (SHORTEST_PERIOD * step) * (1 + 1e-9)
    slow[MOST_TERMS:] = False
    return omega[slow], power[slow], terms[slow]


def _posterior(
    omega: np.ndarray, power: np.ndarray, terms: np.ndarray, *, longest: float, rng: np.random.Generator
) -> Float[np.ndarray, " draw"]:
    """Draws of the spectral density at frequency zero (Å²/fs); see `collective_diffusion`."""
    ratios = np.linspace(np.log(1 / 3), np.log(100.0), 25)
    times = np.geomspace(AVERAGED / 2, max(longest / 12, 2 * AVERAGED), 16)
    log_ratio, time = (grid.ravel() for grid in np.meshgrid(ratios, times, indexing="ij"))
    squared = (time[:, None] * omega) ** 2
    shape = 1.0 + np.expm1(log_ratio)[:, None] * squared / (1.0 + squared)
    scale, degrees = (power / shape).sum(axis=1), terms.sum()
    log_weight = -degrees * np.log(scale) - (np.log(shape) * terms).sum(axis=1) - 0.5 * log_ratio**2
    weight = np.exp(log_weight - log_weight.max())
    chosen = rng.choice(len(weight), size=DRAWS, p=weight / weight.sum())
    return np.asarray(scale[chosen] / rng.gamma(degrees, size=DRAWS))


def _correlation(tracer: Estimate, drawn: Float[np.ndarray, " draw"]) -> float:
    """Independent events for each hop: below 1 where ions hop together."""
    return 1.0 if tracer.value is None else min(1.0, tracer.value / float(np.median(drawn)))


def _draws(tracer: Estimate, rng: np.random.Generator) -> Float[np.ndarray, " draw"]:
    """The tracer diffusivity as a log-normal of its relative error."""
    relative = (tracer.error or 0.0) / float(tracer.value or 1.0)
    width = np.sqrt(np.log1p(relative**2))
    return np.asarray(float(tracer.value or 0.0) * np.exp(width * rng.normal(size=DRAWS) - width**2 / 2))


def _estimate(drawn: Float[np.ndarray, " draw"], unit: str) -> Estimate:
    value, error = float(np.median(drawn)), float(drawn.std())
    low, high = (float(v) for v in np.percentile(drawn, [2.5, 97.5]))
    if error > RESOLVED * value:
        return Estimate(value=None, error=None, unit=unit, interval=(low, high), upper_limit=high)
    return Estimate(value=value, error=error, unit=unit, interval=(low, high))

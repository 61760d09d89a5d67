r"""Features of a trajectory, one row for each mobile ion: spectra of its displacement in fixed bins of frequency.

    P_i(ν) = Δt/n Σ_a |FFT[r_ia(t) − ⟨r_ia⟩]|²      log10 of its mean in each bin (Å² ps)

r: displacement in the frame of the host, Å   Δt: time between frames, ps   n: number of frames   a: x, y, z. Summed over axes it
does not turn with the crystal, less its mean it does not move with it, and per time it does not depend on the length of the
trajectory: bins that a short one cannot resolve get the value of the lowest that it can. Diffusion shows as a slope of ν⁻² at low
frequency, vibration as bands.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mdistill.errors import BadInput

BINS, LOWEST_THZ, HIGHEST_THZ = 40, 0.04, 50.0
"""Number of bins, evenly spaced in the logarithm, and their range."""
_FLOOR = 1e-8


def displacement_spectra(moved: Float[np.ndarray, "frame ion 3"], spacing_ps: float) -> Float[np.ndarray, "ion bin"]:
    """log10 of the power spectra of displacements (Å² ps) in BINS fixed bins; see the head of this file.

    Args:
        moved: Displacements in the frame of the host, Å.
        spacing_ps: Time between frames, ps.
    Raises:
        BadInput: Fewer than 100 frames, values that are not finite, or no spacing.
    """
    frames = len(moved)
    if frames < 100 or not np.isfinite(moved).all() or not spacing_ps > 0.0:
        problem = f"{frames} frames every {spacing_ps:g} ps" + ("" if np.isfinite(moved).all() else ", some not finite")
        raise BadInput("trajectory", problem, allowed="at least 100 finite frames", fix="a longer run")
    power = (np.abs(np.fft.rfft(moved - moved.mean(axis=0), axis=0)) ** 2).sum(axis=2) * spacing_ps / frames
    edges = np.geomspace(LOWEST_THZ, HIGHEST_THZ, BINS + 1)
    place = np.digitize(np.fft.rfftfreq(frames, spacing_ps)[1:], edges) - 1
    inside = (place >= 0) & (place < BINS)
    total, count = np.zeros((BINS, moved.shape[1])), np.bincount(place[inside], minlength=BINS)
    np.add.at(total, place[inside], power[1:][inside])
    filled = np.flatnonzero(count)
    values = np.log10(np.maximum(total[filled] / count[filled, None], _FLOOR))
    return np.array([np.interp(np.arange(BINS), filled, column) for column in values.T])

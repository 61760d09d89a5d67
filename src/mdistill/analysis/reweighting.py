r"""From a student's ensemble to its teacher's: spread of the energy difference, share of useful samples, stiffness of the forces.

    ΔE = E_student − E_teacher      w = exp(βΔE)      β = 1/(k_B T)

Frames of the student's dynamics occur as exp(−βE_student); with weights w they occur as in the teacher's dynamics. Runs of each
student and ordering have their own offset of ΔE, which is removed: "run" below is such a group, and weights are relative within
it. Frames that were drawn with unequal probability carry a share c; Σc = 1.
Reference: Zwanzig, J. Chem. Phys. 22, 1420 (1954), doi 10.1063/1.1740409; Kish, Survey Sampling, Wiley 1965.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mdistill.estimates import Estimate, unknown

UNIT = "k_BT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Overlap of two ensembles.

    Attributes:
        width: Standard deviation of βΔE within a run (k_BT).
        useful: Share of the frames that count after reweighting.
        frames: Number of frames.
    """

    width: Estimate
    useful: Estimate
    frames: int


def centred(
    values: Float[np.ndarray, " frame"], shares: Float[np.ndarray, " frame"], runs: Int[np.ndarray, " frame"]
) -> Float[np.ndarray, " frame"]:
    """The values less their weighted mean in each run."""
    left = np.array(values, dtype=np.float64)
    for run in np.unique(runs):
        mine = runs == run
        left[mine] -= np.average(left[mine], weights=shares[mine])
    return left


def energy_spread(
    reduced: Float[np.ndarray, " frame"], shares: Float[np.ndarray, " frame"], runs: Int[np.ndarray, " frame"]
) -> Spread:
    r"""Spread of βΔE within runs, and the share of useful samples of a Gaussian of this spread.

    σ² = Σ c (βΔE − ⟨βΔE⟩_run)² / Σ_run (c_run − Σ_run c²/c_run)      ± σ/√(2ν),  ν = 1/Σc² − number of runs
    share = ⟨w⟩²/⟨w²⟩ = exp(−σ²)

    The Gaussian form is used because the sums ⟨w⟩ and ⟨w²⟩ of a few dozen frames are dominated by single frames.

    Args:
        reduced: βΔE of the frames.
        shares: c.
        runs: Number of the run of each frame.
    Returns:
        The spread; unknown where no run has two frames.
    """
    weights = shares / shares.sum()
    total = [weights[runs == run] for run in np.unique(runs)]
    freedom = 1.0 / float((weights**2).sum()) - len(total)
    norm = sum(float(c.sum() - (c**2).sum() / c.sum()) for c in total)
    if norm <= 1e-12 or freedom <= 0.0:
        return Spread(width=unknown(UNIT), useful=unknown(), frames=len(reduced))
    width = math.sqrt(float((weights * centred(reduced, weights, runs) ** 2).sum()) / norm)
    error, useful = width / math.sqrt(2.0 * freedom), math.exp(-(width**2))
    samples = max(1, round(freedom))
    return Spread(
        width=Estimate(value=width, error=error, unit=UNIT, samples=samples),
        useful=Estimate(value=useful, error=2.0 * width * error * useful, unit="", samples=samples), frames=len(reduced),
    )  # fmt: skip


def reweighted(
    reduced: Float[np.ndarray, " frame"], shares: Float[np.ndarray, " frame"], runs: Int[np.ndarray, " frame"]
) -> tuple[Float[np.ndarray, " frame"], float]:
    """Weights c·w of the frames, normalised in each run to its share, and their effective number (Σcw)²/Σ(cw)²."""
    weights = np.zeros(len(reduced))
    for run in np.unique(runs):
        mine = runs == run
        own = shares[mine] * np.exp(reduced[mine] - reduced[mine].max())
        weights[mine] = own * shares[mine].sum() / own.sum()
    return weights, float(weights.sum() ** 2 / (weights**2).sum())


def force_slope(
    teacher: Sequence[Float[np.ndarray, ...]], student: Sequence[Float[np.ndarray, ...]]
) -> tuple[Estimate, float | None]:
    r"""Slope of the student's force components against the teacher's through 0, with its error from frame to frame.

    b = Σ F_s F_t / Σ F_t²      1/b' = Σ F_s² / Σ F_s F_t

    b is the stiffness where the student's errors are independent of the teacher's forces; errors of a share η of the forces that
    are independent of the student's own forces lower it by η². Then 1/b' is the stiffness.

    Args:
        teacher, student: Forces (eV/Å) of each frame.
    Returns:
        b with the jackknife error over frames, and 1/b'.
    """
    both = np.array([float((s * t).sum()) for s, t in zip(student, teacher, strict=True)])
    theirs, ours = (np.array([float((f**2).sum()) for f in part]) for part in (teacher, student))
    if not len(both) or theirs.sum() <= 0.0:
        return unknown(), None
    slope = jackknife(lambda keep: float(both[keep].sum() / theirs[keep].sum()), len(both))
    return slope, float(ours.sum() / both.sum()) if both.sum() > 0.0 else None


def jackknife(statistic: Callable[[Int[np.ndarray, " kept"]], float], frames: int, unit: str = "") -> Estimate:
    """A statistic of frames with its jackknife error; none for a single frame."""
    everything = np.arange(frames)
    value = statistic(everything)
    if frames < 2:
        return Estimate(value=value, error=None, unit=unit, samples=frames)
    left = np.array([statistic(np.delete(everything, k)) for k in range(frames)])
    return Estimate(value=value, error=float(np.sqrt((frames - 1) * left.var())), unit=unit, samples=frames)

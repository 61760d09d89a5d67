r"""Correction of σ(300 K) by the sites and the predicted motion of a structure: a ridge on what trees leave over.

    ŷ = trees + Σ_k w_k z_k      z = (u − ū)/s      w = (ZᵀZ + λ n)⁻¹ Zᵀ (r − r̄)

u: INPUTS   ū, s: their mean and standard deviation over n entries   r: measured value less that of trees made without its group
λ = 1, not tuned: an input that is independent of the others keeps half of its least-squares weight.

An input beyond those of training counts as the nearest of them. Where a composition within CLOSE was measured, trees know its
value and leave over something else: there the correction made errors larger, and it is not used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from mdistill.crystals.crystal import Crystal
from mdistill.transport.ion_features import PHYSICS
from mdistill.transport.ion_rows import ion_structure
from mdistill.transport.motion import MotionModel
from mdistill.transport.obelix import NEAR
from mdistill.transport.predict_motion import predict_motion

SITES, COLD, HOT = 6, 600.0, 1200.0
"""Number of leading PHYSICS that count, and the two temperatures (K) of predicted motion."""
INPUTS = (*PHYSICS[:SITES], f"log10 MSD at {COLD:g} K (Å²)", f"growth of log10 MSD from {COLD:g} to {HOT:g} K")
CLOSE = NEAR / 2.0
"""Distance (half the sum of absolute differences of atomic fractions) to a measured composition up to which none is used."""
TRIES = 6
"""Corrections that were compared on the same entries: six and eight numbers of PHYSICS, predicted motion, both kinds together
(with six and with eight), and both where no composition is close."""
_LAMBDA = 1.0
_SLACK = 1e-3
"""Standard deviations beyond training that nobody is told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """ū, s and w (decades) of each input, and its range in training."""

    mean: Float[np.ndarray, " input"]
    deviation: Float[np.ndarray, " input"]
    weights: Float[np.ndarray, " input"]
    lowest: Float[np.ndarray, " input"]
    highest: Float[np.ndarray, " input"]

    def values(self, inputs: Float[np.ndarray, "entry input"]) -> Float[np.ndarray, " entry"]:
        """Corrections of entries, decades."""
        inside = np.clip(inputs, self.lowest, self.highest)
        return np.asarray((inside - self.mean) / self.deviation @ self.weights)

    def outside(self, inputs: Float[np.ndarray, " input"]) -> tuple[str, ...]:
        """Which inputs of a structure training does not know."""
        apart = np.maximum(self.lowest - inputs, inputs - self.highest) / self.deviation
        ranges = zip(INPUTS, inputs, self.lowest, self.highest, apart, strict=True)
        return tuple(
            f"correction: {name} is {value:.2f}, in training {low:.2f} to {high:.2f}; it counts as the nearest of these"
            for name, value, low, high, far in ranges if far > _SLACK
        )  # fmt: skip


ARRAYS = tuple(one.name for one in fields(Ridge))


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A ridge, and what it is worth on groups held out whole.

    Attributes:
        ridge: The ridge of all entries with a usable CIF.
        factors: Conformal factors (LEVELS) of corrected values.
        error, without: Mean absolute error (decades) of corrected entries, and of the same ones without the correction.
        gain: Its change of the error with a 95 % interval over groups that allows for TRIES.
        entries, groups: Numbers of corrected entries and their groups.
        motion: sha256 of the arrays of the model of motion that made the inputs.
    """

    ridge: Ridge
    factors: tuple[float, ...]
    error: float
    without: float
    gain: tuple[float, float, float]
    entries: int
    groups: int
    motion: str

    @property
    def shown(self) -> bool:
        """Whether the gain is beyond chance."""
        return self.gain[2] < 0.0


def worth(correction: Correction) -> str:
    """What the correction is worth, in two sentences."""
    gain, low, high = (f"{value:+.2f}".replace("-", "−") for value in correction.gain)
    return (
        f"On {correction.entries} held-out entries with a CIF and no close composition the error changes from"
        f" {correction.without:.2f} to {correction.error:.2f} decades: by {gain} (95 % {low} to {high}, allowing for {TRIES}"
        f" variants tried). {'The interval excludes zero' if correction.shown else 'So a gain is not shown beyond chance'}."
    )


def correction_inputs(crystal: Crystal, motion: MotionModel, *, mobile: int) -> Float[np.ndarray, " input"]:
    """INPUTS of a crystal with its occupancies as they are.

    Args:
        crystal: A bulk conductor of the mobile ion.
        motion: A model of motion of trees alone.
        mobile: Atomic number of the mobile ion.
    Raises:
        BadInput: No mobile ion.
    """
    structure = ion_structure(crystal, None, mobile=mobile)
    cold, hot = predict_motion(motion, structure, (COLD, HOT)).motions
    return np.array([*structure.physics[:SITES], cold.value, hot.value - cold.value])


def fit_ridge(inputs: Float[np.ndarray, "entry input"], residuals: Float[np.ndarray, " entry"]) -> Ridge:
    """The ridge of residuals (decades); a constant input gets no weight."""
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
    deviation = np.where(deviation > 1e-9 * (1.0 + np.abs(mean)), deviation, np.inf)
    scaled = (inputs - mean) / deviation
    normal = scaled.T @ scaled + _LAMBDA * len(inputs) * np.eye(inputs.shape[1])
    return Ridge(
        mean=mean, deviation=np.where(np.isfinite(deviation), deviation, 1.0), lowest=inputs.min(axis=0),
        weights=np.linalg.solve(normal, scaled.T @ (residuals - residuals.mean())), highest=inputs.max(axis=0),
    )  # fmt: skip

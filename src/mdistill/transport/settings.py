"""Settings of the transport predictor, and the constants that define its labels. No torch, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal

from mdistill.settings import SEEDS, refuse, setting, settings
from mdistill.training.settings import FitSettings

FLOOR = -10.0
"""log10 of the conductivity (S/cm) below which a measured value counts as this."""
DETECTION = -8.0
"""log10 of the conductivity (S/cm) below which a material counts as below detection."""
ROOM_K = (290.0, 310.0)
"""Temperatures, K, at which a conductivity counts as one of 300 K."""
LEAST_K, MOST_K = 100.0, 3000.0
"""Lowest and highest temperature, K, at which motion is predicted."""
LEVELS = (0.68, 0.95)
"""Levels of the two intervals that a prediction has."""
MOBILE = ("Li", "Na", "Ag", "Cu", "K")
"""Mobile ions in order of preference, where none is named."""
SPREAD = 0.5
"""Decades added to the spread of the trees, so that trees that happen to agree do not make an interval vanish."""


@settings
class TransportSettings:
    """Size and validation of the forests."""

    trees: int = setting(64, least=1, most=2000)
    """Trees of each of the two forests."""
    folds: int = setting(10, least=2, most=100)
    """Folds of the grouped cross-validation that sets the intervals."""
    share: float = setting(0.3, above=0.0, most=1.0)
    """Share of the features that a node tries; of the composition alone it tries all."""
    seed: int = setting(0, least=0, most=SEEDS)
    """Seed of trees and folds."""


@settings
class MotionSettings:
    """The predictor of motion at high temperature, from a trajectory set.

    Attributes:
        target: What is predicted: msd (log10 of the mean square displacement at lag_ps) or diffusivity (log10 of D).
        teaching: Distillation of trajectory and structure into the structure: ridge (closed form), or none.
        expansion: Features: pca (leading directions), cubic (with squares and cubes), none (as they are).
        components: Number of directions.
        trees: Number of trees on composition, ion network and temperature; 0: none.
        members: Number of nets taught by trajectories, which are averaged with the trees; 0: none.
        folds: Folds of the grouped cross-validation.
        alone: Weight of the loss of the structure branch alone.
        ridge: λ of the closed form over the mean diagonal.
        steps: Steps of a fit; fine-tuning takes a fifth.
        seed: Seed of weights and folds.
    """

    target: Literal["msd", "diffusivity"] = "msd"
    teaching: Literal["ridge", "none"] = "ridge"
    expansion: Literal["pca", "cubic", "none"] = "pca"
    components: int = setting(8, least=1, most=448)
    trees: int = setting(64, least=0, most=2000)
    members: int = setting(0, least=0, most=100)
    folds: int = setting(5, least=2, most=100)
    alone: float = setting(1.0, least=0.0, most=1e3)
    ridge: float = setting(1e-2, above=0.0, most=1e3)
    steps: int = setting(400, least=5, most=10**6)
    seed: int = setting(0, least=0, most=SEEDS)

    def __post_init__(self) -> None:
        if not self.trees and not self.members:
            refuse(self, "members", allowed="at least 1 where trees is 0", fix="--motion.members 3")

    def fit(self) -> FitSettings:
        """Steps and rates of g."""
        return FitSettings(
            steps=self.steps, batch_size=8, learning_rate=3e-3, weight_decay=0.01, warmup=min(20, self.steps), ema=0.98
        )

    def fine_tune(self) -> FitSettings:
        """Steps and rates of fine-tuning."""
        return FitSettings(
            steps=max(1, self.steps // 5), batch_size=8, learning_rate=2e-4, weight_decay=0.01, warmup=20, ema=0.98
        )

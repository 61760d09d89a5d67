"""Settings of the transport predictor, and the constants that define its labels. No torch, so that `--help` is quick."""

from __future__ import annotations

from mdistill.settings import SEEDS, setting, settings

FLOOR = -10.0
"""log10 of the conductivity (S/cm) below which a measured value counts as this."""
DETECTION = -8.0
"""log10 of the conductivity (S/cm) below which a material counts as below detection."""
LEVELS = (0.68, 0.95)
"""Levels of the two intervals that a prediction has."""
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

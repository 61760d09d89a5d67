"""The `Curve` type of the estimators."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A measured function y(x).

    Attributes:
        x: [point] abscissa in x_unit.
        y: [point] ordinate in y_unit.
        error: [point] one standard error of y.
        x_unit: Unit of x.
        y_unit: Unit of y and error, "" for a pure number.
        label: What it shows, e.g. "Li–S".
        blocks: [block, point] y of each time block, where the error comes from blocks; None elsewhere.
    """

    x: Float[Tensor, " point"]
    y: Float[Tensor, " point"]
    error: Float[Tensor, " point"]
    x_unit: str
    y_unit: str
    label: str = ""
    blocks: Float[Tensor, "block point"] | None = None

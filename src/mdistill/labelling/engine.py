"""Engines label structures: any potential, and later external programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import curvature_products
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.types import CurvedPotential, Potential, Prediction, System


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Labels of one structure by an engine.

    Attributes:
        prediction: Energy, forces and stress.
        products: Curvature products H·v (eV/Å²) along the given directions; None without directions.
    """

    prediction: Prediction
    products: Float[Tensor, "probe atom 3"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Reason for a missing or unusable answer.

    Attributes:
        reason: The reason, as a sentence.
        retry: Whether another attempt may succeed.
        engine_failed: Whether the engine failed, not the structure.
    """

    reason: str
    retry: bool = False
    engine_failed: bool = True


@runtime_checkable
class Engine(Protocol):
    """Labels one structure. `elements` is empty where any element is accepted."""

    @property
    def name(self) -> str: ...
    @property
    def elements(self) -> frozenset[int]: ...
    def label(
        self, system: System, folder: Path, *, probes: Float[Tensor, "probe atom 3"] | None = None,
        known: Prediction | None = None,
    ) -> Answer | Failure:  # fmt: skip
        """Energy, forces, stress, and curvature products along `probes`.

        Args:
            system: One struct.
            folder: For the engine's own files; made by the engine where it needs one.
            probes: Directions.
            known: The prediction, where it is known.
        Raises:
            BadInput: The engine does not know an element.
        """
        ...


@dataclass(frozen=True, slots=True)
class PotentialEngine:
    """A potential as an engine."""

    potential: Potential

    @property
    def name(self) -> str:
        return self.potential.name

    @property
    def elements(self) -> frozenset[int]:
        return self.potential.elements

    def label(
        self, system: System, folder: Path, *, probes: Float[Tensor, "probe atom 3"] | None = None,
        known: Prediction | None = None,
    ) -> Answer | Failure:  # fmt: skip
        try:
            prediction = self.potential(build_graph(system, self.potential.cutoff)) if known is None else known
            products = None if probes is None else curvature_products(self.potential, system, probes)
        except BadInput:
            raise
        except Exception as error:
            return Failure(reason=f"{type(error).__name__}: {error}", retry=True)
        return Answer(prediction=prediction, products=products)


def as_engine(source: Potential | Engine) -> Engine:
    """An engine as it is, a potential as an engine."""
    return source if isinstance(source, Engine) else PotentialEngine(source)


def curvature_calls(source: Potential | Engine | None, probes: int) -> int:
    """Approximate number of energy and force calls for `probes` curvature directions on one structure."""
    return 2 * probes + isinstance(source, CurvedPotential)

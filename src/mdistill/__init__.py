"""Distil molecular dynamics into fast models that people can trust. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "errors", "BlowUp": "errors", "MdistillError": "errors", "Estimate": "estimates", "System": "types",
    "Trajectory": "types", "load": "teachers.models", "calculator": "export.ase", "read_structure": "io.structures",
    "read_system": "io.structures", "read_trajectory": "io.import_trajectory", "simulate": "api", "distill": "api",
    "analyse": "api", "screen": "api", "Outcome": "outcome", "SimulateSettings": "simulation.settings",
    "DistillSettings": "workflows.distill_settings", "AnalyseSettings": "workflows.settings", "LabelStore": "data.store",
    "LabelledFrame": "types", "import_labels": "labelling.import_labels", "LabelFileSettings": "labelling.settings",
}  # fmt: skip
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mdistill' has no attribute {name!r}")
    return getattr(import_module(f"mdistill.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""Distil molecular dynamics into fast models that people can trust. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "System": "mdistill.types",
    "Estimate": "mdistill.estimates",
    "Trajectory": "mdistill.types",
    "BadInput": "mdistill.errors",
    "BlowUp": "mdistill.errors",
    "MdistillError": "mdistill.errors",
    "load": "mdistill.teachers.models",
    "calculator": "mdistill.export.ase",
    "simulate": "mdistill.simulation.simulate",
    "SimulateSettings": "mdistill.simulation.settings",
    "distill": "mdistill.workflows.distill",
    "DistillSettings": "mdistill.workflows.distill_settings",
    "read_structure": "mdistill.io.structures",
    "read_system": "mdistill.io.structures",
    "read_trajectory": "mdistill.io.import_trajectory",
}

__all__ = [
    "__version__",
    "System",
    "Estimate",
    "Trajectory",
    "BadInput",
    "BlowUp",
    "MdistillError",
    "load",
    "calculator",
    "simulate",
    "SimulateSettings",
    "distill",
    "DistillSettings",
    "read_structure",
    "read_system",
    "read_trajectory",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mdistill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

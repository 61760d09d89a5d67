"""MACE, ORB, MatterSim, UPET and newer SevenNet models through the ASE calculators of their packages, from local weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdistill.io.files import sha256
from mdistill.teachers.ase import AseTeacher
from mdistill.teachers.cards import Teacher


def load_by_calculator(card: Teacher, weights: Path, *, device: str, timeout_s: float) -> AseTeacher:
    """A teacher from its package and a file of weights; `timeout_s`: longest call, s.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    make = {"mace-torch": _mace, "orb-models": _orb, "mattersim": _mattersim, "upet": _upet, "sevenn": _sevennet}[card.package]
    made = make(card, str(weights), device)
    return AseTeacher(calculator=made, name=card.name, sha256=sha256(weights), timeout_s=timeout_s)


def _mace(_: Teacher, weights: str, device: str) -> Any:
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=weights, device=device, default_dtype="float64")


def _orb(card: Teacher, weights: str, device: str) -> Any:
    """Of orb-models before 0.6 a function gives the model, later the model and what makes its graphs."""
    from orb_models.forcefield import pretrained

    make: Callable[..., Any] = getattr(pretrained, card.model)
    loaded = make(weights_path=weights, device=device, precision="float32-highest", compile=False)
    if not isinstance(loaded, tuple):
        from orb_models.forcefield.calculator import ORBCalculator

        return ORBCalculator(loaded, device=device)
    from orb_models.forcefield.inference.calculator import ORBCalculator as Calculator

    model, adapter = loaded
    return Calculator(model, atoms_adapter=adapter, device=device)


def _mattersim(_: Teacher, weights: str, device: str) -> Any:
    from mattersim.forcefield import MatterSimCalculator

    return MatterSimCalculator(load_path=weights, device=device)


def _upet(_: Teacher, weights: str, device: str) -> Any:
    try:
        from upet.ase import UPETCalculator
    except ModuleNotFoundError as error:
        if error.name != "upet.ase":
            raise
        from upet.calculator import UPETCalculator
    return UPETCalculator(checkpoint_path=weights, device=device)


def _sevennet(card: Teacher, weights: str, device: str) -> Any:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(model=weights, device=device, modal=card.model or None)

"""Teachers: foundation potentials and any ASE calculator, each as a `Potential`.

`load_teacher("sevennet-0")` needs the teacher's package; weights come with it or are fetched by `mdistill download`, never at
import or load. What a teacher's package prints or warns about goes to the log "mdistill.teachers", never to stdout or stderr.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from mdistill.errors import MdistillError, MissingPackage
from mdistill.graph import build_graph, make_system
from mdistill.notices import notify
from mdistill.settings import USUAL_TIMEOUT
from mdistill.teachers.cards import DISPERSION, Teacher, card_of, find_teacher
from mdistill.teachers.cards import TEACHERS as TEACHERS
from mdistill.teachers.devices import resolve_device
from mdistill.teachers.dispersion import Dispersed, with_dispersion
from mdistill.teachers.weights import advice, conflicts, needed_weights
from mdistill.types import Potential, Prediction, System

LOG = logging.getLogger("mdistill.teachers")
MODULES = {
    "sevenn": "sevenn", "chgnet": "chgnet", "mace-torch": "mace", "orb-models": "orb_models", "mattersim": "mattersim",
    "upet": "upet", "tblite": "tblite",
}  # fmt: skip
"""The module of each package."""
GOLDEN_LIMITS = {"energy": 1e-5, "forces": 1e-4, "stress": 1e-5}
"""Largest deviation from the stored golden answers: eV/atom, eV/Å, eV/Å³."""


def load_teacher(name: str, *, device: str = "cpu", subject: str = "teacher", timeout_s: float = USUAL_TIMEOUT) -> Potential:
    """A teacher by name (`TEACHERS`), or any ASE calculator by import path ("ase.calculators.emt:EMT").

    Args:
        name: Case does not matter for known names. "+d3" after one adds the dispersion of its functional. An import path is
            "module:attribute", where the attribute is a calculator or is called without arguments to make one.
        device: "cpu", "cuda", "cuda:N", or "auto" (cuda if there is one). Calculators by import path choose theirs themselves.
        subject: Name of the flag or argument, for messages.
        timeout_s: Longest call of an ASE calculator, s.
    Raises:
        BadInput: Unknown name, or an import path that leads to no calculator.
        MissingPackage: The teacher's package is not installed (the message holds the pip line).
        MdistillError: It cannot be loaded beside packages of other versions.
    """
    if ":" in name:
        from mdistill.teachers.ase import import_calculator

        with captured(name):
            return import_calculator(name, subject=subject, timeout_s=timeout_s)
    card, place = find_teacher(name, subject=subject), resolve_device(device)
    if card.dispersion:
        base = load_teacher(card.name.removesuffix(DISPERSION), device=device, subject=subject, timeout_s=timeout_s)
        return with_dispersion(base, card.dispersion, card.name)
    wrong = conflicts(card)
    if not installed(card):
        beside = f"; {advice(wrong)}" if wrong else ""
        raise MissingPackage(card.package, f"{card.pip_line}{beside}", f"teacher {card.name}")
    if wrong:
        notify(f"teacher {card.name}: {advice(wrong)}")
    try:
        with captured(card.name):
            return _loaded(card, place, name, subject, timeout_s)
    except ModuleNotFoundError as error:
        raise MissingPackage(error.name or card.package, card.pip_line, f"teacher {card.name}") from error
    except MdistillError:
        raise
    except Exception as error:
        if not wrong:
            raise
        cause = f"{type(error).__name__}: {str(error)[:200]}"
        raise MdistillError(f"teacher {card.name} could not be loaded ({cause})\n  fix: {advice(wrong)}") from error


def installed(card: Teacher) -> bool:
    """Whether the package of a teacher can be imported."""
    name = MODULES[card.package]
    return name in sys.modules or find_spec(name) is not None


def _loaded(card: Teacher, device: str, name: str, subject: str, timeout_s: float) -> Potential:
    if card.package == "tblite":
        from mdistill.teachers.xtb import load_xtb

        return load_xtb(card, name, timeout_s=timeout_s)
    if card.weights is not None:
        from mdistill.teachers.by_calculator import load_by_calculator

        return load_by_calculator(card, needed_weights(card, subject=subject), device=device, timeout_s=timeout_s)
    if card.package == "chgnet":
        from mdistill.teachers.chgnet import load_chgnet

        return load_chgnet(card.name, device=device)
    from mdistill.teachers.sevennet import load_sevennet

    return load_sevennet(card.name, device=device)


@contextmanager
def captured(subject: str) -> Iterator[None]:
    """Send what the block prints or warns about to the log instead of the terminal."""
    text = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(text), redirect_stderr(text):
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for line in (*(f"{w.category.__name__}: {w.message}" for w in caught), *text.getvalue().splitlines()):
                LOG.info("%s: %s", subject, line)


def golden(name: str) -> dict[str, Any]:
    """The stored answers of a teacher's own ASE calculator: {command, versions, frames: [{structure, energy, …}]}; {} without."""
    return json.loads(files("mdistill.teachers").joinpath("golden.json").read_text(encoding="utf-8")).get(name, {})


def check_teacher(potential: Potential, name: str, *, system: System | None = None) -> dict[str, float]:
    """Compare a loaded teacher with its stored golden answers; guards against code and weights that do not match.

    Args:
        potential: The teacher.
        name: Its name.
        system: One struct for checking that a calculator without golden answers keeps the order of atoms
            (two calls).
    Returns:
        Largest deviations: energy (eV/atom), forces (eV/Å), stress (eV/Å³); empty without golden answers.
    Raises:
        MdistillError: A deviation above `GOLDEN_LIMITS`, or forces that do not follow the atoms.
    """
    card = card_of(name)
    if isinstance(potential, Dispersed):
        return check_teacher(potential.base, name.strip().lower().removesuffix(DISPERSION), system=system)
    if card is None or "@" in name or not golden(card.name):
        if system is not None:
            _check_order(potential, system)
        return {}
    stored = golden(card.name)
    worst = dict.fromkeys(GOLDEN_LIMITS, 0.0)
    for frame in stored["frames"]:
        prediction = potential(build_graph(golden_system(frame), potential.cutoff))
        atoms = len(frame["numbers"])
        parts = {
            "energy": (prediction.energy.cpu().numpy() - frame["energy"]) / atoms,
            "forces": prediction.forces.cpu().numpy() - np.array(frame["forces"]),
            "stress": 0.0 if frame["stress"] is None else _stress(prediction) - np.array(frame["stress"]),
        }
        worst = {key: max(worst[key], float(np.nan_to_num(np.abs(parts[key]), nan=np.inf).max())) for key in worst}
    wrong = {key: value for key, value in worst.items() if value > GOLDEN_LIMITS[key]}
    if wrong:
        raise MdistillError(
            f"teacher {card.name}: its answers differ from the stored ones by {wrong}; package and weights do not match.\n"
            f"  stored with: {stored['versions']}\n  fix: {card.pip_line}"
        )
    return worst


def _stress(prediction: Prediction) -> np.ndarray:
    return np.full((3, 3), np.nan) if prediction.stress is None else prediction.stress[0].cpu().numpy()


def _check_order(potential: Potential, system: System) -> None:
    """Forces of a structure and of the same structure with its atoms in reverse order must be each other's reverse."""
    noise = torch.randn(system.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = replace(system, positions=system.positions + 0.05 * noise.to(system.positions))
    turned = replace(moved, positions=moved.positions.flip(0), numbers=moved.numbers.flip(0))
    forces, other = (potential(build_graph(part, potential.cutoff)).forces for part in (moved, turned))
    if float((forces - other.flip(0)).abs().max()) > 0.05 * float(forces.abs().max()):
        raise MdistillError(f"teacher {potential.name}: its forces do not follow the atoms when their order changes")


def golden_system(frame: dict[str, Any]) -> System:
    """The structure of a golden frame."""
    return make_system(np.array(frame["positions"]), np.array(frame["numbers"]), np.array(frame["cell"]), frame["pbc"])

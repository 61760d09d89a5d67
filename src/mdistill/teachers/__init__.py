"""Teachers: foundation potentials and any ASE calculator, each as a `Potential`.

`load_teacher("sevennet-0")` needs the teacher's package; its weights come with it. What a teacher's package prints or
warns about while it is imported goes to the log "mdistill.teachers", never to stdout or stderr.
"""

from __future__ import annotations

import difflib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from mdistill.errors import BadInput, MdistillError, MissingPackage
from mdistill.graph import build_graph, make_system
from mdistill.types import Potential, System

LOG = logging.getLogger("mdistill.teachers")
GOLDEN_LIMITS = {"energy": 1e-5, "forces": 1e-4, "stress": 1e-5}
"""Largest deviation from the stored golden answers: eV/atom, eV/Å, eV/Å³."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """What a user should know about a foundation potential.

    Attributes:
        name: The id its owners use, lower case.
        aliases: Other accepted ids.
        package: The package that holds code and weights; also the name of mdistill's extra.
        functional: The level of theory it imitates.
        data: Its training data.
        citation: Key of the reference (`mdistill cite`).
    """

    name: str
    aliases: tuple[str, ...] = ()
    package: str
    extra: str
    functional: str
    data: str
    citation: str

    @property
    def pip_line(self) -> str:
        return f'pip install "mdistill[{self.extra}]"'


_CARDS = [
    Teacher(
        name="sevennet-0", aliases=("7net-0",), package="sevenn", extra="sevennet", functional="PBE (+U)", data="MPtrj",
        citation="sevennet",
    ),
    Teacher(
        name="sevennet-l3i5", aliases=("7net-l3i5",), package="sevenn", extra="sevennet", functional="PBE (+U)", data="MPtrj",
        citation="sevennet",
    ),
    Teacher(
        name="sevennet-mf-0", aliases=("7net-mf-0", "sevennet-mf-0-r2scan", "7net-mf-0-r2scan"),
        package="sevenn", extra="sevennet", functional="r2SCAN", data="MPtrj (PBE) and MP r2SCAN",
        citation="sevennet-mf",
    ),
    Teacher(
        name="sevennet-mf-0-pbe", aliases=("7net-mf-0-pbe",), package="sevenn", extra="sevennet",
        functional="PBE (+U)", data="MPtrj (PBE) and MP r2SCAN", citation="sevennet-mf",
    ),
    Teacher(
        name="chgnet", aliases=("chgnet-0.3.0",), package="chgnet", extra="chgnet", functional="PBE (+U)", data="MPtrj",
        citation="chgnet",
    ),
]  # fmt: skip
TEACHERS: dict[str, Teacher] = {card.name: card for card in _CARDS}


def find_teacher(name: str, *, subject: str = "teacher") -> Teacher:
    """The card of a foundation potential, by name or alias in any case.

    Raises:
        BadInput: No such teacher; the message names the nearest one.
    """
    known = {alias: card for card in _CARDS for alias in (card.name, *card.aliases)}
    asked = name.strip().lower().replace("_", "-")
    if asked in known:
        return known[asked]
    close = difflib.get_close_matches(asked, known, n=1, cutoff=0.5)
    problem, fix = f"{name!r} is not known", f"did you mean {close[0]!r}?" if close else 'name one of these, e.g. "sevennet-0"'
    raise BadInput(subject, problem, allowed=", ".join(TEACHERS) + ', or "module:attribute" of an ASE calculator', fix=fix)


def load_teacher(name: str, *, device: str = "cpu", subject: str = "teacher") -> Potential:
    """A teacher by name (`TEACHERS`), or any ASE calculator by import path ("ase.calculators.emt:EMT").

    Args:
        name: Case does not matter for known names. An import path is "module:attribute", where the attribute is a
            calculator or is called without arguments to make one.
        device: "cpu", "cuda", or "auto" (cuda if there is one). ASE calculators choose theirs themselves.
        subject: Name of the flag or argument, for messages.
    Raises:
        BadInput: Unknown name, or an import path that leads to no calculator.
        MissingPackage: The teacher's package is not installed (the message holds the pip line).
    """
    if ":" in name:
        from mdistill.teachers.ase import import_calculator

        with captured(name):
            return import_calculator(name, subject=subject)
    card = find_teacher(name, subject=subject)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        with captured(card.name):
            if card.package == "chgnet":
                from mdistill.teachers.chgnet import load_chgnet

                return load_chgnet(card.name, device=place)
            from mdistill.teachers.sevennet import load_sevennet

            return load_sevennet(card.name, device=place)
    except ModuleNotFoundError as error:
        raise MissingPackage(error.name or card.package, card.pip_line, f"teacher {card.name}") from error


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
    """The stored answers of a teacher's own ASE calculator: {command, versions, frames: [{structure, energy, …}]}."""
    return json.loads(files("mdistill.teachers").joinpath("golden.json").read_text(encoding="utf-8"))[name]


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
    if ":" in name:
        if system is not None:
            _check_order(potential, system)
        return {}
    card = find_teacher(name)
    stored = golden(card.name)
    worst = dict.fromkeys(GOLDEN_LIMITS, 0.0)
    for frame in stored["frames"]:
        prediction = potential(build_graph(golden_system(frame), potential.cutoff))
        atoms = len(frame["numbers"])
        parts = {
            "energy": (prediction.energy.cpu().numpy() - frame["energy"]) / atoms,
            "forces": prediction.forces.cpu().numpy() - np.array(frame["forces"]),
            "stress": (np.nan if prediction.stress is None else prediction.stress[0].cpu().numpy()) - np.array(frame["stress"]),
        }
        worst = {key: max(worst[key], float(np.nan_to_num(np.abs(parts[key]), nan=np.inf).max())) for key in worst}
    wrong = {key: value for key, value in worst.items() if value > GOLDEN_LIMITS[key]}
    if wrong:
        raise MdistillError(
            f"teacher {card.name}: its answers differ from the stored ones by {wrong}; package and weights do not match.\n"
            f"  stored with: {stored['versions']}\n  fix: {card.pip_line}"
        )
    return worst


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

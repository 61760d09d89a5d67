"""Any ASE calculator as a `Potential`, with its answers checked before anyone uses them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.errors import BadInput, MdistillError
from mdistill.graph import split
from mdistill.io.structures import to_atoms
from mdistill.processes import time_limit
from mdistill.settings import USUAL_TIMEOUT
from mdistill.types import Graph, Prediction, System


class TeacherFailure(MdistillError):
    """A teacher raised, or its answer cannot be used: not finite, of another shape, precision or atom order."""


def from_calculator(calculator: Any, *, name: str = "", timeout_s: float = USUAL_TIMEOUT) -> AseTeacher:
    """An ASE calculator object as a `Potential` (forces and stress in its own precision, at least float32).

    Args:
        calculator: Anything with `get_property(name, atoms)`, as ASE calculators have.
        name: Shown in results; the class name by default.
        timeout_s: Longest call, s.
    Raises:
        BadInput: Not a calculator.
    """
    if not hasattr(calculator, "get_property") or isinstance(calculator, type):
        problem, allowed = f"{calculator!r} is no ASE calculator", "an object with get_property(name, atoms)"
        raise BadInput("teacher", problem, allowed=allowed, fix="pass an instance, e.g. ase.calculators.emt.EMT()")
    return AseTeacher(calculator=calculator, name=name or type(calculator).__name__.lower(), timeout_s=timeout_s)


def import_calculator(path: str, *, subject: str = "teacher", timeout_s: float = USUAL_TIMEOUT) -> AseTeacher:
    """An ASE calculator from "module:attribute" or "./file.py:attribute"; what is no calculator is called without arguments.

    Raises:
        BadInput: The module or attribute does not exist, or gives no calculator.
    """
    module_name, _, attribute = path.removeprefix("ase:").rpartition(":")
    allowed, fix = '"module:attribute"', 'check the spelling, e.g. "ase.calculators.emt:EMT"'
    if not module_name.endswith(".py") and os.path.isfile(beside := f"{module_name}.py"):
        fix = f"name the file: ./{beside}:{attribute}"
    try:
        with time_limit(max(timeout_s, USUAL_TIMEOUT)):
            module = _module_of_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        calculator = getattr(module, attribute)
    except (Exception, SystemExit) as error:
        problem = f"{path!r} cannot be imported ({type(error).__name__}: {error})"
        raise BadInput(subject, problem, allowed=allowed, fix=fix) from error
    try:
        with time_limit(max(timeout_s, USUAL_TIMEOUT)):
            made = calculator if hasattr(calculator, "get_property") and not isinstance(calculator, type) else calculator()
    except (Exception, SystemExit) as error:
        without = isinstance(error, TypeError)
        problem = f"{path!r} {'cannot be called without arguments' if without else 'failed'} ({type(error).__name__}: {error})"
        raise BadInput(subject, problem, allowed=allowed, fix=fix) from error
    return from_calculator(made, name=path, timeout_s=timeout_s)


def _module_of_file(path: Path) -> ModuleType:
    """The module in a Python file, which runs."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AseTeacher:
    """An ASE calculator as a `Potential`, evaluated one struct at a time. It needs no edges (cutoff 0).

    Attributes:
        calculator, name: The calculator; its name in results.
        sha256: Of its file of weights, where it has one.
        timeout_s: Longest time of one struct, s. Every call anywhere has this limit.
    """

    calculator: Any
    name: str
    sha256: str = ""
    cutoff: float = 0.0
    elements: frozenset[int] = frozenset()
    timeout_s: float = USUAL_TIMEOUT

    def __call__(self, graph: Graph) -> Prediction:
        answers = [self._ask(part) for part in split(graph.system)]
        like = graph.system.positions
        stresses = [stress for _, _, stress in answers if stress is not None]
        return Prediction(
            energy=torch.tensor([energy for energy, _, _ in answers], dtype=like.dtype, device=like.device),
            forces=torch.from_numpy(np.concatenate([forces for _, forces, _ in answers])).to(like),
            stress=torch.from_numpy(np.stack(stresses)).to(like) if len(stresses) == len(answers) else None,
        )

    def _ask(self, system: System) -> tuple[float, Float[np.ndarray, "atom 3"], Float[np.ndarray, "3 3"] | None]:
        atoms = to_atoms(system)
        periodic = bool(system.pbc.all())
        try:
            with time_limit(self.timeout_s):
                energy = self.calculator.get_property("energy", atoms)
                forces = self.calculator.get_property("forces", atoms)
                stress = self.calculator.get_property("stress", atoms) if periodic and self._has_stress() else None
        except TimeoutError as error:
            longer = "longer calls: --timeout-s, in distill --label.timeout-s"
            raise TeacherFailure(f"{self.name}: {error} (atoms: {len(atoms)}; {longer})") from error
        except BadInput:
            raise
        except Exception as error:
            raise TeacherFailure(f"{self.name}: the calculation failed ({type(error).__name__}: {error})") from error
        self._check_order(atoms)
        energy = self._checked("energy", np.asarray(energy).reshape(-1), (1,))
        forces = self._checked("forces", forces, (len(atoms), 3))
        return float(energy[0]), forces, None if stress is None else self._tensor(stress)

    def _has_stress(self) -> bool:
        return "stress" in getattr(self.calculator, "implemented_properties", ("stress",))

    def _tensor(self, stress: Any) -> Float[np.ndarray, "3 3"]:
        if np.shape(stress) == (3, 3):
            full = self._checked("stress", stress, (3, 3))
            return 0.5 * (full + full.T)
        xx, yy, zz, yz, xz, xy = self._checked("stress", stress, (6,))
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])

    def _checked(self, what: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = np.asarray(value)
        if array.shape != shape:
            raise TeacherFailure(f"{self.name}: {what} has shape {array.shape}, not {shape}")
        if array.dtype.kind in "fiu" and array.dtype.itemsize < 4:
            raise TeacherFailure(f"{self.name}: {what} is {array.dtype}: too coarse for labels; float32 is the least")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise TeacherFailure(f"{self.name}: {what} is not finite")
        return array.astype(np.float64)

    def _check_order(self, atoms: Any) -> None:
        """Check that the calculator computed the structure that it was given."""
        computed = getattr(self.calculator, "atoms", None)
        if computed is None:
            return
        if not np.array_equal(computed.numbers, atoms.numbers) or np.abs(computed.positions - atoms.positions).max() > 1e-6:
            raise TeacherFailure(f"{self.name}: it computed another structure than it was given (atom order changed?)")


def refuse_unknown(numbers: Int[Tensor, " atom"], elements: frozenset[int], name: str) -> None:
    """Raise `BadInput` that names the elements a potential does not know."""
    unknown = set(torch.unique(numbers).tolist()) - elements
    if unknown:
        from ase.data import chemical_symbols

        symbols = ", ".join(chemical_symbols[k] for k in sorted(unknown))
        raise BadInput(
            "structure", f"{name} does not know {symbols}", allowed=f"{len(elements)} elements: "
            + " ".join(chemical_symbols[k] for k in sorted(elements)), fix="choose another teacher (mdistill doctor lists them)",
        )  # fmt: skip

r"""D3 dispersion added to a foundation potential whose level of theory has none: "sevennet-0+d3".

E = E_teacher − Σ_{i<j} Σ_{n=6,8} s_n C_n^ij / (r_ij^n + R_ij^n)        R_ij = a_1 (C_8^ij/C_6^ij)^½ + a_2

C_n: coefficients of the pair, which depend on the coordination of both atoms   s, a: constants of the density functional
Pairs of atoms up to 60 Bohr apart, without the three-body term. By `dftd3`, on one core.

Reference: S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011), doi 10.1002/jcc.21759.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from mdistill.errors import MissingPackage
from mdistill.graph import split
from mdistill.runs.identity import model_id
from mdistill.teachers.ase import TeacherFailure
from mdistill.types import Graph, Potential, Prediction, System
from mdistill.units import BOHR, HARTREE

PIP = 'pip install "mdistill[d3]"'
_HEAVIEST = 94


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dispersed:
    """A potential and the D3 dispersion of its functional, as a `Potential`.

    Attributes:
        base: The potential without dispersion.
        functional: Its functional, as `dftd3` names it: "pbe".
        name: The name of both.
    """

    base: Potential
    functional: str
    name: str

    @property
    def cutoff(self) -> float:
        """Of `base`: pairs of the dispersion are found apart."""
        return self.base.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.base.elements & frozenset(range(1, _HEAVIEST + 1))

    @property
    def sha256(self) -> str:
        return f"{model_id(self.base)}+d3({self.functional})"

    def __call__(self, graph: Graph) -> Prediction:
        given, added = self.base(graph), dispersion(split(graph.system), self.functional)
        stress = None if given.stress is None or added.stress is None else given.stress + added.stress.to(given.stress)
        energy, forces = given.energy + added.energy.to(given.energy), given.forces + added.forces.to(given.forces)
        return replace(given, energy=energy, forces=forces, stress=stress, atomic=None)


def with_dispersion(base: Potential, functional: str, name: str) -> Dispersed:
    """A potential with the D3 dispersion of its functional.

    Raises:
        MissingPackage: `dftd3` is not installed.
    """
    _parameters(functional)
    return Dispersed(base=base, functional=functional, name=name)


def dispersion(systems: Sequence[System], functional: str) -> Prediction:
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of dispersion alone; no stress where a direction is open.

    Raises:
        MissingPackage: `dftd3` is not installed.
    """
    parameters = _parameters(functional)
    answers = [_answer(system, parameters) for system in systems]
    stresses = [stress for _, _, stress in answers if stress is not None]
    return Prediction(
        energy=torch.tensor([energy for energy, _, _ in answers], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate([forces for _, forces, _ in answers])),
        stress=torch.from_numpy(np.stack(stresses)) if len(stresses) == len(answers) else None,
    )


def _answer(
    system: System, parameters: Any
) -> tuple[float, Float[np.ndarray, "atom 3"], Float[np.ndarray, "3 3"] | None]:  # fmt: skip
    from ase.geometry import complete_cell
    from dftd3.interface import DispersionModel

    periodic = system.pbc[0].cpu().numpy()
    cell = system.cell[0].detach().cpu().numpy().astype(np.float64)
    cell = complete_cell(np.where(periodic[:, None], cell, 0.0))  # open directions need a vector, of any length
    given = system.numbers.cpu().numpy(), system.positions.detach().cpu().numpy().astype(np.float64) / BOHR
    try:
        model = DispersionModel(*given, *((cell / BOHR, periodic) if periodic.any() else ()))
        answer = model.get_dispersion(parameters, grad=True)
    except RuntimeError as error:
        raise TeacherFailure(f"D3 dispersion: {error} (atoms: {system.n_atoms})") from error
    stress = answer["virial"] * HARTREE / abs(np.linalg.det(cell)) if periodic.all() else None
    return float(answer["energy"]) * HARTREE, -answer["gradient"] * HARTREE / BOHR, stress


def _parameters(functional: str) -> Any:
    try:
        from dftd3.interface import RationalDampingParam
    except ModuleNotFoundError as error:
        raise MissingPackage("dftd3", PIP, "dispersion (+d3)") from error
    return RationalDampingParam(method=functional, atm=False)

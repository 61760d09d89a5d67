r"""Phonon bands of an ordered crystal with a small primitive cell: phonopy on forces of displaced supercells.

    D(q) = Σ_R Φ(0, R) e^{iq·(R + r_j − r_i)} / √(m_i m_j),   f = √eig D(q) / 2π      Φ: force constants from finite displacements

Reference:
    A. Togo, L. Chaput, T. Tadano and I. Tanaka, J. Phys.: Condens. Matter 35, 353001 (2023), doi 10.1088/1361-648X/acd831;
    path between special points as in W. Setyawan and S. Curtarolo, Comput. Mater. Sci. 49, 299 (2010),
    doi 10.1016/j.commatsci.2010.05.010 (through ASE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mdistill.errors import BadInput, MissingPackage
from mdistill.graph import build_graph, make_system
from mdistill.interrupt import NEVER, StopRequest
from mdistill.progress import Advance, silent
from mdistill.types import Potential, System

_DISPLACEMENT_A = 0.01
_SYMMETRY_A = 1e-2
"""Positions closer than this (Å) to symmetric ones count as symmetric: a relaxed structure is never exactly so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """Phonon bands along a path.

    Attributes:
        distance: [point] along the path, 1/Å (2π included).
        frequencies: [point, band] THz, imaginary ones negative.
        ticks: Special points: label ("U|K" where the path jumps) and place on the path.
    """

    distance: Float[np.ndarray, " point"]
    frequencies: Float[np.ndarray, "point band"]
    ticks: list[tuple[str, float]]


def primitive_cell(system: System) -> System:
    """The primitive cell of a crystal, in its own orientation; the crystal itself where it has no smaller one.

    Raises:
        BadInput: More than one struct, or not periodic in three directions.
        MissingPackage: phonopy is not installed.
    """
    if system.n_structs != 1 or not bool(system.pbc.all()):
        raise BadInput("structure", "not one crystal", allowed="one struct, periodic in three directions", fix="use a crystal")
    _, primitive_of = _phonopy()
    numbers = system.numbers.cpu().numpy()
    cell = system.cell[0].detach().cpu().double().numpy()
    fractional = system.positions.detach().cpu().double().numpy() @ np.linalg.inv(cell)
    primitive = primitive_of((cell, fractional, numbers), symprec=_SYMMETRY_A)
    if primitive is None or len(primitive[2]) >= len(numbers):
        return system
    cell, fractional, numbers = primitive
    return make_system(fractional @ cell, numbers, cell, [True] * 3)


def phonon_bands(
    potential: Potential, system: System, *, supercell_A: float = 12.0, points: int = 100, stop: StopRequest = NEVER,
    advance: Advance = silent,
) -> Bands:  # fmt: skip
    """Phonon bands of a crystal along the special points of its lattice.

    Forces of the supercell at rest are subtracted, so that a structure that is not quite relaxed in this potential (the
    teacher's minimum, asked of the student) gives the curvature there and not the slope.

    Args:
        potential: Any potential.
        system: The primitive cell (`primitive_cell`), one struct, periodic in three directions.
        supercell_A: Shortest distance between lattice planes of the supercell; twice the potential's reach leaves nothing out.
        points: Points along the path.
        stop, advance: Called before and after every force call.
    Raises:
        BadInput: Not a crystal.
        MissingPackage: phonopy is not installed.
        Interrupted: A stop was requested.
    """
    if system.n_structs != 1 or not bool(system.pbc.all()):
        raise BadInput("structure", "not one crystal", allowed="one struct, periodic in three directions", fix="use a crystal")
    phonon = _calculation(system, supercell_A)
    phonon.generate_displacements(distance=_DISPLACEMENT_A)

    def forces(atoms: Any) -> Float[np.ndarray, "atom 3"]:
        stop.raise_if_pending()
        cell = make_system(atoms.positions, atoms.numbers, atoms.cell, [True] * 3, dtype=system.positions.dtype)
        found = potential(build_graph(cell, potential.cutoff)).forces.detach().cpu().double().numpy()
        advance(1)
        return found

    at_rest = forces(phonon.supercell)
    phonon.forces = [forces(atoms) - at_rest for atoms in phonon.supercells_with_displacements]
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    path = _path(system, points)
    phonon.run_qpoints(path.kpts)
    distance, places, labels = path.get_linear_kpoint_axis()
    named: dict[float, str] = {}
    for place, label in zip(places.tolist(), map(_spoken, labels), strict=True):
        named[place] = f"{named[place]}|{label}" if place in named else label
    ticks = [(label, place) for place, label in named.items()]
    return Bands(distance=distance, frequencies=np.asarray(phonon.qpoints.frequencies), ticks=ticks)


def supercell_repeats(system: System, shortest_A: float) -> tuple[int, int, int]:
    """Repeats of each lattice vector for lattice planes at least this far apart (Å)."""
    planes = 1.0 / np.linalg.norm(np.linalg.inv(system.cell[0].detach().cpu().double().numpy()), axis=0)
    first, second, third = (max(1, math.ceil(shortest_A / float(plane) - 1e-9)) for plane in planes)
    return first, second, third


def _calculation(system: System, supercell_A: float) -> Any:
    phonopy, _ = _phonopy()
    from phonopy.structure.atoms import PhonopyAtoms

    atoms = PhonopyAtoms(
        numbers=system.numbers.cpu().numpy(),
        cell=system.cell[0].detach().cpu().double().numpy(),
        positions=system.positions.detach().cpu().double().numpy(),
    )
    return phonopy.Phonopy(
        atoms, supercell_matrix=np.diag(supercell_repeats(system, supercell_A)), primitive_matrix=np.eye(3), symprec=_SYMMETRY_A,
        log_level=0,
    )  # fmt: skip


def _path(system: System, points: int) -> Any:
    from ase.cell import Cell

    return Cell(system.cell[0].detach().cpu().double().numpy()).bandpath(npoints=points, eps=1e-3)


def _spoken(label: str) -> str:
    """G is Γ; indices are set low."""
    return label.replace("G", "Γ").translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _phonopy() -> Any:
    """phonopy, and spglib's search for the primitive cell, which comes with it.

    Raises:
        MissingPackage: Not installed.
    """
    try:
        import phonopy
        import spglib
    except ImportError as error:
        raise MissingPackage("phonopy", 'pip install "mdistill[phonons]"', "phonon bands") from error
    return phonopy, spglib.find_primitive

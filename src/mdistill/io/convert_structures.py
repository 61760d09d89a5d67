"""Structures of Python as our own: ASE `Atoms`, pymatgen `Structure` and `Molecule`, a `Crystal`, a `System`, a path."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mdistill.crystals.checks import check_crystal
from mdistill.crystals.crystal import Crystal, Site
from mdistill.errors import BadInput
from mdistill.io.structures import from_atoms, read_structure, read_system, repeated, to_atoms, to_system, write_systems
from mdistill.types import System

ACCEPTED = "a path, ASE Atoms, a pymatgen Structure or Molecule, a System or a Crystal"


def as_crystal(structure: Any) -> Crystal:
    """A structure of any of these kinds as a crystal, checked; occupancies are kept.

    Raises:
        BadInput: Another kind of object, or a structure that no simulation can start from.
    """
    if isinstance(structure, (str, Path)):
        return read_structure(structure)
    if isinstance(structure, System):
        crystal = from_atoms(to_atoms(structure), source="System")
    elif isinstance(structure, Crystal):
        crystal = structure
    elif _of(structure, "ase.atoms", "Atoms"):
        crystal = from_atoms(structure)
    elif _of(structure, "pymatgen", "SiteCollection"):
        crystal = _from_pymatgen(structure)
    else:
        kind = type(structure).__name__
        raise BadInput("structure", f"an object of type {kind}", allowed=ACCEPTED, fix="convert it to one of these")
    check_crystal(crystal)
    return crystal


def as_system(structure: Any, *, repeat: tuple[int, int, int] = (1, 1, 1)) -> System:
    """One ordered structure of any of these kinds, repeated along its lattice vectors.

    Raises:
        BadInput: As `as_crystal`; disordered; or a repeat below 1.
    """
    if isinstance(structure, (str, Path)):
        return read_system(structure, repeat=repeat)
    if isinstance(structure, System) and tuple(repeat) == (1, 1, 1):
        return structure
    return repeated(to_system(as_crystal(structure)), repeat)


def write_structure(folder: Path, structure: Any) -> Path:
    """Write a structure that is no file yet: extxyz where it is ordered, CIF with its occupancies where it is not."""
    crystal = as_crystal(structure)
    if crystal.ordered:
        path = folder / "structure.extxyz"
        write_systems(path, [to_system(crystal)])
        return path
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    species = [{_species(z, crystal.oxidation): share for z, share in site.occupancies.items()} for site in crystal.sites]
    disordered = Structure(Lattice(crystal.cell), species, crystal.fractional, labels=[site.label for site in crystal.sites])
    path = folder / "structure.cif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels are not unique: equal ones mark equivalent sites
        CifWriter(disordered, significant_figures=10).write_file(path)
    return path


def _of(thing: Any, module: str, name: str) -> bool:
    """Whether an object is of a class of another package, which need not be imported for this."""
    return any(kind.__name__ == name and kind.__module__.startswith(module) for kind in type(thing).__mro__)


def _from_pymatgen(structure: Any) -> Crystal:
    lattice = structure.lattice if _of(structure, "pymatgen", "IStructure") else None
    sites, charges = [], dict[int, set[float]]()
    for site in structure:
        occupancies: dict[int, float] = {}
        for species, share in _parts(site.species):
            occupancies[species.Z] = occupancies.get(species.Z, 0.0) + float(share)
            charge = getattr(species, "oxi_state", None)
            charges.setdefault(species.Z, set()).update([] if charge is None else [float(charge)])
        x, y, z = map(float, site.coords if lattice is None else site.frac_coords)
        sites.append(Site(fractional=(x, y, z), occupancies=occupancies, label=str(site.label)))
    known = {z: next(iter(values)) for z, values in charges.items() if len(values) == 1}
    pbc = (True, True, True) if lattice is None or lattice.pbc is None else tuple(bool(p) for p in lattice.pbc)
    return Crystal(
        cell=np.zeros((3, 3)) if lattice is None else np.array(lattice.matrix, dtype=np.float64),
        pbc=(False, False, False) if lattice is None else pbc,  # type: ignore[arg-type]
        sites=tuple(sites), source=f"pymatgen {type(structure).__name__}", oxidation=known if len(known) == len(charges) else {},
    )  # fmt: skip


def _parts(composition: Any) -> Iterable[tuple[Any, float]]:
    return composition.items()


def _species(number: int, oxidation: dict[int, float]) -> Any:
    from pymatgen.core import Element, Species

    element = Element.from_Z(number)
    return Species(element.symbol, oxidation[number]) if number in oxidation else element

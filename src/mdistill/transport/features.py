r"""Features of a material for the trees: composition, density, lattice and space group.

For each property p of the elements (electronegativity, radius, …), with x the atomic fractions:

    mean  p̄ = Σ x_Z p_Z      deviation  Σ x_Z |p_Z − p̄|      smallest, largest      mean and deviation without the mobile ion

Beside them: the fractions themselves, volume per atom, mobile ions per volume, and of the conventional cell the sorted lengths,
their ratios, the number of the space group and the crystal system. Rotation, translation, order of the atoms and the choice of
the cell (a supercell too) change nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mdistill.crystals.crystal import Crystal
from mdistill.errors import BadInput

if TYPE_CHECKING:
    from mdistill.transport.obelix import Entry

PROPERTIES = (
    "X", "atomic_mass", "mendeleev_no", "row", "group", "atomic_radius", "average_ionic_radius", "Z", "molar_volume",
)  # fmt: skip
"""Properties of the elements by their names in pymatgen."""
STRUCTURE_COLUMNS = 9
"""Number of columns at the end that are not of the composition: volume per atom, mobile ions per volume, number of the space
group, crystal system, two ratios and three lengths of the conventional cell."""
TOLERANCE = 0.01
"""Å; distance within which atoms count as images of each other by symmetry."""
MOST_SITES = 2000
"""Sites of a cell up to which its symmetry is looked for."""
LOW_SYMMETRY = 15
"""Highest number of the triclinic and monoclinic space groups."""
_SYSTEMS = (3, 16, 75, 143, 168, 195)
"""First space groups of the monoclinic to the cubic system."""
_DECIMALS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the predictor knows of a crystal.

    Attributes:
        composition: Atomic number → atoms in a cell.
        volume: Volume of that cell, Å³.
        lengths: Lengths of the conventional cell in ascending order, Å.
        space_group: 1 to 230; 0 where it is not known.
        ordered: Whether every site holds one whole atom, so that the cell may be one ordering of a disordered crystal.
    """

    composition: dict[int, float]
    volume: float
    lengths: tuple[float, float, float] = (0.0, 0.0, 0.0)
    space_group: int = 0
    ordered: bool = False

    @property
    def symmetry_known(self) -> bool:
        """Whether the space group is likely that of the material: an ordering of a disordered one is mostly triclinic or
        monoclinic, so that in an ordered cell such a group tells nothing."""
        return self.space_group > (LOW_SYMMETRY if self.ordered else 0)


def material_of(crystal: Crystal) -> Material:
    """Composition, volume and symmetry (spglib) of a crystal; sites of equal occupancies are alike."""
    import spglib

    lengths, number = (0.0, 0.0, 0.0), 0
    if len(crystal.sites) <= MOST_SITES:
        kinds: dict[tuple[tuple[int, float], ...], int] = {}
        types = [
            kinds.setdefault(tuple(sorted((z, round(o, 2)) for z, o in site.occupancies.items())), len(kinds))
            for site in crystal.sites
        ]
        cell = (crystal.cell, crystal.fractional, types)
        found = _dataset(spglib, cell, TOLERANCE) or _dataset(spglib, cell, 0.1 * TOLERANCE)
        if found is not None:
            number = int(found.number)
            a, b, c = sorted(np.linalg.norm(found.std_lattice, axis=1).tolist())
            lengths = (a, b, c)
    return Material(
        composition=crystal.composition, volume=crystal.volume, lengths=lengths, space_group=number, ordered=crystal.ordered
    )


def _dataset(spglib: Any, cell: tuple[Any, ...], tolerance: float) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return spglib.get_symmetry_dataset(cell, symprec=tolerance)
        except getattr(spglib, "SpglibError", ValueError):
            return None


def material_of_entry(entry: Entry) -> Material:
    """Composition, volume and symmetry as the table has them."""
    from ase.geometry import cellpar_to_cell

    a, b, c = sorted(entry.cell[:3])
    volume = float(abs(np.linalg.det(cellpar_to_cell(entry.cell))))
    return Material(composition=entry.composition, volume=volume, lengths=(a, b, c), space_group=entry.space_group)


def element_properties() -> Float[np.ndarray, "119 property"]:
    """PROPERTIES of every element, by atomic number, from pymatgen; 0 where it knows none.

    A model keeps the table it was trained with, so that a prediction does not depend on the version of pymatgen.
    """
    from pymatgen.core import Element

    table = np.zeros((119, len(PROPERTIES)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(1, 119):
            element = Element.from_Z(number)
            table[number] = [float(getattr(element, name) or 0.0) for name in PROPERTIES]
    return np.round(np.nan_to_num(table), 6)


def features(
    materials: Sequence[Material], elements: Sequence[int], properties: Float[np.ndarray, "119 property"], *, mobile: int
) -> Float[np.ndarray, "material feature"]:
    """Features of materials, float32; the last STRUCTURE_COLUMNS need more than the composition.

    Args:
        materials: The materials.
        elements: Atomic numbers whose fractions are features.
        properties: Of the elements, see `element_properties`.
        mobile: Atomic number of the mobile ion.
    Raises:
        BadInput: A material without the mobile ion, or without a volume.
    """
    return np.array([_row(one, elements, properties, mobile) for one in materials], dtype=np.float32)


def _row(material: Material, elements: Sequence[int], properties: np.ndarray, mobile: int) -> np.ndarray:
    numbers, counts = list(material.composition), np.array(list(material.composition.values()))
    if material.composition.get(mobile, 0.0) <= 0.0:
        raise BadInput("composition", f"no mobile ion (atomic number {mobile})", allowed="a conductor of it", fix="leave it out")
    if not material.volume > 0.0:
        raise BadInput("volume", f"{material.volume:g} Å³", allowed="a periodic cell", fix="give three lattice vectors")
    shares, known = counts / counts.sum(), properties[numbers]
    frame = np.array([number != mobile for number in numbers])
    frame = frame if frame.any() else ~frame
    mean, deviation = _moments(shares, known)
    parts = [
        [material.composition.get(number, 0.0) / counts.sum() for number in elements],
        mean, deviation, known.min(axis=0), known.max(axis=0), *_moments(shares[frame] / shares[frame].sum(), known[frame]),
        [material.volume / counts.sum(), material.composition[mobile] / material.volume],
        _symmetry(material),
    ]  # fmt: skip
    return np.round(np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]), _DECIMALS)


def _moments(shares: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = shares @ known
    return mean, shares @ abs(known - mean)


def _symmetry(material: Material) -> list[float]:
    a, b, c = material.lengths
    number = material.space_group
    system = int(np.digitize(number, _SYSTEMS))
    return [number, system, c / a if a else 0.0, b / a if a else 0.0, a, b, c]

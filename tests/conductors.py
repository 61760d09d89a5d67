"""Ion conductors as published: cell, sites and occupancies, with the reference of each, written as CIF text."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

LGPS = """
Li1 Li 0.2563 0.2708 0.1833 0.691
Li2 Li 0 0.5 0.9444 1
Li3 Li 0.2465 0.2465 0 0.643
Ge1 Ge 0 0.5 0.6898 0.515
P1 P 0 0.5 0.6898 0.485
P2 P 0 0 0.5 1
S1 S 0 0.1838 0.4083 1
S2 S 0 0.2957 0.0964 1
S3 S 0 0.701 0.792 1
"""


@dataclass(frozen=True, kw_only=True)
class Conductor:
    """One published structure.

    Attributes:
        name: Short name.
        cell: a, b, c (Å), α, β, γ (°).
        hall: Number of the Hall symbol (1 to 530), which fixes axes and origin.
        rows: One site a line: label, element, x, y, z, occupancy.
        reference: Where the structure is published.
    """

    name: str
    cell: tuple[float, float, float, float, float, float]
    hall: int
    rows: str
    reference: str


CONDUCTORS = (
    Conductor(
        name="Li10GeP2S12", cell=(8.69407, 8.69407, 12.5994, 90, 90, 90), hall=420, rows=LGPS,
        reference="N. Kamaya et al., Nat. Mater. 10, 682 (2011), doi 10.1038/nmat3066",
    ),
)  # fmt: skip


def conductor(name: str) -> Conductor:
    """The structure of this name."""
    return next(one for one in CONDUCTORS if one.name == name)


def cif(one: Conductor) -> str:
    """The structure as CIF text, with its symmetry operations listed."""
    from pymatgen.core.operations import SymmOp
    from spglib import get_spacegroup_type, get_symmetry_from_database

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found, number = get_symmetry_from_database(one.hall), get_spacegroup_type(one.hall).number
    turns = zip(found["rotations"], found["translations"], strict=True)
    operations = [SymmOp.from_rotation_and_translation(turn, shift).as_xyz_str() for turn, shift in turns]
    tags = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy"]
    return "\n".join(
        [
            f"# {one.reference}",
            "data_conductor",
            *(f"{tag} {value}" for tag, value in zip(tags, one.cell, strict=True)),
            f"_space_group_IT_number {number}",
            "loop_",
            "_space_group_symop_operation_xyz",
            *(f"'{operation}'" for operation in operations),
            "loop_",
            *(f"_atom_site_{column}" for column in columns),
            *one.rows.strip().splitlines(),
            "",
        ]
    )

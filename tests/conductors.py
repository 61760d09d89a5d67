"""Ion conductors: cell, sites and occupancies with the reference of each and what of it was checked, written as CIF text."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

OBELIX = "rounded from the OBELiX set (arXiv 2502.14234, CC BY 4.0)"
ROWS = {
    "Li6PS5Cl": """
Li1 Li 0.183 0.183 0.024 0.5
P1 P 0.5 0.5 0.5 1
S1 S 0.6193 0.6193 0.6193 1
S2/Cl2 S 0.25 0.25 0.25 0.615
S2/Cl2 Cl 0.25 0.25 0.25 0.385
Cl1/S3 Cl 0 0 0 0.615
Cl1/S3 S 0 0 0 0.385
""",
    "Li10GeP2S12": """
Li1 Li 0.2563 0.2708 0.1833 0.691
Li2 Li 0 0.5 0.9444 1
Li3 Li 0.2465 0.2465 0 0.643
Ge1 Ge 0 0.5 0.6898 0.515
P1 P 0 0.5 0.6898 0.485
P2 P 0 0 0.5 1
S1 S 0 0.1838 0.4083 1
S2 S 0 0.2957 0.0964 1
S3 S 0 0.701 0.792 1
""",
    "Li10GeP2S12 (split sites that sum to 1.08)": """
Li0 Li 0 0 0.251 0.68
Li1 Li 0.237 0.252 0.8031 0.5
Li2 Li 0 0.476 0.555 0.54
Li3 Li 0.246 0.246 0.5 0.62
Ge4 Ge 0 0.5 0.3079 0.5
P5 P 0 0.5 0.3079 0.5
P6 P 0 0 0 1
S7 S 0 0.187 0.0908 1
S8 S 0 0.2943 0.4032 1
S9 S 0 0.304 0.7062 1
""",
    "Li7La3Zr2O12, cubic": """
Li1 Li 0.375 0 0.25 0.94
Li2 Li 0.0947 0.6853 0.5768 0.349
La1 La 0.125 0 0.25 1
Zr1 Zr 0 0 0 1
O1 O 0.9682 0.0543 0.1501 1
""",
    "Li7La3Zr2O12, tetragonal": """
Li1 Li 0 0.25 0.375 1
Li2 Li 0.1813 0.4313 0.125 1
Li3 Li 0.0796 0.0863 0.8099 1
La1 La 0 0.25 0.125 1
La2 La 0.127 0 0.25 1
Zr1 Zr 0 0 0 1
O1 O 0.9665 0.0546 0.1528 1
O2 O 0.0533 0.8521 0.5332 1
O3 O 0.1495 0.0268 0.4469 1
""",
    "Li1.3Al0.3Ti1.7(PO4)3": """
Li0 Li 0.0151 0.4018 0.7577 0.05
Li1 Li 0 0 0 1
Al2 Al 0 0 0.1409 0.15
Ti3 Ti 0 0 0.1409 0.85
P4 P 0 0.2897 0.25 1
O5 O 0.0136 0.8165 0.4321 1
O6 O 0.0203 0.1865 0.1774 1
""",
    "Na3Zr2Si2PO12": """
Na1 Na 0 0 0 1
Na2 Na 0.64 0 0.25 0.667
Zr1 Zr 0 0 0.147 1
Si1 Si 0.293 0 0.25 0.667
P1 P 0.293 0 0.25 0.333
O1 O 0.18 0.972 0.194 1
O2 O 0.191 0.169 0.0866 1
""",
    "Li3YCl6": """
Li0 Li 0 0.3256 0.5 0.875
Li1 Li 0 0.3261 0 0.625
Y2 Y 0.33333 0.66667 0.487 0.566
Y3 Y 0.33333 0.66667 0.9812 0.434
Y4 Y 0 0 0 1
Cl5 Cl 0.1084 0.2167 0.7765 1
Cl6 Cl 0.1255 0.5627 0.7506 1
Cl7 Cl 0.2102 0.4205 0.2784 1
""",
    "Li3InCl6": """
Li0 Li 0 0.1681 0.5 1
Li1 Li 0 0.5 0.5 1
In2 In 0 0.3325 0 0.07
In3 In 0 0 0 0.86
Cl4 Cl 0.2356 0.16 0.2313 1
Cl5 Cl 0.2447 0 0.7612 1
""",
    "Li2ZrCl6": """
Li0 Li 0 0.3256 0.5 0.5
Li1 Li 0 0.3261 0 0.5
Zr2 Zr 0.33333 0.66667 0.5 1
Zr4 Zr 0 0 0 1
Cl5 Cl 0.1084 0.2167 0.7765 1
Cl6 Cl 0.1255 0.5627 0.7506 1
Cl7 Cl 0.2102 0.4205 0.2784 1
""",
    "Na3PS4": """
Na1 Na 0 0.5 0.5 0.8
Na2 Na 0 0.5 0.25 0.1
P1 P 0 0 0 1
S1 S 0.169 0.169 0.169 1
""",
    "Na3SbS4": """
Na1 Na 0 0.5 0.431 1
Na2 Na 0 0 0 1
Sb1 Sb 0 0 0.5 1
S1 S 0.287 0.331 0.183 1
""",
    "α-AgI": """
I1 I 0 0 0 1
Ag1 Ag 0.25 0 0.5 0.16667
""",
    "α-Ag3SI": """
S1 S 0 0 0 0.5
I1 I 0 0 0 0.5
Ag1 Ag 0.25 0 0.5 0.25
""",
    "Na β-alumina": """
Al1 Al 0.8322 0.6644 0.1056 1
Al2 Al 0.33333 0.66667 0.0247 1
Al3 Al 0.33333 0.66667 0.1759 1
Al4 Al 0 0 0 1
O1 O 0.1577 0.3154 0.0501 1
O2 O 0.5032 0.0064 0.1474 1
O3 O 0.66667 0.33333 0.0552 1
O4 O 0 0 0.1426 1
O5 O 0.33333 0.66667 0.25 1
Na1 Na 0.66667 0.33333 0.25 0.7
Na2 Na 0.877 0.123 0.25 0.173
""",
    "α-CuI": """
I1 I 0 0 0 1
Cu1 Cu 0.25 0.25 0.25 0.5
""",
    "Li4Zn(PO4)2 (LISICON)": """
Li0 Li 0.0698 0.75 0.2224 0.5
Li1 Li 0.1491 0.0027 0.8209 0.75
Zn2 Zn 0.1491 0.0027 0.8209 0.25
P3 P 0.0944 0.25 0.3145 1
O4 O 0.1513 0.0399 0.1942 1
O5 O 0.0688 0.75 0.7487 1
O6 O 0.0928 0.25 0.6144 1
""",
    "Li2OHCl": """
O1 O 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1
Li1 Li 0.5 0 0 0.66667
H1 H 0.142 0.142 0.142 0.125
""",
    "Li3OCl0.5Br0.5": """
O1 O 0.5 0.5 0.5 1
Li1 Li 0.5 0.5 0 1
Cl1 Cl 0 0 0 0.5
Br1 Br 0 0 0 0.5
""",
    "Li3N": """
N1 N 0 0 0 1
Li1 Li 0 0 0.5 1
Li2 Li 0.33333 0.66667 0 1
""",
    "Li0.33La0.56TiO3": """
La0 La 0 0 0.5 0.32
Li1 Li 0 0 0.5 0.5
La2 La 0 0 0 0.784
Li3 Li 0 0 0 0.16
Ti4 Ti 0.5 0.5 0.2653 1
O5 O 0 0.5 0.2602 1
O6 O 0.5 0.5 0 1
O7 O 0.5 0.5 0.5 1
""",
    "β-Li3PS4": """
Li0 Li 0.1517 0.5136 0.9357 1
Li1 Li 0 0 0.5 0.7
Li2 Li 0.0101 0.75 0.1151 0.3
P3 P 0.0944 0.25 0.1616 1
S4 S 0.1509 0.0544 0.2813 1
S5 S 0.0741 0.75 0.7367 1
S6 S 0.1042 0.25 0.8383 1
""",
}

CHECKED = {
    "Li6PS5Cl": "doi, volume and page; OBELiX has a = 9.898 Å for it; cell and sites not checked",
    "Li10GeP2S12": "cell, space group and doi as in OBELiX; sites not checked",
    "Li10GeP2S12 (split sites that sum to 1.08)": "file mtn of OBELiX",
    "Li7La3Zr2O12, cubic": "not checked",
    "Li7La3Zr2O12, tetragonal": "cell, space group, volume, page and doi as in OBELiX; sites not checked",
    "Li1.3Al0.3Ti1.7(PO4)3": "file kab of OBELiX, which it takes from this doi",
    "Na3Zr2Si2PO12": "not checked",
    "Li3YCl6": "file ei3 of OBELiX, which it takes from this doi",
    "Li3InCl6": "file de5 of OBELiX",
    "Li2ZrCl6": "title of the doi; cell not checked",
    "Na3PS4": "author, year and doi in a list of conductors; cell and sites not checked",
    "Na3SbS4": "not checked",
    "α-AgI": "not checked",
    "α-Ag3SI": "not checked",
    "Na β-alumina": "not checked; a later refinement (doi 10.1107/S0108768190012356) has 5.593 and 22.526 Å",
    "α-CuI": "not checked",
    "Li4Zn(PO4)2 (LISICON)": "file gxz of OBELiX",
    "Li2OHCl": "not checked; OBELiX has this cell for Li2(OH)0.9F0.1Cl",
    "Li3OCl0.5Br0.5": "volume, page and doi; cell not checked",
    "Li3N": "cell and space group as in OBELiX (from another paper), doi; volume and page not checked",
    "Li0.33La0.56TiO3": "file vwy of OBELiX, which it takes from this doi",
    "β-Li3PS4": "file nhq of OBELiX",
}
"""What was compared with the OBELiX set and with public lists of references."""


@dataclass(frozen=True, kw_only=True)
class Conductor:
    """One published structure.

    Attributes:
        name: Short name.
        cell: a, b, c (Å), α, β, γ (°).
        hall: Number of the Hall symbol (1 to 530), which fixes axes and origin.
        rows: One site a line: label, element, x, y, z, occupancy.
        ordered: Whole atoms that one cell gets.
        reference: Where the structure is published, as far as known.
        checked: What of it was compared with another source; the rest was written from memory.
    """

    name: str
    cell: tuple[float, ...]
    hall: int
    rows: str
    ordered: str
    reference: str
    checked: str


def _made(name: str, cell: tuple[float, ...], hall: int, ordered: str, reference: str) -> Conductor:
    return Conductor(
        name=name, cell=cell, hall=hall, ordered=ordered, reference=reference, rows=ROWS[name], checked=CHECKED[name]
    )


CONDUCTORS = (
    _made("Li6PS5Cl", (9.86, 9.86, 9.86, 90, 90, 90), 512, "Li24P4S20Cl4",
          "M. Kraft et al., J. Am. Chem. Soc. 139, 10909 (2017), doi 10.1021/jacs.7b06327 (rounded)"),
    _made("Li10GeP2S12", (8.69407, 8.69407, 12.5994, 90, 90, 90), 420, "Li20Ge2P4S24",
          "N. Kamaya et al., Nat. Mater. 10, 682 (2011), doi 10.1038/nmat3066"),
    _made("Li10GeP2S12 (split sites that sum to 1.08)", (8.7112, 8.7112, 12.6078, 90, 90, 90), 420, "Li20Ge2P4S24",
          f"doi 10.1021/acs.chemmater.8b00266, {OBELIX}"),
    _made("Li7La3Zr2O12, cubic", (12.9827, 12.9827, 12.9827, 90, 90, 90), 530, "Li56La24Zr16O96",
          "J. Awaka et al., Chem. Lett. 40, 60 (2011), doi 10.1246/cl.2011.60"),
    _made("Li7La3Zr2O12, tetragonal", (13.134, 13.134, 12.663, 90, 90, 90), 429, "Li56La24Zr16O96",
          "J. Awaka et al., J. Solid State Chem. 182, 2046 (2009), doi 10.1016/j.jssc.2009.05.020"),
    _made("Li1.3Al0.3Ti1.7(PO4)3", (8.4963, 8.4963, 20.8703, 90, 90, 120), 460, "Li8Ti10Al2P18O72",
          f"doi 10.1021/acs.chemmater.9b04419, {OBELIX}; z of Ti and x of P after the type"),
    _made("Na3Zr2Si2PO12", (9.08, 9.08, 22.74, 90, 90, 120), 460, "Na18Zr12Si12P6O72",
          "site scheme of H. Y-P. Hong, Mater. Res. Bull. 11, 173 (1976), doi 10.1016/0025-5408(76)90073-8 (rhombohedral form)"),
    _made("Li3YCl6", (11.2093, 11.2093, 6.0469, 90, 90, 120), 456, "Li9Y3Cl18",
          f"doi 10.1021/acs.chemmater.0c04352, {OBELIX}"),
    _made("Li3InCl6", (6.432, 11.093, 6.398, 90, 109.8, 90), 63, "Li6In2Cl12",
          f"doi 10.1002/anie.201909805, {OBELIX}; occupancy of the second In 0.86 for a neutral cell"),
    _made("Li2ZrCl6", (10.97, 10.97, 5.93, 90, 90, 120), 456, "Li6Zr3Cl18",
          "type of Li3YCl6, cell of K. Wang et al., Nat. Commun. 12, 4410 (2021), doi 10.1038/s41467-021-24697-2"),
    _made("Na3PS4", (6.9965, 6.9965, 6.9965, 90, 90, 90), 513, "Na6P2S8",
          "site scheme of A. Hayashi et al., Nat. Commun. 3, 856 (2012), doi 10.1038/ncomms1843"),
    _made("Na3SbS4", (7.1597, 7.1597, 7.2906, 90, 90, 90), 391, "Na6Sb2S8",
          "site scheme of L. Zhang et al., Adv. Sci. 3, 1600089 (2016), doi 10.1002/advs.201600089"),
    _made("α-AgI", (5.068, 5.068, 5.068, 90, 90, 90), 529, "Ag2I2",
          "A. F. Wright, B. E. F. Fender, J. Phys. C 10, 2261 (1977), doi 10.1088/0022-3719/10/13/003"),
    _made("α-Ag3SI", (4.993, 4.993, 4.993, 90, 90, 90), 529, "Ag3SI",
          "B. Reuter, K. Hardel, Z. Anorg. Allg. Chem. 340, 168 (1965), doi 10.1002/zaac.19653400309"),
    _made("Na β-alumina", (5.594, 5.594, 22.53, 90, 90, 120), 488, "Na2Al22O34",
          "C. R. Peters et al., Acta Cryst. B 27, 1826 (1971), doi 10.1107/S0567740871004849"),
    _made("α-CuI", (6.15, 6.15, 6.15, 90, 90, 90), 523, "Cu4I4",
          "D. A. Keen, S. Hull, J. Phys. Condens. Matter 6, 1637 (1994), doi 10.1088/0953-8984/6/9/006"),
    _made("Li4Zn(PO4)2 (LISICON)", (10.2975, 6.5021, 5.0012, 90, 90, 90), 292, "Li8Zn2P4O16",
          f"doi 10.1021/acs.chemmater.7b05139, {OBELIX}"),
    _made("Li2OHCl", (3.91, 3.91, 3.91, 90, 90, 90), 517, "Li2HOCl",
          "site scheme of A. Y. Song et al., Adv. Energy Mater. 8, 1700971 (2018), doi 10.1002/aenm.201700971"),
    _made("Li3OCl0.5Br0.5", (3.95, 3.95, 3.95, 90, 90, 90), 517, "Li3OCl",
          "Y. Zhao, L. L. Daemen, J. Am. Chem. Soc. 134, 15042 (2012), doi 10.1021/ja305709z"),
    _made("Li3N", (3.648, 3.648, 3.875, 90, 90, 120), 485, "Li3N",
          "A. Rabenau, H. Schulz, J. Less-Common Met. 50, 155 (1976), doi 10.1016/0022-5088(76)90263-0"),
    _made("Li0.33La0.56TiO3", (3.8741, 3.8741, 7.7459, 90, 90, 90), 400, "LiLaTi2O6",
          f"doi 10.1006/jssc.1996.0385, {OBELIX}"),
    _made("β-Li3PS4", (12.819, 8.2195, 6.1236, 90, 90, 90), 292, "Li12P4S16",
          f"doi 10.1021/ja3110895, {OBELIX}"),
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
            f"# {one.reference}; checked: {one.checked}",
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

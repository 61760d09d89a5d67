"""CIF to sites: symmetry is expanded and rows at one position become one mixed site. Occupancies are not rounded.

pymatgen tokenises the file and reads the symmetry operations; the expansion is done here, so that each site keeps the
label of its row, and is checked against pymatgen's own composition.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdistill.crystals.atom_kinds import ISOTOPE_NOTE, ISOTOPES
from mdistill.crystals.checks import neighbour_pairs
from mdistill.crystals.cif_formula import check_formula, refuse_lost_rows
from mdistill.crystals.cif_symmetry import Symmetry, symmetries
from mdistill.crystals.crystal import Crystal, Site
from mdistill.errors import BadInput

SAME_PLACE = 0.05
"""Two images closer than this (Å) are one position: rounding of 1/3, or two rows that share a site."""

_VACANCY = re.compile(r"(?i)vac|□")
_CROSS_CHECKED_ROWS = 300


@dataclass(slots=True)
class ParsedCif:
    """cell [3, 3] Å; sites (fractional, occupancies, label); oxidation numbers; notes."""

    cell: np.ndarray
    sites: list[tuple[tuple[float, float, float], dict[int, float], str]]
    oxidation: dict[int, float]
    notes: list[str] = field(default_factory=list)


def parse_cif(text: str, source: str, index: int) -> ParsedCif:
    """The structure number `index` of a CIF text.

    Raises:
        BadInput: No structure in it, a value that is no number, an unknown element or symmetry, a duplicate key, rows
            that do not share a site cleanly, or a composition that pymatgen reads differently.
    """
    from pymatgen.io.cif import CifFile

    _refuse_duplicate_keys(text, source)
    text = _unique_blocks(text)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            blocks = [block for block in CifFile.from_str(text).data.values() if "_atom_site_fract_x" in block.data]
    except Exception as error:
        raise _no_cif(source, f"not readable as CIF ({type(error).__name__}: {str(error)[:200]})") from error
    if not blocks:
        raise _no_cif(source, "no data block with _atom_site_fract_x, y, z")
    if not -len(blocks) <= index < len(blocks):
        raise BadInput(source, f"index {index} of {len(blocks)} structures", allowed=f"0 … {len(blocks) - 1}", fix="choose one")
    try:
        parsed = _structure(blocks[index].data, blocks[index], text, source)
    except (KeyError, IndexError, AssertionError, AttributeError, TypeError, ArithmeticError) as error:
        name = error.args[0] if isinstance(error, KeyError) and error.args else f"{type(error).__name__}: {str(error)[:200]}"
        raise _no_cif(source, f"a tag or a row is missing or cannot be read ({name})") from error
    composition: Counter[int] = Counter()
    for _, occupancies, _ in parsed.sites:
        composition.update(occupancies)
    parsed.notes += check_formula(composition, blocks[index].data, source)
    refuse_lost_rows(text, [str(one.message) for one in caught], source)
    if len(blocks) > 1:
        parsed.notes.append(f"{source} holds {len(blocks)} structures; number {index % len(blocks)} was read")
    return parsed


def _no_cif(source: str, problem: str) -> BadInput:
    allowed = "a CIF with cell lengths and angles, symmetry, and atom sites with fractional coordinates"
    return BadInput(source, problem, allowed=allowed, fix="open it in VESTA or export it again from the database")


def _structure(data: dict[str, Any], block: Any, text: str, source: str) -> ParsedCif:
    from ase.cell import Cell

    sizes = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
    lengths_angles = [_number(data.get(tag), source, tag) for tag in sizes]
    if min(lengths_angles) <= 0 or max(lengths_angles[3:]) >= 180 or sum(lengths_angles[3:]) >= 360:
        problem = f"cell lengths and angles {lengths_angles} enclose no volume"
        allowed = "lengths > 0 Å, angles between 0° and 180° with a sum below 360°"
        raise BadInput(source, problem, allowed=allowed, fix="correct the _cell_length_ and _cell_angle_ lines")
    cell = np.asarray(Cell.fromcellpar(lengths_angles)[:])
    readings = symmetries(block, data, cell, source)
    parsed = _expanded(data, cell, readings[0], source) if len(readings) == 1 else _of_two_origins(data, cell, readings, source)
    if readings[0].read_by_pymatgen and not any("vacancy" in note for note in parsed.notes):
        _cross_check(parsed, len(data["_atom_site_fract_x"]), text, source)
    return parsed


def _of_two_origins(data: dict[str, Any], cell: np.ndarray, readings: list[Symmetry], source: str) -> ParsedCif:
    """The reading of the origin that gives a sound structure, where the other does not.

    Raises:
        BadInput: Both readings are sound and differ, or none is.
    """
    sound: list[ParsedCif] = []
    for one in readings:
        try:
            parsed = _expanded(data, cell, one, source)
        except BadInput:
            continue
        if _looks_sound(parsed, data):
            parsed.notes.append(f"the origin of the space group is not stated: choice {one.choice} gives a sound structure")
            sound.append(parsed)
    if len(sound) == 2 and _same_distances(*sound):
        sound.pop()
    if len(sound) == 1:
        return sound[0]
    counts = " or ".join(f"{sum(sum(o.values()) for _, o, _ in one.sites):.4g}" for one in sound)
    found = f"both choices give a possible structure ({counts} atoms)" if sound else "neither choice gives a possible structure"
    fix = "list the symmetry operations, or state the origin, such as _space_group_name_H-M_alt 'F d -3 m :2'"
    problem = f"the origin of the space group is not stated, and {found}"
    raise BadInput(source, problem, allowed="a stated origin choice, or symmetry operations", fix=fix)


def _looks_sound(parsed: ParsedCif, data: dict[str, Any]) -> bool:
    """Atoms as many as the file states (multiplicities, or formula and Z), and full sites no nearer than bonds are."""
    from ase.data import covalent_radii

    total = sum(sum(occupancies.values()) for _, occupancies, _ in parsed.sites)
    if (stated := _stated_atoms(data)) is not None and abs(total - stated) > 0.02 * stated + 0.5:
        return False
    full = [(place, max(occupancies)) for place, occupancies, _ in parsed.sites if sum(occupancies.values()) > 0.99]
    places, numbers = np.array([place for place, _ in full]).reshape(-1, 3), np.array([number for _, number in full], dtype=int)
    crystal = Crystal(
        cell=parsed.cell, pbc=(True, True, True),
        sites=tuple(Site(fractional=(x, y, z), occupancies={1: 1.0}) for x, y, z in places.tolist()),
    )  # fmt: skip
    i, j, distance = neighbour_pairs(crystal, 3.5)
    return not len(i) or bool((distance / (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])).min() > 0.7)


def _stated_atoms(data: dict[str, Any]) -> float | None:
    """Atoms in the cell as the file states them; None where it does not."""
    stated = data.get("_atom_site_symmetry_multiplicity")
    if stated is not None and all(re.fullmatch(r"\d+", text) for text in stated):
        shares = data.get("_atom_site_occupancy", ["1"] * len(stated))
        return sum(int(m) * _number("1" if o == "." else o, "", "occupancy") for m, o in zip(stated, shares, strict=True))
    formula, units = data.get("_chemical_formula_sum"), data.get("_cell_formula_units_Z")
    if formula and units and re.fullmatch(r"\d+", str(units)):
        parts = re.findall(r"[A-Z][a-z]?(\d*\.?\d*)", str(formula))
        return int(units) * sum(float(part or 1) for part in parts)
    return None


def _same_distances(one: ParsedCif, other: ParsedCif) -> bool:
    """Whether two readings are one structure, as far as distances below 4 Å tell."""
    lists = []
    for parsed in (one, other):
        sites = tuple(Site(fractional=place, occupancies=occupancies) for place, occupancies, _ in parsed.sites)
        i, j, distance = neighbour_pairs(Crystal(cell=parsed.cell, pbc=(True, True, True), sites=sites), 4.0)
        kinds = [
            sorted([sorted(sites[a].occupancies.items()), sorted(sites[b].occupancies.items())])
            for a, b in zip(i, j, strict=True)
        ]
        lists.append(sorted((round(float(d), 2), str(kind)) for d, kind in zip(distance, kinds, strict=True)))
    return lists[0] == lists[1]


def _expanded(data: dict[str, Any], cell: np.ndarray, symmetry: Symmetry, source: str) -> ParsedCif:
    """The sites of the file with these operations."""
    notes = list(symmetry.notes)
    orbits: list[tuple[np.ndarray, Counter[int], str]] = []
    charges: dict[int, list[float]] = {}
    rows = len(data["_atom_site_fract_x"])
    for row, label in enumerate(data.get("_atom_site_label", [f"site{k + 1}" for k in range(rows)])):
        if _is_vacancy(data, row, label, source):
            notes.append(f"site {label} is a vacancy: it was left out")
            continue
        number, charge = _element(data, row, label, source, notes)
        occupancy = _occupancy(data, row, label, source)
        if charge is not None:
            charges.setdefault(number, []).append(charge)
        if occupancy == 0.0:
            continue
        place = [_number(data[f"_atom_site_fract_{x}"][row], source, f"_atom_site_fract_{x} of {label}") for x in "xyz"]
        orbit = _orbit(np.array(place), symmetry.operations, cell, SAME_PLACE)
        stated = data.get("_atom_site_symmetry_multiplicity")
        if stated is not None and stated[row] != str(len(orbit)):
            orbit = _orbit(np.array(place), symmetry.operations, cell, 0.1 * SAME_PLACE)
        _join(orbits, orbit, number, occupancy, label=label, cell=cell, source=source)
    sites = [(tuple(p), dict(o), label) for places, o, label in orbits for p in places.tolist()]
    oxidation = _oxidation(data) | {n: float(np.mean(c)) for n, c in charges.items() if any(c)}
    return ParsedCif(cell=cell, sites=sites, oxidation=oxidation, notes=notes)  # type: ignore[arg-type]


def _is_vacancy(data: dict[str, Any], row: int, label: str, source: str) -> bool:
    """Whether a row stands for an empty site (Va, Vac, Vacancy, □), which must not be read as vanadium.

    Raises:
        BadInput: Label and type symbol disagree, or a label Va without a type symbol.
    """
    kind = data["_atom_site_type_symbol"][row] if "_atom_site_type_symbol" in data else ""
    by_label = bool(_VACANCY.match(label))
    if kind:
        if by_label and re.match(r"V\d*[+-]?\d*$", kind):
            problem, fix = f"site {label!r} has the type symbol {kind!r}", "rename the label, or delete the row of the vacancy"
            raise BadInput(source, problem, allowed="vanadium, or a vacancy", fix=fix)
        return bool(_VACANCY.match(kind) or re.match(r"Va\d*$", kind))
    if re.match(r"(?i)va\d*$", label):
        problem, fix = f"site label {label!r} could be vanadium or a vacancy", "add the column _atom_site_type_symbol"
        raise BadInput(source, problem, allowed="an _atom_site_type_symbol column", fix=fix)
    return by_label


def _number(value: object, source: str, tag: str) -> float:
    """A CIF number without its standard uncertainty: '0.3202(5)' -> 0.3202."""
    try:
        return float(re.sub(r"\(\d*\)", "", str(value)))
    except ValueError:
        stated = "missing" if value is None else repr(value)
        raise BadInput(source, f"{tag} is {stated}", allowed="a number", fix="complete the file") from None


def _occupancy(data: dict[str, Any], row: int, label: str, source: str) -> float:
    """The occupancy of a row; one where the column is absent or '.' (the CIF dictionary's default)."""
    if "_atom_site_occupancy" not in data or data["_atom_site_occupancy"][row] == ".":
        return 1.0
    occupancy = _number(data["_atom_site_occupancy"][row], source, f"occupancy of {label}")
    if not 0.0 <= occupancy <= 1.001:
        raise BadInput(source, f"occupancy of {label} is {occupancy:g}", allowed="0 to 1", fix="correct _atom_site_occupancy")
    return occupancy


def _element(data: dict[str, Any], row: int, label: str, source: str, notes: list[str]) -> tuple[int, float | None]:
    """Atomic number and stated charge of a row, from its type symbol ('Li1+'), else from its label ('Li1')."""
    from ase.data import atomic_numbers

    if "_atom_site_type_symbol" in data:
        text = data["_atom_site_type_symbol"][row]
        letters = re.match(r"[A-Za-z]*", text).group().capitalize()  # type: ignore[union-attr]
        charge = _charge(text)
    else:
        text, charge = label, None
        letters = re.match(r"[A-Za-z]*", label).group()[:2]  # type: ignore[union-attr]
        two, one = letters.capitalize(), letters[:1].upper()
        if letters.isupper() and len(letters) == 2 and two in atomic_numbers and one in atomic_numbers:
            problem, fix = f"site label {label!r} could be {two} or {one}", "add the column _atom_site_type_symbol"
            raise BadInput(source, problem, allowed="an _atom_site_type_symbol column, or labels written like Cl1", fix=fix)
        letters = two if two in atomic_numbers and letters[1:].islower() else one
        letters = "?" if letters == "T" else letters
    if letters in ISOTOPES:
        note = ISOTOPE_NOTE.format(letters)
        notes.extend([note] if note not in notes else [])
        letters = ISOTOPES[letters]
    if atomic_numbers.get(letters, 0) == 0:
        problem = f"site {label!r} has the unknown element {text!r}"
        raise BadInput(source, problem, allowed="a chemical symbol", fix="correct _atom_site_type_symbol")
    return atomic_numbers[letters], charge


def _charge(text: str) -> float | None:
    """The charge of a type symbol, digits before the sign (Mg2+) or after it (Mg+2); None where there is none."""
    if found := re.search(r"(\d*\.?\d*)([+-])(\d*\.?\d*)", text):
        if found[1] and found[3]:
            return None
        return float(found[1] or found[3] or 1) * (1.0 if found[2] == "+" else -1.0)
    return None


def _oxidation(data: dict[str, Any]) -> dict[int, float]:
    """Oxidation numbers of the _atom_type_ loop, averaged per element; empty where not given."""
    from ase.data import atomic_numbers

    numbers: dict[int, list[float]] = {}
    for symbol, value in zip(data.get("_atom_type_symbol", []), data.get("_atom_type_oxidation_number", []), strict=False):
        letters = re.match(r"[A-Za-z]*", symbol).group().capitalize()  # type: ignore[union-attr]
        letters = ISOTOPES.get(letters, letters)
        if letters in atomic_numbers and re.fullmatch(r"[+-]?\d+(\.\d*)?", value):
            numbers.setdefault(atomic_numbers[letters], []).append(float(value))
    return {number: float(np.mean(values)) for number, values in numbers.items()}


def _orbit(place: np.ndarray, operations: np.ndarray, cell: np.ndarray, tolerance: float) -> np.ndarray:
    """All distinct images [image, 3] of a position in the cell; images within the tolerance (Å) are averaged."""
    images = operations[:, :, :3] @ place + operations[:, :, 3]
    centres: list[np.ndarray] = []
    left = np.ones(len(images), dtype=bool)
    for k in range(len(images)):
        if not left[k]:
            continue
        difference = images - images[k]
        difference -= np.round(difference)
        near = left & (np.linalg.norm(difference @ cell, axis=1) < tolerance)
        left &= ~near
        centres.append(images[k] + difference[near].mean(axis=0))
    orbit = np.array(centres)
    return np.where(np.abs(orbit % 1.0 - 1.0) < 1e-9, 0.0, orbit % 1.0)


def _join(
    orbits: list[tuple[np.ndarray, Counter[int], str]], orbit: np.ndarray, number: int, occupancy: float, *, label: str,
    cell: np.ndarray, source: str,
) -> None:  # fmt: skip
    """Add a row's orbit: to an orbit already there if it lies on the same positions, else as a new one."""
    for k, (places, occupancies, labels) in enumerate(orbits):
        difference = places[:, None] - orbit[None]
        near = np.linalg.norm((difference - np.round(difference)) @ cell, axis=-1) < SAME_PLACE
        if not near.any():
            continue
        if near.shape[0] != near.shape[1] or not near.any(axis=0).all():
            problem = f"sites {labels} and {label} fall on each other only in part ({len(places)} and {len(orbit)} images)"
            allowed = "sites that share all their positions or none"
            raise BadInput(source, problem, allowed=allowed, fix="check the coordinates and the symmetry operations")
        occupancies[number] += occupancy  # type: ignore[assignment]
        orbits[k] = (places, occupancies, f"{labels}/{label}")
        return
    orbits.append((orbit, Counter({number: occupancy}), label))  # type: ignore[dict-item]


def _cross_check(parsed: ParsedCif, rows: int, text: str, source: str) -> None:
    """Reject the file if pymatgen's expansion has other amounts of an element (not checked for long P1 lists)."""
    if rows > _CROSS_CHECKED_ROWS:
        return
    from pymatgen.io.cif import CifParser

    ours: Counter[int] = Counter()
    for _, occupancies, _label in parsed.sites:
        ours.update(occupancies)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structures = CifParser.from_str(text, site_tolerance=1e-3).parse_structures(primitive=False, check_occu=False)
            theirs = Counter({e.Z: c for e, c in structures[0].composition.element_composition.items() if c > 1e-4})
    except Exception:
        parsed.notes.append("pymatgen could not read this CIF, so the composition was not cross-checked")
        return
    if len(structures) == 1 and any(abs(ours[n] - theirs[n]) > 0.01 * max(1.0, ours[n]) for n in ours | theirs):
        problem = f"its symmetry expands to {dict(ours)} or, with pymatgen, to {dict(theirs)} atoms per element"
        fix = "list symmetry operations and coordinates with at least five decimals"
        raise BadInput(source, problem, allowed="a CIF that both readers expand to the same composition", fix=fix)


def _unique_blocks(text: str) -> str:
    """The text with another name for each block whose name stands before; readers keep one block of a name."""
    names: Counter[str] = Counter()
    lines, in_text_field = text.split("\n"), False
    for k, line in enumerate(lines):
        if line.startswith(";"):
            in_text_field = not in_text_field
        elif not in_text_field and line.lower().startswith("data_"):
            name = line.split()[0].lower()
            names[name] += 1
            if names[name] > 1:
                lines[k] = f"{line.split()[0]}_again_{names[name]}"
    return "\n".join(lines)


def _refuse_duplicate_keys(text: str, source: str) -> None:
    """A tag given twice in one data block has two meanings."""
    seen: set[str] = set()
    in_text_field = False
    for line in text.splitlines():
        if line.startswith(";"):
            in_text_field = not in_text_field
        elif not in_text_field and line.lower().startswith("data_"):
            seen = set()
        elif not in_text_field and line.lstrip().startswith("_"):
            tag = line.split()[0].lower()
            if tag in seen:
                raise BadInput(source, f"the key {tag} is given twice", allowed="each key once", fix="delete one of the two")
            seen.add(tag)

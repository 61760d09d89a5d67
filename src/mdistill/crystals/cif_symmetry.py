"""Symmetry operations of a CIF: as listed, else those of its space group for the axes and origin that the cell and sites fit."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdistill.errors import BadInput

RHOMBOHEDRAL = (146, 148, 155, 160, 161, 166, 167)
"""Space groups with an R lattice: hexagonal or rhombohedral axes."""
TWO_ORIGINS = (48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130, 133, 134, 137, 138, 141, 142, 201, 203, 222, 224, 227, 228)
"""Space groups with two origin choices in the International Tables."""
_MISFIT = 0.03
"""Largest relative change of a squared cell length, or of a product of two, by an operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symmetry:
    """One reading of the symmetry of a file.

    Attributes:
        operations: [operation, 3, 4] rotation | translation, fractional.
        choice: Origin choice, 1 or 2; 0 where there is none, or the file states it.
        read_by_pymatgen: Whether pymatgen expands the file with these operations.
        notes: Decisions, one sentence each.
    """

    operations: np.ndarray
    choice: int = 0
    read_by_pymatgen: bool = True
    notes: tuple[str, ...] = ()


def symmetries(block: Any, data: dict[str, Any], cell: np.ndarray, source: str) -> list[Symmetry]:
    """Every reading of the symmetry that fits the cell; two where the origin choice is not stated.

    Raises:
        BadInput: A space group that is not understood, or operations that do not leave the cell as it is.
    """
    if any(re.search(r"(equiv_pos_as_xyz|symop_operation_xyz)", tag.lower()) for tag in data):
        found = [_by_pymatgen(block, data, source)]
    else:
        found = _of_group(block, data, cell, source)
    for one in found:
        _check_fit(one.operations, cell, source)
    return found


def _of_group(block: Any, data: dict[str, Any], cell: np.ndarray, source: str) -> list[Symmetry]:
    number, setting = _stated(data)
    if number in RHOMBOHEDRAL:
        rhombohedral = _is_rhombohedral(cell)
        if setting in ("R", "H") and (setting == "R") != rhombohedral:
            axes, other = ("rhombohedral", "hexagonal") if setting == "R" else ("hexagonal", "rhombohedral")
            problem = f"the space group is stated for {axes} axes, the cell has {other} ones"
            allowed, fix = "axes that fit the cell", "list the symmetry operations, or correct the symbol"
            raise BadInput(source, problem, allowed=allowed, fix=fix)
        if rhombohedral:
            note = f"space group {number} without operations: the cell has rhombohedral axes, so operations of those were taken"
            return [Symmetry(operations=_operations(number, 2), read_by_pymatgen=False, notes=(note,))]
        return [_by_pymatgen(block, data, source)]
    if number in TWO_ORIGINS:
        choices = [int(setting)] if setting in ("1", "2") else [1, 2]
        unknown = len(choices) == 2
        return [Symmetry(operations=_operations(number, c), choice=c if unknown else 0, read_by_pymatgen=False) for c in choices]
    one = _by_pymatgen(block, data, source)
    if number in range(3, 75) and not any(_symbol_tag(tag) for tag in data):
        note = f"only the number {number} of the space group is stated: its standard setting was taken"
        return [Symmetry(operations=one.operations, notes=(*one.notes, note))]
    return [one]


def _symbol_tag(tag: str) -> bool:
    return bool(re.search(r"(symmetry|space_group).*(h-m|h_m|hall)", tag.lower()))


def _stated(data: dict[str, Any]) -> tuple[int, str]:
    """Number of the space group (0: not understood) and its setting: "1", "2", "R", "H" or ""."""
    from pymatgen.symmetry.groups import SYMM_DATA

    numbers = {re.sub(r"[\s_]", "", key): int(entry["int_number"]) for key, entry in SYMM_DATA["space_group_encoding"].items()}
    number, setting = 0, str(next((data[t] for t in data if "coordinate_system_code" in t.lower()), "")).upper()
    for tag, value in data.items():
        if re.search(r"(tables_number|it_number)", tag.lower()) and re.fullmatch(r"\d+", str(value).strip()):
            number = int(value)
        if not _symbol_tag(tag) or "hall" in tag.lower():
            continue
        symbol = re.sub(r"[\s_]", "", str(value))
        if suffix := re.search(r"(?::([12HR])|(?<=.)([SZHR]))$", symbol):
            setting = suffix[1] or {"S": "1", "Z": "2"}.get(suffix[2], suffix[2])
            symbol = symbol[: suffix.start()]
        number = number or numbers.get(symbol, 0)
    return number, setting if setting in ("1", "2", "R", "H") else ""


def _is_rhombohedral(cell: np.ndarray) -> bool:
    """Equal lengths and angles, the angle not 120°."""
    metric = cell @ cell.T
    lengths, products = np.diag(metric), metric[np.triu_indices(3, 1)]
    scale = float(lengths.mean())
    return bool(np.ptp(lengths) < 0.02 * scale and np.ptp(products) < 0.02 * scale)


def _operations(number: int, setting: int) -> np.ndarray:
    from ase.spacegroup import Spacegroup

    rotations, translations = Spacegroup(number, setting=setting).get_op()
    return np.concatenate([np.asarray(rotations, dtype=float), np.asarray(translations, dtype=float)[:, :, None]], axis=2)


def _by_pymatgen(block: Any, data: dict[str, Any], source: str) -> Symmetry:
    """Operations listed in the file, or those of its symbol in pymatgen's tables."""
    from pymatgen.io.cif import CifParser

    parser = CifParser.from_str("data_any\n_cell_length_a 1\n")
    tags = [
        t
        for t in data
        if re.search(r"(symmetry|space_group).*(as_xyz|operation_xyz|h-m|hall|tables_number|it_number)", t.lower())
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = parser.get_symops(block)
    notes: tuple[str, ...] = ()
    if any("Defaulting to P1" in w for w in parser.warnings):
        stated = [str(data[t]) for t in tags if str(data[t]).replace(" ", "") not in ("P1", "1", "?", ".")]
        if stated:
            problem = f"the space group {stated[0]!r} is not understood and no operations are listed"
            allowed = "_space_group_symop_operation_xyz lines, or a standard Hermann–Mauguin symbol"
            raise BadInput(source, problem, allowed=allowed, fix="export the CIF with its symmetry operations")
        notes = ("no symmetry is stated: the listed sites are taken to be the whole cell (P1)",)
    return Symmetry(
        operations=np.array([np.hstack([o.rotation_matrix, o.translation_vector[:, None]]) for o in found]), notes=notes
    )


def _check_fit(operations: np.ndarray, cell: np.ndarray, source: str) -> None:
    """Operations must leave the lengths and angles of the cell as they are: Wᵀ G W = G,  G: metric tensor, W: rotation."""
    metric = cell @ cell.T
    turns = operations[:, :, :3]
    misfit = float(np.abs(np.swapaxes(turns, 1, 2) @ metric @ turns - metric).max() / metric.max())
    if misfit > _MISFIT:
        lengths = ", ".join(f"{x:.4g}" for x in np.linalg.norm(cell, axis=1))
        problem = f"its symmetry operations do not fit its cell ({lengths} Å): they change a squared length by {misfit:.0%}"
        allowed = "operations that leave lengths and angles of the cell as they are"
        raise BadInput(source, problem, allowed=allowed, fix="export the CIF again with the operations of its own axes")

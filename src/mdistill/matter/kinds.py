"""Kinds of matter, and what the main job asks of each: one table, `KINDS`. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mdistill.crystals.checks import ALONE, neighbour_pairs, perpendicular_heights
from mdistill.crystals.crystal import Crystal
from mdistill.crystals.task_checks import VACUUM
from mdistill.errors import BadInput

Kind = Literal["crystal", "molecular-crystal", "liquid", "slab", "wire", "molecule"]
AUTO = "auto"
WITH_H_FS, HEAVY_H_FS, WITHOUT_H_FS = 0.5, 1.0, 2.0
"""Usual time steps, fs: with hydrogen, with heavy hydrogen, and without."""
HEAVY_H_U = 2.5
"""Mass of hydrogen from which the longer step holds, u."""
MOBILE_IONS = ("Li", "Na", "Ag", "Cu", "K", "F", "Mg", "Zn", "Ca")
"""Mobile ions in order of preference, where none is named."""
_LEAST_VACUUM, _SUSPECT = 4.0, 4.5
"""Å between layers of atoms: the least that `--matter slab` opens, and what is told where the structure is read as bulk."""
_NONMETALS = frozenset({1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86})
_SAME_A, _NEIGHBOURS, _REACH = 0.05, 12, 6.0
_FEWEST, _MOSTLY, _FEW_IONS = 8, 0.8, 0.25
"""Of a liquid: molecules, share of atoms in them and of atoms unlike all others; largest share of ions in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matter:
    """What is asked of one kind of matter.

    Attributes:
        name: The kind.
        text: Its name in a sentence, and what that means for the run.
        periodic: Number of periodic directions.
        relaxes_cell: Whether the cell relaxes with the positions.
        barostat: How the cell changes in NpT; "": it is fixed, NVT alone.
        compressibility_per_GPa: Estimate for the rate of the barostat, 1/GPa.
        settling: Times of the NpT dynamics that gives the cell, over those asked for.
        thermostat: Thermostat of production; "": that of the settings. Bussi's rescales all momenta together, so a lone molecule
            would keep its axis of rotation.
        temperatures: Temperatures where none are asked for, K.
        headroom: Hottest labels over the highest temperature asked for.
        molecules: Whether bonds, angles and torsions are measured.
        density: Whether the density is a result.
        layers: Whether the motion of layers is measured.
    """

    name: Kind
    text: str
    periodic: int = 3
    relaxes_cell: bool = False
    barostat: Literal["", "isotropic", "anisotropic"] = ""
    compressibility_per_GPa: float = 0.03
    settling: float = 1.0
    thermostat: Literal["", "langevin"] = ""
    temperatures: tuple[float, ...] = (300.0, 500.0)
    headroom: float = 1.2
    molecules: bool = False
    density: bool = False
    layers: bool = False


_TABLE = (
    Matter(
        name="crystal", text="a bulk crystal", relaxes_cell=True, barostat="anisotropic", temperatures=(500.0, 700.0, 900.0)
    ),
    Matter(
        name="molecular-crystal", text="a crystal of molecules: density, bonds, angles and torsions are measured too",
        relaxes_cell=True, barostat="anisotropic", compressibility_per_GPa=0.1, temperatures=(200.0, 300.0), headroom=1.3,
        molecules=True, density=True,
    ),
    Matter(
        name="liquid", text="a liquid or polymer: the volume equilibrates in NpT, and the box is no minimum of energy",
        barostat="isotropic", compressibility_per_GPa=0.5, settling=4.0, temperatures=(300.0,), headroom=1.3, molecules=True,
        density=True,
    ),
    Matter(
        name="slab", text="a slab, open along one direction: its plane keeps the cell, and it has no stress and no volume",
        periodic=2, temperatures=(300.0, 500.0, 700.0), layers=True,
    ),
    Matter(name="wire", text="a wire, open along two directions: no stress, no volume", periodic=1),
    Matter(
        name="molecule", text="a molecule or cluster, open in all directions: no cell, no stress, Langevin dynamics",
        periodic=0, thermostat="langevin", headroom=1.6, molecules=True,
    ),
)  # fmt: skip
KINDS: dict[str, Matter] = {matter.name: matter for matter in _TABLE}


def recognised(crystal: Crystal, asked: str = AUTO) -> tuple[Matter, Crystal, list[str]]:
    """The kind of a structure, the structure with open directions where there is vacuum, and what the user should know.

    Args:
        crystal: As read.
        asked: A kind, or "auto".
    Returns:
        Along an open direction atoms lie beside each other, on one side of the vacuum.
    Raises:
        BadInput: The structure cannot be of the kind asked for; a single atom; partial occupancies without three periodic
            directions; atoms far from each other.
    """
    gaps = [_gap(crystal, axis) if crystal.pbc[axis] else (np.inf, 0.0) for axis in range(3)]
    least = _LEAST_VACUUM if asked != AUTO and KINDS[asked].periodic < 3 else VACUUM
    closed = KINDS[asked].periodic if asked != AUTO else 3
    widest = sorted(range(3), key=lambda axis: gaps[axis][0])
    stay = set(widest[:closed]) if asked != AUTO else {axis for axis in range(3) if gaps[axis][0] <= least}
    wrong = [axis for axis in range(3) if axis not in stay and gaps[axis][0] <= least]
    wrong += [axis for axis in stay if not crystal.pbc[axis]]
    if wrong:
        widths = ", ".join(f"{gap:.1f} Å along {'abc'[axis]}" for axis, (gap, _) in enumerate(gaps) if np.isfinite(gap))
        problem = f"{asked}, but the widest gaps between layers of atoms are {widths or 'in no periodic direction'}"
        allowed = f"{KINDS[asked].periodic} periodic directions, more than {_LEAST_VACUUM} Å of vacuum along the others"
        raise BadInput(crystal.source, problem, allowed=allowed, fix="another --matter, or --matter auto")
    opened = _opened(crystal, {axis: gaps[axis][1] for axis in range(3) if axis not in stay and crystal.pbc[axis]})
    _check_atoms(opened, periodic=len(stay))
    notes = _gap_notes(crystal, gaps, stay)
    if len(stay) < 3:
        matter = next(one for one in _TABLE if one.periodic == len(stay))
    else:
        matter = KINDS[asked if asked != AUTO else bulk_kind(crystal)]
    if matter.name != "crystal":
        notes.insert(0, f"{Path(crystal.source).name} is {matter.text}. Another kind: --matter")
    return matter, opened, notes


def mobile_ion(crystal: Crystal, matter: Matter) -> tuple[str, str]:
    """Symbol of the usual mobile ion ("none" where nothing carries charge), and why there is none."""
    from ase.data import chemical_symbols

    present = {chemical_symbols[z] for z in crystal.composition}
    ions = [symbol for symbol in MOBILE_IONS if symbol in present]
    if not any(z in _NONMETALS for z in crystal.composition):
        return "none", f"No conductivity of ions: {crystal.formula} is a metal, whose charge is carried by electrons."
    if matter.molecules:
        alone = _unbonded(crystal)
        ions = [symbol for symbol in ions if symbol in alone]
        if not ions:
            return "none", "No conductivity: every atom belongs to a neutral molecule, so nothing carries charge."
    if not ions:
        usual = ", ".join(MOBILE_IONS)
        return "none", f"No conductivity: {crystal.formula} has none of the usual mobile ions ({usual}); --mobile names another."
    return ions[0], ""


def further_notes(crystal: Crystal, kind: str, mobile: str, heavy_h: float) -> list[str]:
    """Why there is no conductivity, and what heavy hydrogen (u; 0: none) changes."""
    why = mobile_ion(crystal, KINDS[kind])[1] or "--mobile none: no transport properties were computed."
    heavy = f"Hydrogen weighs {heavy_h:g} u: averages over positions stay, frequencies and diffusion change."
    return [why] * (mobile == "none") + [heavy] * bool(heavy_h)


def _gap(crystal: Crystal, axis: int) -> tuple[float, float]:
    """Widest empty space along a lattice vector (Å), and the fractional coordinate of the atom after it."""
    ordered = np.sort(crystal.fractional[:, axis] % 1.0)
    steps = np.diff(np.append(ordered, ordered[0] + 1.0))
    widest = int(steps.argmax())
    height = float(perpendicular_heights(crystal.frame)[axis])
    return float(steps[widest]) * height, float(ordered[(widest + 1) % len(ordered)])


def _opened(crystal: Crystal, starts: dict[int, float]) -> Crystal:
    """The crystal without periodicity along some axes; its atoms follow the coordinate that is given for each."""
    if not starts:
        return crystal
    places = crystal.fractional.copy()
    for axis, start in starts.items():
        places[:, axis] = (places[:, axis] - start + 1e-9) % 1.0
    sites = tuple(replace(site, fractional=tuple(row)) for site, row in zip(crystal.sites, places.tolist(), strict=True))
    pbc = tuple(closed and axis not in starts for axis, closed in enumerate(crystal.pbc))
    return replace(crystal, sites=sites, pbc=(pbc[0], pbc[1], pbc[2]))


def _check_atoms(crystal: Crystal, *, periodic: int) -> None:
    if periodic < 3 and not crystal.ordered:
        problem, fix = "partial occupancies in a structure with open directions", "order it first, or give the bulk crystal"
        raise BadInput(crystal.source, problem, allowed="whole atoms on every site", fix=fix)
    if len(crystal.sites) == 1 and periodic == 0:
        allowed, fix = "two atoms or more", "a lone atom has no forces: check the cell and the periodicity"
        raise BadInput(crystal.source, "a single atom", allowed=allowed, fix=fix)
    if not len(neighbour_pairs(crystal, ALONE)[0]):
        fix = "check the scale factor and the unit of the file"
        raise BadInput(crystal.source, f"no atom has another within {ALONE:g} Å", allowed="bonded atoms", fix=fix)


def _gap_notes(crystal: Crystal, gaps: list[tuple[float, float]], stay: set[int]) -> list[str]:
    notes = []
    for axis, (gap, _) in enumerate(gaps):
        if axis in stay and gap > _SUSPECT and len(stay) == 3:
            notes.append(
                f"{gap:.1f} Å of empty space along {'abc'[axis]}: read as bulk, in which a slab interacts with its image; "
                f"--matter slab opens that direction"
            )
        elif axis not in stay and crystal.pbc[axis]:
            notes.append(f"{gap:.1f} Å of vacuum along {'abc'[axis]}: that direction is open, so no image is seen across it")
    return notes


def bulk_kind(crystal: Crystal, *, copies: int = 1) -> Kind:
    """Crystal, crystal of molecules, or liquid: molecules of which no two look alike to their neighbours.

    `copies`: How often the structure repeats its cell.
    """
    from mdistill.io.structures import to_system
    from mdistill.matter.bonds import bonds_of, whole_molecules

    if not crystal.ordered:
        return "crystal"
    system = to_system(crystal)
    groups = whole_molecules(bonds_of(system), system.n_atoms)
    molecules = [one for one in groups if len(one) > 1]
    ions = len(groups) - len(molecules)
    if sum(map(len, molecules)) < _MOSTLY * system.n_atoms or ions > _FEW_IONS * len(groups):
        return "crystal"
    if len(molecules) >= _FEWEST and _distinct(crystal, copies) > _MOSTLY:
        return "liquid"
    return "crystal" if ions else "molecular-crystal"


def _unbonded(crystal: Crystal) -> set[str]:
    """Elements of which some atom has no bond."""
    from ase.data import chemical_symbols

    from mdistill.io.structures import to_system
    from mdistill.matter.bonds import bonds_of

    system = to_system(crystal)
    bonds = bonds_of(system)
    bonded = set(bonds.first.tolist()) | set(bonds.second.tolist())
    return {chemical_symbols[z] for k, z in enumerate(system.numbers.tolist()) if k not in bonded}


def _distinct(crystal: Crystal, copies: int) -> float:
    """Share of atoms whose distances to their nearest neighbours none of their element has but those in copies of the cell."""
    i, _, distance = neighbour_pairs(crystal, _REACH)
    order = np.lexsort((distance, i))
    bins, ends = np.rint(distance[order] / _SAME_A).astype(int), np.bincount(i, minlength=len(crystal.sites)).cumsum()
    seen: dict[tuple[object, ...], int] = {}
    for site, begin, end in zip(crystal.sites, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        key = (next(iter(site.occupancies)), *bins[begin : min(end, begin + _NEIGHBOURS)].tolist())
        seen[key] = seen.get(key, 0) + 1
    return sum(count for count in seen.values() if count <= copies) / max(len(crystal.sites), 1)

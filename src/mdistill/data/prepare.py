"""From a crystal to relaxed, ordered, large enough structures: what every later stage starts from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from mdistill.crystals.charges import formal_charges
from mdistill.crystals.crystal import Crystal, formula
from mdistill.crystals.task_checks import check_elements
from mdistill.data.disorder import charges_of, describe, order, repeat, site_classes
from mdistill.data.relax import Relaxation, relax
from mdistill.data.settings import PrepareSettings
from mdistill.data.supercell import SLACK, shortest_vector, supercell_for
from mdistill.errors import BadInput
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.structures import to_system
from mdistill.matter.kinds import recognised
from mdistill.progress import progress
from mdistill.runs.results import Cell, Table
from mdistill.types import Potential, System

_LARGEST_DISTORTION = 0.08
"""Change of shape in relaxation beyond which the structure is another phase. Li6PS5Cl changes by 0.002, bcc AgI by 0.20."""
_PUBLISHED = (
    "relaxation stretched the cell by {:.0%} in one direction: the teacher has another phase at 0 K. It was undone, so that "
    "dynamics begins in the published phase; give the relaxed structure as input to begin in that one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `prepare` will do, worked out without the teacher.

    Attributes:
        sites: Table of the crystallographic sites: multiplicity, occupancies, whole atoms in the supercell.
        rule: The disorder rule, as sentences.
        supercell: Repeats along the lattice vectors.
        atoms: Whole atoms in the supercell.
        composition: "Li24P4S20Cl4".
        lengths: Å, lengths of the supercell's lattice vectors.
        relaxation_calls: Teacher calls that relaxation needs at most.
        notes: Things the user should know, one sentence each.
    """

    sites: Table
    rule: str
    supercell: tuple[int, int, int]
    atoms: int
    composition: str
    lengths: tuple[float, float, float]
    relaxation_calls: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Structures to start from.

    Attributes:
        systems: One System (float64) per ordering, lowest relaxed energy first.
        relaxations: How each relaxed.
        rule: The disorder rule, as sentences.
        supercell: Repeats along the lattice vectors.
        notes: Things the user should know, one sentence each.
    """

    systems: list[System]
    relaxations: list[Relaxation]
    rule: str
    supercell: tuple[int, int, int]
    notes: tuple[str, ...] = ()


def plan(crystal: Crystal, settings: PrepareSettings, *, elements: Collection[int] = (), subject: str = "the teacher") -> Plan:
    """Sites, disorder rule and supercell: what --dry-run prints. No teacher is called.

    Args:
        crystal: As read.
        settings: How it will be prepared.
        elements: Atomic numbers the teacher knows; empty for any.
        subject: The teacher's name, for messages.
    Raises:
        BadInput: Not of the kind asked for, an unknown element, a composition that cannot be neutral, too many atoms.
    """
    check_elements(crystal, elements, subject)
    matter, crystal, told = recognised(crystal, settings.matter)
    slack = SLACK if matter.molecules else 0.0
    supercell = (1, 1, 1)
    if matter.periodic:
        frame, least = crystal.frame, settings.min_length
        supercell = supercell_for(frame, settings.cutoff, min_length=least, slack=slack, pbc=crystal.pbc)
    expected = crystal.n_atoms * math.prod(supercell)
    if expected > settings.max_atoms:
        problem = f"{expected:.0f} atoms in the {'×'.join(map(str, supercell))} supercell"
        fix = "start from the primitive cell, or raise --prepare.max-atoms (of train transport: --make.max-atoms)"
        raise BadInput(crystal.source, problem, allowed=f"at most {settings.max_atoms} (max_atoms)", fix=fix)
    large = repeat(crystal, supercell)
    columns = ["site", "number", "occupancy", "atoms in the supercell"]
    notes = [*told, *crystal.notes, *crystal.unused]
    if (shortest := shortest_vector(large.cell, large.pbc)) <= 2.0 * settings.cutoff:
        notes.append(
            f"the box of molecules is {shortest:.2f} Å long, twice the cutoff {2.0 * settings.cutoff:g} Å: it is not repeated for"
            f" less than {SLACK:.0%}; --prepare.min-length {math.ceil(2.0 * settings.cutoff)} repeats it"
        )
    if crystal.ordered:
        rule = "No disorder: every site holds one whole atom."
        composition = large.composition
        rows = [[label, n, occupancies, n] for label, n, occupancies in _site_rows(large)]
        if matter.name == "crystal" and formal_charges(crystal) is None:
            notes.append(f"{crystal.formula} is not neutral with usual charges of its elements: are atoms missing?")
    else:
        charges = charges_of(crystal)
        classes = site_classes(large, charges)
        rule = describe(crystal, large, classes, charges=charges, settings=settings.disorder)
        placed = [(n, count) for one in classes for n, count in one.counts.items() if n and count]
        composition = {n: float(sum(c for m, c in placed if m == n)) for n in sorted({n for n, _ in placed})}
        rows = [
            [
                one.label,
                len(one.sites),
                _shares(one.by_occupancy, len(one.sites)),
                formula({n: c for n, c in one.counts.items() if n and c}),
            ]
            for one in classes
        ]
    table = Table("sites", "Sites", "structure", columns, _cells(rows), rule)
    lengths = np.linalg.norm(large.cell, axis=1).tolist()
    return Plan(
        sites=table, rule=rule, supercell=supercell, atoms=round(sum(composition.values())), composition=formula(composition),
        lengths=(lengths[0], lengths[1], lengths[2]), relaxation_calls=settings.relax_steps * settings.orderings,
        notes=tuple(notes),
    )  # fmt: skip


def _cells(rows: list[list[object]]) -> list[list[Cell]]:
    return [[value if isinstance(value, (str, int)) else str(value) for value in row] for row in rows]


def _site_rows(crystal: Crystal) -> Iterator[tuple[str, int, str]]:
    """(label, sites, occupancies) of each crystallographic site."""
    groups: dict[tuple[str, str], int] = {}
    for site in crystal.sites:
        key = (site.label, _shares(site.occupancies, 1))
        groups[key] = groups.get(key, 0) + 1
    for (label, occupancies), count in groups.items():
        yield label, count, occupancies


def _shares(amounts: dict[int, float], sites: int) -> str:
    """'S 0.615, Cl 0.385' (the rest up to 1 is vacancy)."""
    from ase.data import chemical_symbols

    return ", ".join(f"{chemical_symbols[n]} {amount / sites:.4g}" for n, amount in amounts.items() if n)


def prepare(
    crystal: Crystal, potential: Potential, settings: PrepareSettings, *, seed: int = 0, stop: StopRequest = NEVER,
) -> Preparation:  # fmt: skip
    """Order, repeat and relax a crystal with the teacher; positions and cell relax together.

    Args:
        crystal: As read.
        potential: The teacher.
        settings: Cutoff, orderings, relaxation.
        seed: Of the search for orderings.
        stop: Checked between relaxation steps.
    Raises:
        BadInput: See `plan`; or no arrangement without close pairs.
        NotRelaxed: The teacher raised an error, or returned a non-finite energy, force or stress.
        Interrupted: A stop was requested.
    """
    planned = plan(crystal, settings, elements=potential.elements, subject=potential.name)
    matter, crystal, _ = recognised(crystal, settings.matter)
    orderings = order(crystal, supercell=planned.supercell, count=settings.orderings, settings=settings.disorder, seed=seed)
    notes = list(planned.notes)
    if len(orderings) < settings.orderings:
        notes.append(f"{settings.orderings} orderings were requested; the search found {len(orderings)}")
    starts = [to_system(one.crystal) for one in orderings]
    with progress("relax", (settings.relax_steps + 1) * len(orderings)) as advance:
        relaxing = partial(
            relax, potential=potential, largest_force=settings.largest_force, stress_GPa=settings.stress_gpa,
            fixed_cell=not matter.relaxes_cell, stop=stop,
        )  # fmt: skip
        relaxed = [relaxing(start, max_steps=settings.relax_steps, advance=advance) for start in starts]
        if (worst := max(result.distortion for _, result in relaxed)) > _LARGEST_DISTORTION:
            notes.append(_PUBLISHED.format(worst))
            relaxed = [relaxing(start, max_steps=0) for start in starts]
    relaxed.sort(key=lambda pair: pair[1].energy)
    for k, (system, result) in enumerate(relaxed):
        notes.extend(_relaxation_notes(k, system, result, settings) if matter.name != "liquid" else ())
    return Preparation(
        systems=[system for system, _ in relaxed], relaxations=[result for _, result in relaxed], rule=orderings[0].rule,
        supercell=planned.supercell, notes=tuple(notes),
    )  # fmt: skip


def _relaxation_notes(k: int, system: System, result: Relaxation, settings: PrepareSettings) -> Iterator[str]:
    """What a reader of the report should know of ordering k."""
    pressure = "no pressure" if result.pressure is None else f"{result.pressure:+.2f} GPa"
    reached = f"largest force {1e3 * result.max_force:.3g} meV/Å, {pressure}, volume {result.strain:+.1%}"
    if not result.converged and settings.relax_steps > 0:
        yield f"Ordering {k + 1} is not fully relaxed after {result.steps} teacher calls: {reached}."
    if abs(result.strain) > 0.15:
        yield f"Ordering {k + 1}: relaxation changed the volume by {result.strain:+.0%}; does the teacher know this material?"
    shortest = shortest_vector(system.cell[0].numpy(), system.pbc[0].tolist())
    if shortest <= 2.0 * settings.cutoff:
        yield f"Ordering {k + 1}: after relaxation the shortest lattice vector is {shortest:.2f} Å, below twice the cutoff."


def relaxation_table(done: Preparation) -> Table:
    """How each kept ordering relaxed with the teacher."""
    rows = [
        [
            f"{k}", system.n_atoms, one.energy / system.n_atoms, 1e3 * one.max_force, one.pressure, 100.0 * one.strain, one.steps,
            "yes" if one.converged else "no",
        ]
        for k, (system, one) in enumerate(zip(done.systems, done.relaxations, strict=True), start=1)
    ]  # fmt: skip
    columns = [
        "ordering", "atoms", "energy (eV/atom)", "max |F| (meV/Å)", "pressure (GPa)", "volume change (%)", "calls", "converged",
    ]  # fmt: skip
    return Table("relaxation", "Orderings relaxed by the teacher", "structure", columns, list(map(list, rows)))

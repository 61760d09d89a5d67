"""Partial occupancies to whole atoms by a stated rule: numbers, positions, and the sentences of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mdistill.crystals.charges import NEUTRAL, formal_charges, net_charge, positive_charge
from mdistill.crystals.checks import perpendicular_heights
from mdistill.crystals.crystal import Crystal, Site, formula
from mdistill.data.arrangement import VACANCY, Arrangements, ClosePairs, SiteClass, find_arrangements
from mdistill.data.settings import DisorderSettings
from mdistill.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """One way to fill the sites with whole atoms.

    Attributes:
        crystal: The ordered supercell.
        energy: Electrostatic energy of the formal charges, eV per cell; 0 for a crystal that was ordered already.
        rule: The rule of this choice, for the report.
    """

    crystal: Crystal
    energy: float
    rule: str


def repeat(crystal: Crystal, supercell: tuple[int, int, int]) -> Crystal:
    """The crystal repeated along its lattice vectors, with occupancies and labels; cell by cell, sites in order."""
    shifts = np.stack(np.meshgrid(*(np.arange(n) for n in supercell), indexing="ij"), axis=-1).reshape(-1, 3)
    sites = tuple(
        replace(site, fractional=tuple(((np.array(site.fractional) + shift) / supercell).tolist()))  # type: ignore[arg-type]
        for shift in shifts
        for site in crystal.sites
    )
    many = int(np.prod(supercell))
    charge, unpaired = (None if one is None else many * one for one in (crystal.charge, crystal.unpaired))
    return replace(crystal, cell=crystal.cell * np.array(supercell)[:, None], sites=sites, charge=charge, unpaired=unpaired)


def charges_of(crystal: Crystal) -> dict[int, float]:
    """Formal charges (e) with which the crystal is neutral, VACANCY included as 0.

    Raises:
        BadInput: No usual charges make it neutral (a wrong or missing occupancy, or missing hydrogen).
    """
    charges = formal_charges(crystal)
    if charges is None:
        problem = f"{crystal.formula} is not neutral with any usual charges of its elements"
        fix = "correct the occupancies (are hydrogen atoms or lithium sites missing?) or state _atom_type_oxidation_number"
        raise BadInput(crystal.source, problem, allowed=f"a net charge below {NEUTRAL:.0%} of the positive charge", fix=fix)
    return charges | {VACANCY: 0.0}


def site_classes(crystal: Crystal, charges: dict[int, float]) -> list[SiteClass]:
    """The classes of sites with the whole numbers of atoms each gets.

    Sites with one label form a class; where every label is unique (a P1 list) sites with equal occupancies do. The
    counts n minimise Σ|n − occupancy| over classes and over elements, with full classes and a neutral cell: the largest
    remainder rule under charge neutrality, solved exactly as an integer program.

    Raises:
        BadInput: No whole numbers are neutral.
    """
    groups: dict[object, list[int]] = {}
    unique = len({site.label for site in crystal.sites}) == len(crystal.sites)
    for k, site in enumerate(crystal.sites):
        occupancies = tuple(sorted((n, round(o, 3)) for n, o in site.occupancies.items()))
        groups.setdefault(occupancies if unique else (site.label, occupancies), []).append(k)
    classes = []
    for members in groups.values():
        first = crystal.sites[members[0]]
        total = sum(first.occupancies.values())
        shares = {n: len(members) * o / max(total, 1.0) for n, o in first.occupancies.items()}
        empty = len(members) - sum(shares.values())
        shares = shares | ({VACANCY: empty} if empty > 1e-3 * len(members) else {})
        classes.append(SiteClass(label=first.label, sites=tuple(members), by_occupancy=shares))
    counts = _whole_numbers(crystal, classes, charges)
    return [
        replace(one, counts=dict(zip(one.by_occupancy, whole, strict=True))) for one, whole in zip(classes, counts, strict=True)
    ]


def _whole_numbers(crystal: Crystal, classes: list[SiteClass], charges: dict[int, float]) -> list[list[int]]:
    """Variables: n of each (class, species), then its deviation, then the deviation of each element's total."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    pairs = [(c, number) for c, one in enumerate(classes) for number in one.by_occupancy]
    targets = np.array([classes[c].by_occupancy[number] for c, number in pairs])
    elements = sorted({number for _, number in pairs})
    member = np.array([[number == element for _, number in pairs] for element in elements], dtype=float)
    inside = np.array([[c == k for c, _ in pairs] for k in range(len(classes))], dtype=float)
    n, e = len(pairs), len(elements)
    charge = np.array([charges[number] for _, number in pairs])
    whole_charges = all(float(q).is_integer() for q in charges.values())
    slack = 1e-6 if whole_charges else 0.5
    none = np.zeros
    rows = [
        LinearConstraint(np.hstack([inside, none((len(classes), n + e))]), *[[len(one.sites) for one in classes]] * 2),
        LinearConstraint(np.hstack([charge, none(n + e)])[None], -slack, slack),
        LinearConstraint(np.hstack([np.eye(n), -np.eye(n), none((n, e))]), -np.inf, targets),
        LinearConstraint(np.hstack([-np.eye(n), -np.eye(n), none((n, e))]), -np.inf, -targets),
        LinearConstraint(np.hstack([member, none((e, n)), -np.eye(e)]), -np.inf, member @ targets),
        LinearConstraint(np.hstack([-member, none((e, n)), -np.eye(e)]), -np.inf, -member @ targets),
    ]
    result = milp(
        np.concatenate([none(n), np.ones(n + e)]),
        constraints=rows,
        integrality=np.concatenate([np.ones(n), none(n + e)]),
        bounds=Bounds(0.0, np.inf),
    )
    if result.x is None:
        problem = f"no whole numbers of atoms on its sites make {crystal.formula} neutral"
        larger = math.ceil(2.0 * float(perpendicular_heights(crystal.cell).min()))
        fix = f"correct the occupancies, or choose a larger cell, such as --prepare.min-length {larger}"
        raise BadInput(crystal.source, problem, allowed="occupancies near a neutral composition", fix=fix)
    rounded = np.rint(result.x[:n]).astype(int)
    return [[int(k) for k, (c, _) in zip(rounded, pairs, strict=True) if c == index] for index in range(len(classes))]


def order(
    crystal: Crystal, *, supercell: tuple[int, int, int] = (1, 1, 1), count: int = 1,
    settings: DisorderSettings | None = None, seed: int = 0,
) -> list[Ordering]:  # fmt: skip
    """Distinct orderings of low energy of a crystal in a supercell, lowest electrostatic energy first.

    Args:
        crystal: With partial occupancies, mixed sites or vacancies; an ordered one comes back repeated.
        supercell: Repeats along the three lattice vectors.
        count: Largest number of orderings.
        settings: The search.
        seed: Of the Monte Carlo search; same seed, same orderings.
    Raises:
        BadInput: Not neutral, too many sites, or no arrangement without pairs that are too close.
    """
    settings = settings or DisorderSettings()
    large = repeat(crystal, supercell)
    if crystal.ordered:
        return [Ordering(crystal=large, energy=0.0, rule="No disorder: every site holds one whole atom.")]
    if len(large.sites) > settings.most_sites:
        problem = f"{len(large.sites)} sites in the {'×'.join(map(str, supercell))} supercell"
        allowed = f"at most {settings.most_sites} (most_sites)"
        fix = "choose a smaller cutoff (--cutoff) or cell, or raise --prepare.disorder.most-sites"
        raise BadInput(crystal.source, problem, allowed=allowed, fix=fix)
    charges = charges_of(crystal)
    classes = site_classes(large, charges)
    arrangements, applied = _arrangements(large, classes, charges=charges, count=count, settings=settings, seed=seed)
    rule = describe(crystal, large, classes, charges=charges, settings=applied, arrangements=arrangements)
    for kind, before, now in (
        ("cations", settings.like_factor, applied.like_factor),
        ("cation and anion", settings.unlike_factor, applied.unlike_factor),
    ):
        if now < before:
            rule += (
                f" The factor of {kind} was lowered from {before:g} to {now:g}: with these occupancies every arrangement found"
                " has closer pairs."
            )
    several = len(arrangements.numbers) > 1
    return [
        Ordering(crystal=_filled(large, numbers, by_element=several), energy=float(energy), rule=rule)
        for energy, numbers in zip(arrangements.energies, arrangements.numbers, strict=True)
    ]


def _arrangements(
    large: Crystal, classes: list[SiteClass], *, charges: dict[int, float], count: int, settings: DisorderSettings, seed: int
) -> tuple[Arrangements, DisorderSettings]:
    """Arrangements, and the settings with the factors lowered as far as was needed."""
    while True:
        try:
            return find_arrangements(
                large, classes, charges=charges, limits=closest_allowed(charges, settings), count=count,
                settings=settings, generator=np.random.default_rng(seed),
            ), settings  # fmt: skip
        except ClosePairs as error:
            factor, least = f"{error.factor}_factor", f"least_{error.factor}_factor"
            now, lowest = getattr(settings, factor), getattr(settings, least, np.inf)
            if now <= lowest:
                raise
            settings = replace(settings, **{factor: max(round(now - 0.05, 6), lowest)})


def _filled(large: Crystal, numbers: np.ndarray, *, by_element: bool) -> Crystal:
    """The sites that are not empty, each with its whole atom; by element, so that atom k is of one element in all orderings."""
    places = [k for k in (np.argsort(numbers, kind="stable") if by_element else range(len(numbers))) if numbers[k] != VACANCY]
    sites = [
        Site(fractional=large.sites[k].fractional, occupancies={int(numbers[k]): 1.0}, label=large.sites[k].label) for k in places
    ]
    return replace(large, sites=tuple(sites))


def closest_allowed(charges: dict[int, float], settings: DisorderSettings) -> dict[tuple[int, int], float]:
    """Least distance (Å) of each pair of elements: a factor times the sum of covalent radii, by the signs of the charges.

    Ions of like charge are no neighbours in a salt, so Li–Li nearer than 2.05 Å (0.8 × 2.56) or O–O nearer than 1.85 Å
    (1.4 × 1.32) means two halves of one split site; opposite charges bond, and come close to the sum (P–O: 0.9 of it).

    Reference:
        Radii: B. Cordero et al., Dalton Trans. 2832 (2008), doi 10.1039/b801115j.
    """
    from ase.data import covalent_radii

    limits = {}
    for a, qa in charges.items():
        for b, qb in charges.items():
            like = settings.anion_factor if max(qa, qb) < 0 else settings.like_factor
            factor = settings.unlike_factor if qa * qb < 0 else like
            limits[a, b] = 0.0 if VACANCY in (a, b) else float(factor * (covalent_radii[a] + covalent_radii[b]))
    return limits


def arrangements_count(classes: list[SiteClass]) -> float:
    """Number of ways to place the whole atoms (∞ beyond floating point)."""
    logarithm = sum(
        math.lgamma(len(one.sites) + 1) - sum(math.lgamma(count + 1) for count in one.counts.values()) for one in classes
    )
    return math.exp(logarithm) if logarithm < 700 else math.inf


def describe(
    crystal: Crystal, large: Crystal, classes: list[SiteClass], *, charges: dict[int, float], settings: DisorderSettings,
    arrangements: Arrangements | None = None,
) -> str:  # fmt: skip
    """The rule as sentences, for the report and for --dry-run (then without the energies)."""
    parts = []
    for one in classes:
        if len(one.by_occupancy) > 1:
            shares = ", ".join(f"{n} {_name(k)} (by occupancy {one.by_occupancy[k]:.4g})" for k, n in one.counts.items())
            parts.append(f"{one.label}: {len(one.sites)} sites get {shares}")
    total: dict[int, float] = {}
    for one in classes:
        for number, count in one.counts.items():
            if number != VACANCY and count:
                total[number] = total.get(number, 0.0) + count
    gone = [_name(n) for n in crystal.composition if n not in total]
    signs = ", ".join(f"{_name(n)} {q:+.3g}" for n, q in charges.items() if n)
    ways = arrangements_count(classes)
    search = (
        f"all {ways:.0f} arrangements were ranked"
        if ways <= settings.enumerate_up_to
        else f"of {ways:.1e} arrangements, swap Monte Carlo ({settings.anneals} annealing runs) searched for those of low energy"
    )
    sentences = [
        "Whole atoms by the largest remainder rule under charge neutrality: " + "; ".join(parts) + ".",
        f"Composition {formula(total)}; by occupancy {large.formula}.",
        f"Formal charges {signs}; {search} by Ewald energy.",
        f"Pairs closer than {settings.like_factor:.3g} (cations), {settings.anion_factor:g} (anions) or "
        f"{settings.unlike_factor:g} (cation and anion) times the sum of covalent radii were rejected "
        f"({_examples(classes, charges, settings)}).",
    ]
    net, positive = net_charge(crystal.composition, charges), positive_charge(crystal.composition, charges)
    if abs(net) > 0.005 * positive:
        sentences.append(f"The file's own occupancies carry a net charge of {net:+.3g} e per cell; the counts make it zero.")
    unused = {n: q for n, q in crystal.oxidation.items() if n in charges and abs(q - charges[n]) > 1e-6}
    if unused:
        stated = ", ".join(f"{_name(n)} {q:+.3g}" for n, q in unused.items())
        sentences.append(f"The file states {stated}, with which the crystal is not neutral: these charges are not used.")
    if any(
        len({charges[n] for n in placed}) < len(placed) for placed in ([n for n, c in one.counts.items() if c] for one in classes)
    ):
        sentences.append("Atoms of equal charge on one class of sites have equal energy: how they share it is random (seed).")
    if gone:
        sentences.append(f"{', '.join(gone)} rounds to no atom in this cell: a larger cell would keep it.")
    if arrangements is not None and len(arrangements.energies) > 1:
        above = ", ".join(f"{energy - arrangements.energies[0]:.3g}" for energy in arrangements.energies)
        sentences.append(f"{len(arrangements.energies)} distinct orderings were chosen, {above} eV per cell above the lowest.")
    return " ".join(sentences)


def _name(number: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[number] if number else "empty"


def _examples(classes: list[SiteClass], charges: dict[int, float], settings: DisorderSettings) -> str:
    """'Li–Li 2.05 Å' for each element on a disordered site."""
    limits = closest_allowed(charges, settings)
    placed = sorted({n for one in classes if one.mixed for n in one.counts if n != VACANCY})
    return ", ".join(f"{_name(n)}–{_name(n)} {limits[n, n]:.2f} Å" for n in placed)

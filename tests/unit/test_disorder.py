"""Orderings of disordered crystals: counts, distances, energies, distinctness; oracles are Madelung constants and pymatgen."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from conductors import cif, conductor
from mdistill.crystals.checks import neighbour_pairs
from mdistill.crystals.crystal import Crystal, Site
from mdistill.data import arrangement
from mdistill.data.disorder import charges_of, closest_allowed, order, repeat, site_classes
from mdistill.data.ewald import ewald_matrix
from mdistill.data.settings import DisorderSettings
from mdistill.data.supercell import supercell_for
from mdistill.errors import BadInput
from mdistill.io.structures import numbers_of, read_structure, to_atoms
from mdistill.units import COULOMB

EXAMPLE = Path(__file__).parents[2] / "examples" / "li6ps5cl.cif"
DATA = os.environ.get("MDISTILL_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="MDISTILL_DATA is not set")
QUICK = DisorderSettings(anneals=2, sweeps=60)


def crystal_of(*rows: tuple[str, tuple[float, float, float], dict[int, float]], a: float = 6.0) -> Crystal:
    sites = tuple(Site(fractional=place, occupancies=occupancies, label=label) for label, place, occupancies in rows)
    return Crystal(cell=a * np.eye(3), pbc=(True, True, True), sites=sites, source="made up")


def cube(a: float = 6.0) -> Crystal:
    """Eight half-occupied Li sites (4 Li) on a cube around four F."""
    corners = [(x, y, z) for x in (0.0, 0.5) for y in (0.0, 0.5) for z in (0.0, 0.5)]
    li = [("Li1", corner, {3: 0.5}) for corner in corners]
    f = [("F1", place, {9: 1.0}) for place in ((0.25, 0.25, 0.25), (0.75, 0.75, 0.25), (0.75, 0.25, 0.75), (0.25, 0.75, 0.75))]
    return crystal_of(*li, *f, a=a)


def test_orderings_list_their_atoms_alike() -> None:
    """Else runs of several of them would be of different atoms, and no D be known."""
    places = [(x, y, z) for x in (0.0, 0.5) for y in (0.0, 0.5) for z in (0.0, 0.5)]
    anions = [("X", tuple(c + 0.25 for c in place), {9: 0.5, 17: 0.5}) for place in places]
    found = order(crystal_of(*(("Li1", place, {3: 1.0}) for place in places), *anions), count=3, settings=QUICK)
    assert len(found) == 3 and len({tuple(numbers_of(one.crystal).tolist()) for one in found}) == 1
    assert len({tuple(site.fractional for site in one.crystal.sites) for one in found}) == 3


def check_madelung(matrix: np.ndarray, charges: np.ndarray, nearest: float, pairs: int, madelung: float) -> float:
    energy = 0.5 * float(charges @ matrix @ charges) / pairs
    found = -energy * nearest / COULOMB
    assert abs(found - madelung) < 1e-6
    return found


@pytest.mark.parametrize(("structure", "madelung"), [("rocksalt", 1.7475645946), ("cesiumchloride", 1.7626747731)])
def test_ewald_gives_madelung_constants(structure: str, madelung: float, trust: Callable[..., None]) -> None:
    from ase.build import bulk

    atoms = bulk("NaCl" if structure == "rocksalt" else "CsCl", structure, a=5.0).repeat((2, 2, 1))
    charges = np.where(np.isin(atoms.numbers, [11, 55]), 1.0, -1.0)
    nearest = 2.5 if structure == "rocksalt" else 2.5 * np.sqrt(3.0)
    found = check_madelung(ewald_matrix(atoms.positions, atoms.cell[:]), charges, nearest, len(atoms) // 2, madelung)
    trust("T30", f"Madelung constant, {structure}", found, f"{madelung} ± 1e-6")


@pytest.mark.planted
def test_ewald_without_self_term_fails(trust: Callable[..., None]) -> None:
    from ase.build import bulk

    atoms = bulk("NaCl", "rocksalt", a=5.0)
    matrix = ewald_matrix(atoms.positions, atoms.cell[:])
    matrix[np.diag_indices(2)] *= 0.99
    with pytest.raises(AssertionError):
        check_madelung(matrix, np.array([1.0, -1.0]), 2.5, 1, 1.7475645946)
    trust("T30", "self term of the Ewald sum off by 1 %", "caught", "Madelung test fails", planted=True)


def test_ewald_against_pymatgen_in_a_triclinic_cell() -> None:
    from pymatgen.analysis.ewald import EwaldSummation
    from pymatgen.core import Lattice, Structure

    generator = np.random.default_rng(3)
    cell = np.array([[6.0, 0.3, 0.0], [1.5, 7.0, -0.4], [0.2, 2.0, 5.0]])
    fractional = generator.random((7, 3))
    charges = np.array([1, 1, 1, -2, 5, -3, -3])
    species = ["Li+", "Li+", "Li+", "S2-", "P5+", "N3-", "N3-"]
    theirs = EwaldSummation(Structure(Lattice(cell), species, fractional), acc_factor=16).total_energy
    assert 0.5 * charges @ ewald_matrix(fractional @ cell, cell) @ charges == pytest.approx(theirs, abs=2e-4)


def check_orderings(
    crystal: Crystal,
    supercell: tuple[int, int, int],
    composition: dict[int, float],
    settings: DisorderSettings,
    *,
    count: int = 1,
    factor: float = 0.8,
) -> float:
    """Composition, neutrality, distances and distinctness of what `order` returns; gives the smallest distance ratio."""
    charges = charges_of(crystal)
    found = order(crystal, supercell=supercell, count=count, settings=settings)
    ratios = []
    for one in found:
        numbers = numbers_of(one.crystal)
        assert one.crystal.composition == composition
        assert abs(sum(charges[int(n)] for n in numbers)) < 1e-6
        limits = closest_allowed(charges, replace(settings, like_factor=factor))
        i, j, distance = neighbour_pairs(one.crystal, 3.5)
        least = np.array([limits[int(numbers[a]), int(numbers[b])] for a, b in zip(i, j, strict=True)])
        ratios.append(float((distance / np.maximum(least, 1e-9)).min()))
        assert ratios[-1] >= 1.0
    energies = [one.energy for one in found]
    assert energies == sorted(energies)
    return min(ratios)


def test_example_becomes_li24(trust: Callable[..., None]) -> None:
    crystal = read_structure(EXAMPLE)
    check_orderings(crystal, (1, 1, 1), {3: 24.0, 15: 4.0, 16: 20.0, 17: 4.0}, QUICK, count=3)
    found = order(crystal, count=3, settings=QUICK)
    numbers = numbers_of(found[0].crystal)
    i, j, distance = neighbour_pairs(found[0].crystal, 3.0)
    closest = float(distance[(numbers[i] == 3) & (numbers[j] == 3)].min())
    assert closest > 2.05 and len(numbers) == 52 and len(found) == 3
    assert "48 sites get 24 Li" in found[0].rule and "Li–Li 2.05 Å" in found[0].rule and "Li +1" in found[0].rule
    assert len({round(one.energy, 2) for one in found}) == 3
    trust("T30", "closest Li–Li of the ordered example (Å)", closest, "> 2.05 (the split sites are 1.87 apart), 24 Li")


@pytest.mark.planted
def test_forgetting_the_distance_rule_is_caught(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    crystal = read_structure(EXAMPLE)
    original = arrangement._board
    monkeypatch.setattr(arrangement, "_board", lambda *a: replace_limits(original(*a)))
    with pytest.raises(AssertionError):
        check_orderings(crystal, (1, 1, 1), {3: 24.0, 15: 4.0, 16: 20.0, 17: 4.0}, DisorderSettings(anneals=1, sweeps=1))
    trust("T30", "orderings without the least distances", "caught", "check of orderings fails", planted=True)


def replace_limits(board: object) -> object:
    board.limits = 0.0 * board.limits  # type: ignore[attr-defined]
    return board


@needs_data
def test_neutron_structure_in_a_416_atom_cell(trust: Callable[..., None]) -> None:
    crystal = read_structure(Path(str(DATA)) / "argyrodite_aimd" / "Li6PS5Cl_Neutron.cif")
    counts = {3: 192.0, 15: 32.0, 16: 160.0, 17: 32.0}
    settings = DisorderSettings(anneals=1, sweeps=100)
    check_orderings(crystal, (2, 2, 2), counts, settings)
    classes = site_classes(repeat(crystal, (2, 2, 2)), charges_of(crystal))
    mixed = {one.label: one.counts for one in classes if len(one.counts) == 2 and 0 not in one.counts}
    assert sorted(tuple(sorted(c.items())) for c in mixed.values()) == [((16, 12), (17, 20)), ((16, 20), (17, 12))]
    trust("T30", "416-atom ordering of the neutron CIF", "Li192P32S160Cl32", "Li192P32S160Cl32, neutral")


@needs_data
def test_measured_structures_of_many_kinds(tmp_path: Path, trust: Callable[..., None]) -> None:
    """OBELiX: argyrodites, LISICON, NASICON, garnet, halide, perovskite; composition within one atom of the file per class."""
    names = ["cz2", "24k", "wsd", "2r7", "kab", "gxz", "mfu", "ij5", "ei3", "gas", "t2c", "uaz", "dvn", "7tu"]
    with tarfile.open(Path(str(DATA)) / "obelix" / "all_cifs.tar.gz") as archive:
        members = [m for m in archive.getmembers() if Path(m.name).stem in names and m.isfile()]
        archive.extractall(tmp_path, members=members, filter="data")
    paths = sorted(tmp_path.rglob("*.cif"))
    assert len(paths) == len(names)
    for path in paths:
        crystal = read_structure(path)
        supercell = supercell_for(crystal.cell, 2.0)
        classes = site_classes(repeat(crystal, supercell), charges_of(crystal))
        composition: dict[int, float] = {}
        for one in classes:
            for number, count in one.counts.items():
                assert abs(count - one.by_occupancy[number]) < 2.0
                if number and count:
                    composition[number] = composition.get(number, 0.0) + count
        settings = DisorderSettings(anneals=1, sweeps=20)
        check_orderings(crystal, supercell, dict(sorted(composition.items())), settings, factor=0.7)
    trust(
        "T30",
        "partially occupied OBELiX CIFs ordered",
        len(paths),
        "whole, neutral, no close pair, counts within 2 of the occupancies",
    )


def test_enumeration_finds_the_true_minimum(trust: Callable[..., None]) -> None:
    """Oracle: all 70 ways to put 4 Li on 8 sites, each energy by a separate Ewald sum."""
    crystal = cube()
    energies = []
    for chosen in combinations(range(8), 4):
        places = np.array([crystal.positions[k] for k in [*chosen, *range(8, 12)]])
        charges = np.array([1.0] * 4 + [-1.0] * 4)
        energies.append(0.5 * charges @ ewald_matrix(places, crystal.cell) @ charges)
    found = order(crystal, count=50)
    assert found[0].energy == pytest.approx(min(energies), abs=1e-6)
    assert sorted(round(o.energy, 4) for o in found) == sorted(set(np.round(energies, 4)))
    trust("T30", "lowest ordering by enumeration − brute force (eV)", found[0].energy - min(energies), "0 ± 1e-6")


def test_monte_carlo_agrees_with_enumeration(trust: Callable[..., None]) -> None:
    crystal = cube()
    exact = order(crystal, supercell=(2, 1, 1))[0].energy
    searched = order(crystal, supercell=(2, 1, 1), settings=DisorderSettings(enumerate_up_to=0, anneals=4, sweeps=100))[0].energy
    assert searched == pytest.approx(exact, abs=1e-6)
    trust("T30", "swap Monte Carlo − enumeration of 12 870 arrangements (eV)", searched - exact, "0 ± 1e-6")


def test_same_seed_same_ordering() -> None:
    crystal = read_structure(EXAMPLE)
    first, second = (order(crystal, settings=QUICK, seed=5)[0] for _ in range(2))
    assert first.crystal.sites == second.crystal.sites and first.energy == second.energy


def test_two_ions_and_a_vacancy_on_one_site_stay_neutral() -> None:
    """Li0.3Na0.3□0.4 on eight sites: 2.4 + 2.4 of them; F carries −4 or −5, so the counts must give that."""
    sites = [("M1", (x, y, z), {3: 0.31, 11: 0.31}) for x in (0.0, 0.5) for y in (0.0, 0.5) for z in (0.0, 0.5)]
    f = [
        (f"F{k}", p, {9: 1.0})
        for k, p in enumerate(
            [(0.25, 0.25, 0.25), (0.75, 0.75, 0.25), (0.75, 0.25, 0.75), (0.25, 0.75, 0.75), (0.25, 0.25, 0.75)]
        )
    ]
    crystal = crystal_of(*sites, *f, a=7.0)
    found = order(crystal)[0].crystal.composition
    assert found[3] + found[11] == 5.0 and {found[3], found[11]} == {2.0, 3.0} and found[9] == 5.0


def test_isovalent_remainders_do_not_add_up() -> None:
    """Ge/Sn half and half on four single-site classes: each class rounds, the total must still be 2 and 2."""
    mixed = [
        (f"M{k}", p, {32: 0.5, 50: 0.5})
        for k, p in enumerate([(0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)])
    ]
    o = [("O1", (x, y, z), {8: 1.0}) for x in (0.25, 0.75) for y in (0.25, 0.75) for z in (0.25, 0.75)]
    assert order(crystal_of(*mixed, *o, a=5.0))[0].crystal.composition == {8: 8.0, 32: 2.0, 50: 2.0}


def test_ordered_crystal_is_only_repeated() -> None:
    from ase.build import bulk

    from mdistill.io.structures import from_atoms

    found = order(from_atoms(bulk("NaCl", "rocksalt", a=5.64)), supercell=(2, 1, 1))
    assert len(found) == 1 and "No disorder" in found[0].rule
    expected = bulk("NaCl", "rocksalt", a=5.64).repeat((2, 1, 1))
    got = to_atoms(found[0].crystal)
    assert np.allclose(got.cell[:], expected.cell[:]) and np.allclose(got.positions, expected.positions)


def test_impossible_split_sites_are_refused() -> None:
    """A chain of Li sites 1.2 Å apart, every one three-quarters full, has no arrangement."""
    chain = [("Li1", (k / 4, 0.0, 0.0), {3: 0.75}) for k in range(4)]
    f = [("F1", (0.0, 0.5, 0.5), {9: 1.0}), ("F2", (0.5, 0.5, 0.5), {9: 1.0}), ("F3", (0.25, 0.5, 0.0), {9: 1.0})]
    with pytest.raises(BadInput, match=r"close pairs, such as Li–Li at 1\.20") as refused:
        order(crystal_of(*chain, *f, a=4.8))
    flag, value = refused.value.fix.split()[-2:]
    assert (flag, value) == ("--prepare.disorder.least-like-factor", "0.46")
    lowered = order(crystal_of(*chain, *f, a=4.8), settings=DisorderSettings(least_like_factor=float(value)))[0]
    assert lowered.crystal.composition == {3: 3.0, 9: 3.0}


def test_kamaya_lgps_is_ordered_and_its_rule_says_that_the_factor_was_lowered(tmp_path: Path) -> None:
    """Occupancy 0.691 on both halves of a split site 1.72 Å wide: some pairs must be closer than 0.8 × 2.56 Å."""
    path = tmp_path / "lgps.cif"
    path.write_text(cif(conductor("Li10GeP2S12")))
    found = order(read_structure(path), settings=QUICK)[0]
    assert found.crystal.composition == {3: 20.0, 15: 4.0, 16: 24.0, 32: 2.0}
    numbers = numbers_of(found.crystal)
    i, j, distance = neighbour_pairs(found.crystal, 3.0)
    closest = float(distance[(numbers[i] == 3) & (numbers[j] == 3)].min())
    assert closest == pytest.approx(1.72, abs=0.01)
    assert (
        "closer than 0.65 (cations)" in found.rule
        and "Li–Li 1.66 Å" in found.rule
        and "cations was lowered from 0.8 to 0.65" in found.rule
    )


def test_bad_settings_and_sizes() -> None:
    for values in (
        {"sweeps": 0},
        {"like_factor": -1.0},
        {"unlike_factor": float("nan")},
        {"enumerate_up_to": -1},
    ):
        with pytest.raises(BadInput):
            DisorderSettings(**values)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="most_sites"):
        order(cube(), supercell=(3, 3, 3), settings=DisorderSettings(most_sites=100))


def test_a_cell_without_neutral_whole_numbers_is_told_how_to_enlarge_it() -> None:
    """Li4Ti5O12-like sites that no whole numbers fill: 3 Li and Ti on sites that need 8/3 e."""
    metals = [(f"M{k}", (x, y, 0.0), {3: 0.335, 22: 0.665}) for k, (x, y) in enumerate([(0.0, 0.0), (0.5, 0.0)])]
    oxygen = [(f"O{k}", (x, y, 0.5), {8: 1.0}) for k, (x, y) in enumerate([(0.0, 0.0), (0.5, 0.0), (0.25, 0.5)])]
    with pytest.raises(BadInput, match="no whole numbers") as refused:
        order(crystal_of(*metals, *oxygen, a=6.0))
    assert refused.value.fix.endswith("--prepare.min-length 12")

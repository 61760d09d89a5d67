"""The edge transformer: what it is built to obey, each law with a planted bug; what it learns only, and bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from laws import (
    assert_batching_transparent,
    assert_close,
    assert_curvature_consistent,
    assert_extensive_and_local,
    assert_forces_match_energy,
    assert_isolated_atom_is_reference,
    assert_smooth_at_cutoff,
    orthogonal,
)
from mdistill.derivatives import Conservative, Direct, curvature_by_differences, potential_of
from mdistill.errors import BadInput
from mdistill.graph import build_graph, cast, concatenate, edge_vectors, split
from mdistill.nets import edge_transformer
from mdistill.nets.model_files import load_model, save_model
from systems import SYSTEMS, isolated_atom, random_box, tiny_edge_transformer

DOUBLE = torch.float64


def forces(net, system) -> Tensor:
    return Direct(net)(build_graph(system, net.cutoff)).forces


def permuted_and_moved(net, system) -> float:
    """Largest change of forces and energy under permutation, translation and wrapping, eV/Å and eV."""
    potential, generator = Direct(net), torch.Generator().manual_seed(7)
    base = potential(build_graph(system, net.cutoff))
    order = torch.randperm(system.n_atoms, generator=generator)
    cells = torch.randint(-5, 6, (system.n_atoms, 3), generator=generator).to(DOUBLE) * system.pbc[0]
    moved = system.positions + torch.tensor([0.3, -7.7, 1.9], dtype=DOUBLE) + cells @ system.cell[0]
    other = replace(system, positions=moved[order], numbers=system.numbers[order])
    found = potential(build_graph(other, net.cutoff))
    return max(float((found.forces - base.forces[order]).abs().max()), float((found.energy - base.energy).abs().max()))


@pytest.mark.parametrize("name", SYSTEMS)
def test_equal_atoms_are_interchangeable(name) -> None:
    net = tiny_edge_transformer(1)
    if name != "isolated atom":
        assert float(forces(net, SYSTEMS[name]()).abs().max()) > 1e-3 or name == "fcc primitive"
    assert permuted_and_moved(net, SYSTEMS[name]()) < 1e-12


def test_that_holds_in_the_dense_form_too() -> None:
    molecule = random_box(4, atoms=9, periodic=False)
    assert permuted_and_moved(tiny_edge_transformer(1, cutoff=30.0), molecule) < 1e-12


@pytest.mark.planted
def test_the_law_catches_a_token_that_knows_its_number(monkeypatch) -> None:
    right = edge_transformer.EdgeTransformerNet._embedding

    def numbered(self, *arguments):
        x, envelope = right(self, *arguments)
        return torch.cat([x[:, :1] + 1e-6 * torch.arange(len(x)).unsqueeze(1), x[:, 1:]], 1), envelope

    monkeypatch.setattr(edge_transformer.EdgeTransformerNet, "_embedding", numbered)
    assert permuted_and_moved(tiny_edge_transformer(1), SYSTEMS["molecule"]()) > 1e-9


def test_rotations_are_not_built_in() -> None:
    net, box = tiny_edge_transformer(1), SYSTEMS["molecule"]()
    turn = orthogonal(3, reflect=False)
    assert float((forces(net, replace(box, positions=box.positions @ turn)) - forces(net, box) @ turn).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["box", "cell shorter than the cutoff", "slab", "molecule", "fcc primitive", "dimer"])
def test_the_energy_head_has_a_gradient(name) -> None:
    assert_forces_match_energy(tiny_edge_transformer(2), SYSTEMS[name]())


def test_curvature_of_both_heads() -> None:
    net, box = tiny_edge_transformer(3), SYSTEMS["box"]()
    assert_curvature_consistent(net, box)
    probes = torch.randn((2, box.n_atoms, 3), dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    left = Direct(net).curvature(build_graph(box, net.cutoff), probes)
    right = curvature_by_differences(Direct(net), box, probes, step=1e-4)
    assert_close(torch.einsum("pax,qax->pq", probes, left), torch.einsum("pax,qax->qp", probes, right), absolute=1e-7)


def test_smooth_at_the_cutoff_where_the_form_changes() -> None:
    """Also from the dense form, all pairs within the cutoff, to the list."""
    for seed in range(2):
        assert_smooth_at_cutoff(tiny_edge_transformer(seed), SYSTEMS["molecule"]())
    assert_smooth_at_cutoff(tiny_edge_transformer(1), SYSTEMS["dimer"]())


@pytest.mark.planted
def test_smoothness_catches_an_envelope_of_lower_order(monkeypatch) -> None:
    monkeypatch.setattr(edge_transformer, "cutoff_envelope", lambda r, cutoff: (1.0 - (r / cutoff).square()).clamp_min(0.0))
    with pytest.raises(AssertionError):
        assert_smooth_at_cutoff(tiny_edge_transformer(1), SYSTEMS["molecule"]())


def test_structures_do_not_see_each_other() -> None:
    systems = [make() for make in SYSTEMS.values()]
    for potential in (Conservative(tiny_edge_transformer(1)), Direct(tiny_edge_transformer(1))):
        assert_batching_transparent(potential, systems)
    molecules = [random_box(seed, atoms=n, periodic=False) for seed, n in enumerate((2, 7, 4))]
    assert_batching_transparent(Direct(tiny_edge_transformer(1, cutoff=30.0)), molecules)


def test_extensive_local_and_silent_alone() -> None:
    net = tiny_edge_transformer(2)
    assert_extensive_and_local(net, SYSTEMS["molecule"]())
    assert_isolated_atom_is_reference(net, isolated_atom(16), float(net.reference[2]))
    assert float(forces(net, isolated_atom(16)).abs().max()) == 0.0


def test_single_precision_is_safe() -> None:
    for name in ("box", "molecule"):
        net, system = tiny_edge_transformer(1), SYSTEMS[name]()
        exact = forces(net, system)
        single = forces(net.in_type(torch.float32), cast(system, dtype=torch.float32))
        assert_close(single.double(), exact, absolute=1e-5, relative=1e-5)


def test_forces_sum_to_zero_over_each_struct() -> None:
    batch = concatenate([SYSTEMS["box"](), SYSTEMS["molecule"]()])
    for part in split(replace(batch, positions=forces(tiny_edge_transformer(1), batch))):
        assert float(part.positions.sum(0).abs().max()) < 1e-12


def test_without_a_compiler_the_answers_are_the_same(monkeypatch) -> None:
    from mdistill.kernels.build import NoKernel

    net, box = tiny_edge_transformer(1), SYSTEMS["box"]()
    expected = forces(net, box)

    def none(*_):
        raise NoKernel("no C++ compiler was found")

    monkeypatch.setattr(edge_transformer._Attend, "apply", none)
    with pytest.warns(UserWarning, match="without its kernel"):
        assert_close(forces(net, box), expected, absolute=1e-12)


def test_a_file_holds_all_of_it(tmp_path) -> None:
    net, box = tiny_edge_transformer(1, states=True), SYSTEMS["molecule"]()
    box = replace(box, charge=torch.tensor([int(box.numbers.sum()) % 2]))
    save_model(tmp_path / "student.mdistill", net)
    loaded = load_model(tmp_path / "student.mdistill")
    assert isinstance(loaded, Direct) and isinstance(potential_of(net), Direct)
    assert torch.equal(loaded(build_graph(box, net.cutoff)).forces, forces(net, box))


def test_charge_and_spin_count_where_they_are_known() -> None:
    net = tiny_edge_transformer(1, states=True)
    water = random_box(1, atoms=4, periodic=False)
    water = replace(water, numbers=torch.tensor([16, 16, 3, 3]))
    neutral, charged, triplet = (
        forces(net, replace(water, charge=torch.tensor([q]), unpaired=torch.tensor([s]))) for q, s in ((0, 0), (2, 0), (0, 2))
    )
    assert torch.equal(neutral, forces(net, water))
    assert float((neutral - charged).abs().max()) > 1e-4 and float((neutral - triplet).abs().max()) > 1e-4


@pytest.mark.parametrize(("charge", "unpaired", "match"), [
    (None, None, "odd number|no number of unpaired"), (0, 0, "0 unpaired"), (1, 1, "1 unpaired"),
])  # fmt: skip
def test_an_odd_number_of_electrons_needs_its_state(charge, unpaired, match) -> None:
    radical = replace(SYSTEMS["dimer"](), numbers=torch.tensor([3, 16]))
    radical = replace(
        radical, charge=None if charge is None else torch.tensor([charge]),
        unpaired=None if unpaired is None else torch.tensor([unpaired]),
    )  # fmt: skip
    with pytest.raises(BadInput, match=match):
        forces(tiny_edge_transformer(1, states=True), radical)
    stated = replace(radical, charge=torch.tensor([0]), unpaired=torch.tensor([1]))
    assert bool(torch.isfinite(forces(tiny_edge_transformer(1, states=True), stated)).all())


def test_unknown_elements_and_positions_that_are_not_finite() -> None:
    net, box = tiny_edge_transformer(1), SYSTEMS["molecule"]()
    with pytest.raises(BadInput, match="has Fe"):
        forces(net, replace(box, numbers=box.numbers.where(box.numbers != 3, 26)))
    with pytest.raises(BadInput, match="not finite"):
        forces(net, replace(box, positions=box.positions * torch.nan))


def test_the_memory_of_a_large_molecule_is_told_before_it_starts(monkeypatch) -> None:
    graph = build_graph(random_box(1, atoms=60, length=14.0, periodic=False), 60.0)
    with pytest.warns(UserWarning, match=r"60 atoms need about 4 GB of memory"):
        edge_transformer.tokens_of(graph, 4, 1024, 12)
    monkeypatch.setattr(edge_transformer.psutil, "virtual_memory", type("Left", (), {"available": 1e9}))
    with pytest.raises(BadInput, match=r"3540 pairs within the cutoff\n  allowed: 1\.0 GB"):
        edge_transformer.tokens_of(graph, 4, 1024, 12)
    with pytest.raises(BadInput, match="heads"):
        tiny_edge_transformer(heads=3)
    assert len(edge_vectors(graph)) == 3540


@pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")
def test_the_memory_that_is_told_is_about_what_is_used(monkeypatch) -> None:
    """Of 120 atoms with all triangles listed: the list and the largest tensors, which numpy and torch own."""
    graph = build_graph(random_box(1, atoms=120, length=14.0, periodic=False), 12.0)
    near = torch.bincount(graph.receiver) + 1
    triples = edge_transformer.tokens_of(graph, 1, 8, 1).triples
    assert (
        triples.pairs is not None and 0.5 < triples.pairs.nbytes / (edge_transformer._BYTES_LISTED * int(near.square().sum())) < 1
    )
    told: list[str] = []
    monkeypatch.setattr(edge_transformer, "notify", told.append)
    monkeypatch.setattr(edge_transformer, "_TOLD_GB", 0.0)
    listed = 1e-9 * edge_transformer._BYTES_LISTED * float(near.square().sum())
    edge_transformer.tell_memory(graph, near, 64, 1)
    edge_transformer.tell_memory(graph, None, 64, 1)
    with_list, without = (float(text.partition("about ")[2].partition(" GB")[0]) for text in told)
    assert with_list == pytest.approx(without + listed, rel=0.2) and "120 atoms" in told[0]

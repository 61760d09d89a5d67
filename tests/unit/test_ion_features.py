"""Features of ions and spectra of trajectories: against a forward hook on the package, symmetries, and known motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from scipy.spatial.transform import Rotation

from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors
from mdistill.io.structures import from_atoms, read_structure, repeated, to_system
from mdistill.teachers.ase import from_calculator
from mdistill.transport.ion_features import PHYSICS, ion_features, ion_network, kinds_of, temperature_polynomial
from mdistill.transport.spectra import BINS, HIGHEST_THZ, LOWEST_THZ, displacement_spectra


@pytest.fixture(scope="module")
def teacher():
    pytest.importorskip("sevenn")
    from mdistill.teachers.models import load

    return load("sevennet-0")


@pytest.fixture(scope="module")
def crystal():
    """Li2O, distorted so that no symmetry hides an error."""
    atoms = bulk("Li2O", "fluorite", a=4.6, cubic=True)
    numbers = np.where(atoms.get_atomic_numbers() == 3, 8, 3)
    atoms.set_atomic_numbers(np.where(numbers == 8, 3, 8))
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.15, atoms.positions.shape)
    return from_atoms(atoms)


def changed(system, how):
    """The same crystal, described in another way."""
    rng = np.random.default_rng(2)
    if how == "rotation":
        turn = torch.from_numpy(Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix())
        return replace(system, positions=system.positions @ turn.T, cell=system.cell @ turn.T), None
    if how == "translation":
        return replace(system, positions=system.positions + torch.tensor([0.7, -2.2, 5.1])), None
    if how == "supercell":
        return repeated(system, (2, 1, 1)), None
    order = torch.from_numpy(rng.permutation(system.n_atoms))
    return replace(system, positions=system.positions[order], numbers=system.numbers[order]), order


@pytest.mark.parametrize("how", ["rotation", "translation", "supercell", "permutation"])
def test_features_do_not_depend_on_the_description(teacher, crystal, how):
    system = to_system(crystal)
    plain = ion_features([system], teacher, mobile=3)[0]
    other, order = changed(system, how)
    found = ion_features([other], teacher, mobile=3)[0]
    if order is not None:
        ions = torch.nonzero(system.numbers == 3)[:, 0].tolist()
        plain = plain[[ions.index(k) for k in order.tolist() if k in ions]]
    if how == "supercell":
        assert len(found) == 2 * len(plain)
        plain = plain[[int(np.abs(plain - row).max(1).argmin()) for row in found]]
    assert np.abs(found - plain).max() < 1e-5 * max(1.0, np.abs(plain).max())


def test_the_published_features_turn_with_the_crystal(teacher, crystal):
    system = to_system(crystal)
    turned, _ = changed(system, "rotation")
    plain, found = (ion_features([one], teacher, mobile=3, form="published")[0] for one in (system, turned))
    assert plain.shape == (8, 977) and np.abs(found - plain).max() > 0.1
    scalar = np.r_[0:128, 480:608, 960:968]
    assert np.abs(found - plain)[:, scalar].max() < 1e-4


def test_features_equal_a_forward_hook_on_the_unpatched_package(teacher, crystal):
    """Mean over edges of what a hook on the first gate of sevenn's own model sees."""
    import sevenn._keys as keys
    from sevenn.util import load_checkpoint

    model, system = load_checkpoint("7net-0").build_model(), to_system(crystal)
    model.set_is_batch_data(False)
    model.eval()
    gate = next(layer for layer in model._modules.values() if type(layer).__name__ == "EquivariantGate")
    seen = {}
    gate.register_forward_hook(lambda _m, _i, out: seen.update({k: out[k].detach().clone() for k in (keys.NODE_FEATURE,)}))
    graph = build_graph(system, float(model.cutoff))
    index = torch.tensor([model.type_map[int(z)] for z in system.numbers])
    data = {
        keys.NODE_FEATURE: index, keys.ATOM_TYPE: index, keys.EDGE_IDX: torch.stack([graph.receiver, graph.sender]),
        keys.EDGE_VEC: edge_vectors(graph).float().requires_grad_(True),
    }  # fmt: skip
    for layer in model._modules.values():
        data = layer(data)
        if seen:
            break
    nodes, ion = seen[keys.NODE_FEATURE].double(), int(torch.nonzero(system.numbers == 3)[0])
    mine = graph.receiver == ion
    wanted = torch.cat([nodes[graph.sender[mine]].mean(0), nodes[ion]])
    found = ion_features([system], teacher, mobile=3, form="published")[0][0]
    assert np.abs(found[:960] - wanted.numpy()).max() < 2e-4 * float(wanted.abs().max())


def test_batches_change_nothing_and_kinds_are_found(teacher, crystal):
    perfect = from_atoms(bulk("LiF", "rocksalt", a=4.03, cubic=True))
    systems = [to_system(crystal), to_system(perfect)]
    alone = ion_features([systems[1]], teacher, mobile=3)[0]
    moved = [replace(one, positions=one.positions + 0.1) for one in systems]
    assert np.abs(ion_features(moved, teacher, mobile=3)[1] - alone).max() < 1e-4
    kinds, place = kinds_of(alone)
    assert len(kinds) == 1 and place.tolist() == [0] * 4
    assert len(kinds_of(ion_features([systems[0]], teacher, mobile=3)[0])[0]) == 8


def test_structures_and_potentials_that_cannot_be_used_are_named(teacher, crystal):
    with pytest.raises(BadInput, match="no mobile ion"):
        ion_features([to_system(crystal)], teacher, mobile=11)
    with pytest.raises(BadInput, match="no interaction blocks"):
        ion_features([to_system(crystal)], from_calculator(EMT()), mobile=3)


def test_network_of_ion_sites():
    """Rock salt: Li–Li a/√2, Li–F a/2, twelve neighbours, and a path of nearest neighbours."""
    crystal = from_atoms(bulk("LiF", "rocksalt", a=4.2, cubic=True))
    found = dict(zip(PHYSICS, ion_network(crystal, mobile=3), strict=True))
    near = 4.2 / 2**0.5
    assert found["nearest ion–ion (Å)"] == pytest.approx(near) and found["nearest ion–other (Å)"] == pytest.approx(2.1)
    assert found["ion sites within 4 Å"] == 12 and found["smallest gap of the path (Å)"] == pytest.approx(near)
    assert found["any partial site"] == 0.0 and found["ion sites per Å³"] == pytest.approx(4 / 4.2**3)
    with pytest.raises(BadInput, match="no mobile ion"):
        ion_network(crystal, mobile=11)


def test_the_path_needs_its_longest_hop():
    """A chain of pairs, 2 Å within and 3 Å between: the path along it needs 3 Å; across it is closed."""
    from ase import Atoms

    atoms = Atoms("Li2F", [[0, 0, 0], [2, 0, 0], [2.5, 4, 4]], cell=[5, 9, 9], pbc=True)
    assert ion_network(from_atoms(atoms), mobile=3)[-1] == pytest.approx(3.0)


def test_partial_occupancy_is_used_as_it_is(tmp_path):
    from conductors import cif, conductor

    (tmp_path / "a.cif").write_text(cif(conductor("Li6PS5Cl")), encoding="utf-8")
    found = ion_network(read_structure(tmp_path / "a.cif"), mobile=3)
    assert found[0] == pytest.approx(1.0) and found[1] == 1.0 and found[5] == pytest.approx(0.5)


def test_temperature_polynomial():
    assert np.allclose(temperature_polynomial(np.array([1000.0])), [[1.0, 0.2, 0.04, 0.008]])


# ---- spectra


def shaken(frames, spacing_ps, thz=8.0, seed=0):
    """Three ions: a vibration of amplitude 0.3 Å, and white noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames) * spacing_ps
    wave = 0.3 * np.sin(2 * np.pi * thz * t[:, None] + rng.uniform(0, 6, 3))
    return wave[:, :, None] * np.array([1.0, 0.5, 0.0]) + 0.02 * rng.normal(size=(frames, 3, 3))


def test_spectra_show_the_frequency_whatever_the_length():
    edges = np.geomspace(LOWEST_THZ, HIGHEST_THZ, BINS + 1)
    long, short = displacement_spectra(shaken(4000, 0.01), 0.01), displacement_spectra(shaken(1500, 0.01), 0.01)
    assert long.shape == short.shape == (3, BINS)
    peak = int(np.digitize(8.0, edges)) - 1
    assert (long.argmax(1) == peak).all() and (short.argmax(1) == peak).all()
    away = np.r_[8 : peak - 2, peak + 3 : BINS]
    assert np.abs(long[:, away].mean() - short[:, away].mean()) < 0.05


def test_white_noise_has_its_power():
    noise = np.random.default_rng(3).normal(0.0, 0.1, (8000, 2, 3))
    assert np.allclose(displacement_spectra(noise, 0.01)[:, -10:], np.log10(3 * 0.01 * 0.01), atol=0.05)


def test_spectra_are_invariant():
    moved = shaken(1000, 0.01)
    turn = Rotation.from_rotvec([1.0, 0.2, -0.5]).as_matrix()
    plain = displacement_spectra(moved, 0.01)
    assert np.allclose(displacement_spectra(moved @ turn.T + 3.0, 0.01), plain, atol=1e-9)
    assert np.allclose(displacement_spectra(moved[:, ::-1], 0.01), plain[::-1])


def test_a_walk_has_more_power_at_low_frequency_than_a_vibration():
    rng = np.random.default_rng(4)
    walk = shaken(2500, 0.01) + np.cumsum(rng.normal(0.0, 0.05, (2500, 3, 3)), axis=0)
    assert (displacement_spectra(walk, 0.01)[:, :8] > displacement_spectra(shaken(2500, 0.01), 0.01)[:, :8] + 2.0).all()


def test_trajectories_without_a_spectrum_are_named():
    with pytest.raises(BadInput, match="50 frames"):
        displacement_spectra(shaken(50, 0.01), 0.01)
    broken = shaken(200, 0.01)
    broken[3, 0, 0] = np.nan
    with pytest.raises(BadInput, match="not finite"):
        displacement_spectra(broken, 0.01)

"""kernels/domain.hpp: the student on ghost atoms and a list from outside, as an engine with its own decomposition has them."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from mdistill.derivatives import Conservative
from mdistill.graph import build_graph
from mdistill.kernels.build import c_struct, compiler
from mdistill.kernels.moment import MomentKernel
from mdistill.nets.compiled import kernel_weights
from mdistill.types import System
from systems import random_box, tiny_net

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")
MARK = 1 << 30
"""A bit that an engine puts into the numbers of its list."""


class Answers(ctypes.Structure):
    _fields_ = [
        ("energy", ctypes.c_double),
        ("virial", ctypes.c_double * 9),
        *((name, ctypes.c_void_p) for name in ("forces", "atomic", "halves", "senders")),
    ]


def with_ghosts(system: System, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the atoms and of all images near them, and whose image each is."""
    cell, positions = system.cell[0].numpy(), system.positions.numpy()
    points, owners = [positions], [np.arange(len(positions))]
    for image in itertools.product(range(-3, 4), repeat=3):
        if any(image):
            moved = positions + np.array(image) @ cell
            near = np.linalg.norm(moved[:, None] - positions, axis=2).min(1) < cutoff + 0.4
            points, owners = [*points, moved[near]], [*owners, np.flatnonzero(near)]
    return np.ascontiguousarray(np.concatenate(points)), np.concatenate(owners)


@pytest.mark.parametrize("seed", [1, 2])
def test_ghosts_give_what_images_give(seed):
    system, net = random_box(seed, skew=0.4), tiny_net()
    plain = Conservative(net)(build_graph(system, net.cutoff))
    kernel = MomentKernel(kernel_weights(net, double=True))
    points, owners = with_ghosts(system, net.cutoff)
    local, n = system.n_atoms, len(points)
    near = np.linalg.norm(points[:local, None] - points, axis=2) < net.cutoff + 0.4
    rows = [np.flatnonzero(near[i] & (np.arange(n) != i)).astype(np.int32)[::-1] | MARK for i in range(local)]
    rows = [np.ascontiguousarray(row, dtype=np.int32) for row in rows]
    addresses = np.array([row.ctypes.data for row in rows], dtype=np.uint64)
    centres, counts = np.arange(local, dtype=np.int32)[::-1].copy(), np.array([len(row) for row in rows], dtype=np.int32)
    species = net.species(system.numbers).numpy().astype(np.int32)[owners]
    given = c_struct(
        centres=local, local=local, all=n, atoms=centres, count=counts, lists=addresses, mask=MARK - 1, species=species
    )
    library = kernel.library
    domain = library.mdistill_domain(kernel.pointer)
    library.mdistill_domain_take(domain, ctypes.byref(given))
    assert library.mdistill_domain_knows(domain, n, species) and not library.mdistill_domain_knows(
        domain, n, species[::-1].copy()
    )
    forces, atomic, halves, senders = np.ones((n, 3)), np.zeros(local), np.zeros((n, 9)), np.zeros((n, 9))
    parts = {"forces": forces, "atomic": atomic, "halves": halves, "senders": senders}
    answers = Answers(**{name: array.ctypes.data for name, array in parts.items()})
    library.mdistill_domain_evaluate(domain, points, ctypes.byref(answers))
    library.mdistill_domain_free(domain)
    folded = np.zeros((local, 3))
    np.add.at(folded, owners, forces - 1.0)
    assert abs(answers.energy - float(plain.energy[0])) < 1e-11 and abs(atomic.sum() - answers.energy) < 1e-11
    assert np.abs(folded - plain.forces.numpy()).max() < 1e-11
    virial = np.array(answers.virial)
    assert np.abs(virial / float(system.cell[0].det()) - plain.stress[0].numpy().ravel()).max() < 1e-11
    assert np.abs(halves.sum(0) - virial).max() < 1e-10 and np.abs(senders.sum(0) - virial).max() < 1e-10
    assert np.abs(senders[local:]).max() > 0.0

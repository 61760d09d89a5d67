"""export/torch_sim.py: batches give what each structure gives alone, in torch-sim's form."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.export.ase import calculator
from mdistill.io.structures import to_atoms
from mdistill.nets.compiled import compiled
from systems import SYSTEMS, random_box, tiny_net

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torch_sim") is None, reason="needs torch-sim-atomistic"),
    pytest.mark.filterwarnings("ignore:`vesin.torch` is deprecated:DeprecationWarning"),  # told by torch-sim's first import
]
STRUCTURES = [to_atoms(SYSTEMS[name]()) for name in ("box", "very skewed", "cell shorter than the cutoff", "fcc primitive")]


def model_of(kind: str):
    from mdistill.export.torch_sim import torch_sim_model

    plain = Conservative(tiny_net())
    return torch_sim_model(compiled(plain, double=True) if kind == "kernel" else plain)


@pytest.mark.parametrize("kind", ["kernel", "torch"])
def test_batches_give_what_structures_give_alone(kind, trust):
    import torch_sim as ts

    model, worst = model_of(kind), 0.0
    for order in ([0, 1, 2, 3], [3, 0], [1, 1, 0, 2]):
        batch = [STRUCTURES[k] for k in order]
        found = model(ts.io.atoms_to_state(batch, torch.device("cpu"), torch.float64))
        wanted = [alone(atoms) for atoms in batch]
        for name, rows in (("energy", 0), ("forces", 1), ("stress", 2)):
            expected = np.concatenate([np.atleast_1d(one[rows]) for one in wanted])
            worst = max(worst, float(np.abs(found[name].numpy() - expected).max() / np.abs(expected).max()))
    assert worst < 1e-10
    trust("T7", f"torch-sim, batches ({kind}): energy, forces, stress, relative", worst, "≤ 1e-10")


def alone(atoms) -> tuple[float, np.ndarray, np.ndarray]:
    copy = atoms.copy()
    copy.calc = calculator(Conservative(tiny_net()))
    return copy.get_potential_energy(), copy.get_forces(), copy.get_stress(voigt=False)[None]


def test_nve_of_a_batch_conserves_the_energy_of_each():
    import torch_sim as ts
    from torch_sim.integrators import nve
    from torch_sim.units import MetalUnits

    model, spread = model_of("kernel"), []
    relaxed = []
    for seed in (8, 9):
        atoms = to_atoms(random_box(seed, atoms=20, length=8.0))
        atoms.calc = calculator(compiled(Conservative(tiny_net()), double=True))
        from ase.optimize import FIRE

        FIRE(atoms, logfile=None, maxstep=0.05).run(fmax=1.0, steps=200)
        relaxed.append(atoms.copy())
    for step_ps in (4e-4, 2e-4):
        start, step = nve(
            model,
            dt=torch.tensor(step_ps * float(MetalUnits.time), dtype=torch.float64),
            kT=torch.tensor(0.025, dtype=torch.float64),
            seed=1,
        )
        state = start(ts.io.atoms_to_state(relaxed, torch.device("cpu"), torch.float64))
        totals = []
        for _ in range(round(0.04 / step_ps)):
            state = step(state)
            kinetic = 0.5 * (state.momenta.square().sum(1) / state.masses)
            totals.append((state.energy + torch.zeros(2, dtype=torch.float64).index_add(0, state.system_idx, kinetic)).tolist())
        spread.append(np.std(np.array(totals), axis=0))
    ratio = spread[0] / spread[1]
    assert ((ratio > 3.0) & (ratio < 5.5)).all(), ratio


@pytest.mark.parametrize("kind", ["kernel", "torch"])
def test_molecules_have_no_stress(kind):
    import torch_sim as ts

    atoms = to_atoms(SYSTEMS["molecule"]())
    found = model_of(kind)(ts.io.atoms_to_state([atoms, atoms], torch.device("cpu"), torch.float64))
    atoms.calc = calculator(Conservative(tiny_net()))
    assert np.abs(found["energy"].numpy() - atoms.get_potential_energy()).max() < 1e-10 and "stress" not in found
    assert np.abs(found["forces"].numpy() - np.tile(atoms.get_forces(), (2, 1))).max() < 1e-10


def test_atoms_that_torch_sim_wraps_do_not_cost_a_search():
    from mdistill.export.torch_sim import Batches

    system = random_box(1)
    batches = Batches(compiled(Conservative(tiny_net()), double=True), 0.5)
    energies = []
    for shift in range(4):
        moved = system.positions.clone()
        moved[::2] += shift * system.cell[0, 1]
        energies.append(float(batches(replace(system, positions=moved)).energy[0]))
    (engine,) = batches.engines.values()
    assert engine.engine.counts()["searches"] == 1 and np.ptp(energies) < 1e-10


def test_bad_input_is_named():
    import torch_sim as ts

    atoms = to_atoms(random_box(1))
    atoms.numbers[0] = 29
    with pytest.raises(BadInput, match="holds Cu, which"):
        model_of("kernel")(ts.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64))


def test_charges_of_a_state_reach_the_model():
    """A direct net that knows charges would take an ion for a neutral molecule."""
    from mdistill.export.torch_sim import Batches, _system_of

    class Charged(Conservative):
        def __call__(self, graph):
            found = super().__call__(graph)
            return replace(found, energy=found.energy + graph.system.charge)

    one = random_box(1)
    state = {
        "positions": one.positions.repeat(2, 1), "atomic_numbers": one.numbers.repeat(2),
        "cell": one.cell.transpose(1, 2).repeat(2, 1, 1), "pbc": True, "system_idx": torch.arange(2).repeat_interleave(one.n_atoms), "charge": torch.tensor([-1.0, 2.0]),
    }  # fmt: skip
    energy = Batches(Charged(tiny_net()), 0.5)(_system_of(state)).energy
    assert float(energy[1] - energy[0]) == pytest.approx(3.0, abs=1e-9)

"""Any potential as a model of torch-sim: batches of structures for its integrators, optimisers and autobatching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdistill.errors import MissingPackage
from mdistill.export.watch import ENGINE_CALLS, Watch, check_known
from mdistill.runs.identity import weights_of
from mdistill.simulation.evaluator import CompiledPotential, EngineEvaluator, Evaluator, make_evaluator
from mdistill.teachers.models import load
from mdistill.types import Potential, Prediction, System


class Batches:
    """Evaluation of batches, with neighbour lists kept from call to call.

    Where a student has a kernel, each structure goes through its own engine; else the batch is one graph. Structures far from
    what a student was taught are told in a notice, each kind once.
    """

    def __init__(self, potential: Potential, skin: float) -> None:
        self.potential, self.skin, self.watch = potential, skin, Watch(potential, every=ENGINE_CALLS)
        self.whole = Evaluator(potential, skin)
        self.engines: dict[tuple[int, bytes], Evaluator | EngineEvaluator] = {}
        self.before: list[System] = []

    def __call__(self, system: System) -> Prediction:
        check_known(system.numbers.unique().tolist(), self.potential)
        parts = [_continued(part, *self.before[k : k + 1]) for k, part in enumerate(_structures(system))]
        self.before = parts
        for place, part in enumerate(parts):
            self.watch.see(part, place)
        if not isinstance(self.potential, CompiledPotential) or system.positions.device.type != "cpu":
            return self.whole(system)
        keys = [(k, part.numbers.numpy().tobytes()) for k, part in enumerate(parts)]
        self.engines = {
            key: self.engines.get(key) or make_evaluator(self.potential, part, skin=self.skin)
            for key, part in zip(keys, parts, strict=True)
        }
        found = [self.engines[key](part) for key, part in zip(keys, parts, strict=True)]
        stresses = [one.stress for one in found if one.stress is not None]
        return Prediction(
            energy=torch.cat([one.energy for one in found]), forces=torch.cat([one.forces for one in found]),
            stress=torch.cat(stresses) if len(stresses) == len(found) else None,
        )  # fmt: skip


def _structures(system: System) -> list[System]:
    """The structures of a batch, one by one, in float64."""
    sizes = torch.bincount(system.owner, minlength=system.n_structs).tolist()
    charges = [None] * len(sizes) if system.charge is None else system.charge.split(1)
    pieces = zip(
        system.positions.double().split(sizes), system.numbers.split(sizes), system.cell.double(), system.pbc, charges,
        strict=True,
    )  # fmt: skip
    return [
        System(
            positions=positions, numbers=numbers, cell=cell.unsqueeze(0), pbc=pbc.unsqueeze(0), charge=charge,
            owner=torch.zeros(len(numbers), dtype=torch.int64, device=numbers.device),
        )
        for positions, numbers, cell, pbc, charge in pieces
    ]  # fmt: skip


def _continued(system: System, before: System | None = None) -> System:
    """A copy with atoms in the periodic images nearest to those before: torch-sim moves them back into the cell, and neighbour
    lists would be made anew for that."""
    positions = system.positions.clone()
    if before is not None and torch.equal(before.numbers, system.numbers) and bool(system.pbc.all()):
        cell = system.cell[0]
        positions -= torch.linalg.solve(cell.T, (positions - before.positions).T).T.round() @ cell
    return replace(system, positions=positions)


def torch_sim_model(model: Potential | str | Path, *, skin: float = 0.5, dtype: torch.dtype = torch.float64) -> Any:
    """A `torch_sim.models.interface.ModelInterface` that gives energy [struct] in eV, forces [atom, 3] in eV/Å, and stress
    [struct, 3, 3] in eV/Å³ (tension positive) where structures are periodic.

    Args:
        model: Student, teacher or another potential; or its name or path.
        skin: Skin of the neighbour lists, Å.
        dtype: Float type of the states.
    Raises:
        BadInput: No such model; at a call, elements that the model does not know.
        MissingPackage: torch-sim is not installed.
    """
    try:
        from torch_sim.models.interface import ModelInterface
    except ImportError as error:
        raise MissingPackage("torch-sim-atomistic", 'pip install "mdistill[torch-sim]"', "the export to torch-sim") from error
    potential = load(model, subject="model") if isinstance(model, (str, Path)) else model
    weights = weights_of(potential)
    batches = Batches(potential, skin)

    class Model(ModelInterface):  # type: ignore[misc]
        _device = next(iter(weights.values())).device if weights else torch.device("cpu")
        _dtype = dtype
        _compute_stress = _compute_forces = True

        def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
            prediction = batches(_system_of(state))
            found = {"energy": prediction.energy, "forces": prediction.forces}
            found |= {} if prediction.stress is None else {"stress": prediction.stress}
            return {name: tensor.detach().to(dtype) for name, tensor in found.items()}

    return Model()


def _system_of(state: Any) -> System:
    """The structures of a state, whose cells hold lattice vectors in columns."""
    if isinstance(state, dict):
        state = type("State", (), state)
    cell = state.cell.detach().transpose(1, 2).contiguous()
    owner, charge = getattr(state, "system_idx", None), getattr(state, "charge", None)
    pbc = torch.as_tensor(state.pbc, dtype=torch.bool, device=cell.device).expand(len(cell), 3)
    return System(
        positions=state.positions.detach(), numbers=state.atomic_numbers.to(torch.int64), cell=cell * pbc.unsqueeze(2), pbc=pbc,
        owner=torch.zeros_like(state.atomic_numbers, dtype=torch.int64) if owner is None else owner,
        charge=None if charge is None else charge.round().to(torch.int64).expand(len(cell)),
    )  # fmt: skip

r"""Direct forces made safe for dynamics: no net force, no torque, and a random frame.

    F ← F − mean F − ω × (r − r̄),   Σ (r − r̄) × (ω × (r − r̄)) = Σ (r − r̄) × F

This is the smallest change of the forces that removes both: it projects on all motions but translation and rotation. Where
the atoms lie on a line, the rotation about it moves nothing and is left out. Structures that see images of themselves keep their
torque; a molecule in a periodic box wider than itself and the cutoff does not. Its arms r − r̄ follow the edges of the graph, so
that it does not matter how its coordinates are wrapped. Where edges do not connect all atoms of a periodic box, arms are not
defined and the torque stays.

In a random frame the structure is rotated before the network sees it, and the forces are rotated back. The rotation follows from
the bits of the positions, so the answer depends on the structure alone and a restarted run repeats itself; from step to step it
is a new one, so the errors of a direction average out in place of adding up.

References: M. Eissler et al., arXiv 2503.01431; M. Langer, S. Pozdnyakov, M. Ceriotti, Mach. Learn.: Sci. Technol. 5, 04LT01
(2024).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdistill.derivatives import DirectNet
from mdistill.direct.multiple_steps import EnergyBetweenSteps
from mdistill.errors import BadInput
from mdistill.graph import turned
from mdistill.notices import notify
from mdistill.runs.identity import weights_sha256
from mdistill.settings import USUAL_TIMEOUT
from mdistill.teachers.models import load
from mdistill.training.stride_objective import random_turn
from mdistill.types import Graph, Potential, Prediction, System

_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class SafeForces:
    """A potential of direct forces without net force and torque.

    Attributes:
        inner: The potential.
        random_frame: Whether every structure is seen in a random orientation.
    """

    inner: Potential
    random_frame: bool = False

    @property
    def net(self) -> Any:
        return getattr(self.inner, "net", None)

    @property
    def cutoff(self) -> float:
        return self.inner.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.inner.elements

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def sha256(self) -> str:
        """Identity of the weights and of what is done with their forces."""
        return weights_sha256(self.inner, mode=f"safe, random frame: {self.random_frame}")

    def __call__(self, graph: Graph) -> Prediction:
        if stated(graph.system) and not getattr(getattr(self.net, "settings", None), "states", True):
            notify(
                f"{self.name} knows no charge and no unpaired electrons (trained without --states): those stated change nothing"
            )
        if not self.random_frame:
            prediction = self.inner(graph)
        else:
            turn = frame_of(graph.system)
            seen = self.inner(replace(graph, system=turned(graph.system, turn)))
            stress = None if seen.stress is None else turn @ seen.stress.to(turn) @ turn.T
            prediction = replace(seen, forces=seen.forces.to(turn) @ turn.T, stress=stress)
        system, alone = connected(graph)
        return replace(prediction, forces=without_rigid_parts(system, prediction.forces, alone=alone))


def frame_of(system: System) -> Float[Tensor, "3 3"]:
    """A rotation or reflection that follows from the bits of the positions."""
    content = system.positions.detach().cpu().contiguous().numpy().tobytes()
    return random_turn(np.random.default_rng(zlib.crc32(content))).to(system.positions)


def connected(graph: Graph) -> tuple[System, Bool[Tensor, " struct"]]:
    """The system with the atoms of a struct at the images that edges connect, and which structs are alone.

    A struct is alone where it is open in every direction, or where edges connect all its atoms and the shifts along every closed
    path of edges add up to zero.
    """
    system, receiver, sender, shift = graph.system, graph.receiver, graph.sender, graph.shift
    owner, open_ones = system.owner, ~system.pbc.any(1)
    if bool(open_ones.all()):
        return system, open_ones
    atoms, reached = torch.arange(system.n_atoms, device=owner.device), torch.zeros_like(owner, dtype=torch.bool)
    first = torch.zeros_like(owner[: system.n_structs]).scatter_reduce(0, owner, atoms, "amin", include_self=False)
    reached[first] = True
    images = shift.new_zeros((system.n_atoms, 3))
    while bool((front := reached[receiver] & ~reached[sender]).any()):
        images[sender[front]] = images[receiver[front]] + shift[front]
        reached[sender[front]] = True
    wrong = (images[receiver] + shift != images[sender]).any(1).to(shift)
    count = wrong.new_zeros(system.n_structs).index_add(0, owner[receiver], wrong).index_add(0, owner, (~reached).to(wrong))
    moves = torch.einsum("ia,iab->ib", images, system.cell[owner])
    return replace(system, positions=system.positions + moves), open_ones | (count == 0.0)


def without_rigid_parts(
    system: System, forces: Float[Tensor, "atom 3"], *, alone: Bool[Tensor, " struct"] | None = None
) -> Float[Tensor, "atom 3"]:
    """Forces without the net force and, of structs that are alone, without the torque (eV/Å); by default those that are open in
    every direction."""
    alone = ~system.pbc.any(1) if alone is None else alone
    owner, structs, forces = system.owner, system.n_structs, forces.to(system.positions)
    count = torch.bincount(owner, minlength=structs).to(forces).unsqueeze(1)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros((structs, *values.shape[1:])).index_add(0, owner, values)

    forces = forces - (total(forces) / count)[owner]
    if not bool(alone.any()):
        return forces
    arms = system.positions - (total(system.positions) / count)[owner]
    spread = total(arms.unsqueeze(2) * arms.unsqueeze(1))
    trace = spread.diagonal(dim1=1, dim2=2).sum(1)
    inertia = trace.view(-1, 1, 1) * torch.eye(3, dtype=forces.dtype, device=forces.device) - spread
    moments, axes = torch.linalg.eigh(inertia)
    turns = (moments > _FLAT * moments[:, -1:]) & alone.unsqueeze(1)
    inverse = torch.where(turns, 1.0 / moments.clamp_min(1e-30), torch.zeros_like(moments))
    torque = total(torch.linalg.cross(arms, forces)).unsqueeze(1)
    rotation = ((torque @ axes) * inverse.unsqueeze(1) @ axes.transpose(1, 2)).squeeze(1)
    return forces - torch.linalg.cross(rotation[owner], arms)


def stated(system: System) -> bool:
    """Whether a charge or a number of unpaired electrons is stated that is not zero."""
    charged = system.charge is not None and bool((system.charge != 0).any())
    return charged or (system.unpaired is not None and bool((system.unpaired > 0).any()))


def is_direct(potential: Potential) -> bool:
    """Whether its forces come from a head of their own."""
    return bool(getattr(getattr(potential, "net", None), "direct", False))


def safe_teacher(
    name: str, *, device: str = "cpu", subject: str = "--teacher", timeout_s: float = USUAL_TIMEOUT
) -> Potential:  # fmt: skip
    """A teacher of labels and of MD; of a model with direct forces, without net force and torque.

    Arguments and errors as `teachers.models.load`.
    """
    return for_dynamics(load(name, device=device, subject=subject, timeout_s=timeout_s))


def for_dynamics(potential: Potential, *, random_frame: bool = False, inner_steps: int = 0) -> Potential:
    """A potential as dynamics should use it: direct forces made safe, any other unchanged.

    Args:
        potential: Any potential.
        random_frame: Whether direct forces are taken in random orientations.
        inner_steps: Direct steps inside each time step, with slow forces from the gradient of the energy head; 0: none.
    Raises:
        BadInput: Either of them of a potential without direct forces, or slow forces of an untrained gradient.
    """
    if not is_direct(potential):
        for flag, value in (("--random-frame", random_frame), ("--inner-steps", inner_steps)):
            if value:
                raise BadInput(flag, f"with {potential.name}", allowed="a model of `mdistill train direct`", fix="leave it out")
        return potential
    safe = SafeForces(potential, random_frame)
    if not inner_steps:
        return safe
    net = cast(DirectNet, safe.net)
    trained = (getattr(net, "header", {}).get("provenance", {}).get("settings") or {}).get("energy_gradient_weight", 1.0)
    if not trained > 0.0:
        fix = "mdistill train direct … --energy-gradient-weight 0.1"
        raise BadInput("--inner-steps", "the gradient of the energy was not trained", allowed="a model with it", fix=fix)
    return EnergyBetweenSteps(net, safe, inner_steps)

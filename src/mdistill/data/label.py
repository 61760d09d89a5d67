r"""Labels: a teacher's energy, forces, stress and curvature products of one structure, screened before they are kept.

Curvature products H·v, H = ∂²E/∂r∂r, are taken along random directions v with independent entries ±1 (Rademacher), for
which E[v·Hv] = tr H has the least variance of all such directions, or along single coordinates, which gives rows of H; by
automatic differentiation where the potential allows it, else by central differences of forces.

Reference:
    Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990), doi 10.1080/03610919008812866.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.derivatives import curvature_by_differences, curvature_products
from mdistill.errors import BadInput, BlowUp, MdistillError
from mdistill.graph import build_graph
from mdistill.types import CurvedPotential, Graph, LabelledFrame, Potential, Prediction, System

ProbeKind = Literal["random", "rows"]
FORCE_CAP = 50.0
"""Largest force (eV/Å) a label may hold: beyond it foundation potentials extrapolate."""


class BrokenLabel(MdistillError):
    """The teacher failed on a structure or gave an answer that must not be learnt.

    Attributes:
        reason: What was wrong.
        system: The structure.
        beyond_cap: The answer is sound but its forces are too large to learn: no fault of the teacher's.
    """

    def __init__(self, reason: str, system: System, *, beyond_cap: bool = False) -> None:
        self.reason = reason
        self.system = system
        self.beyond_cap = beyond_cap
        super().__init__(f"no label: {reason}")


def label(
    system: System,
    potential: Potential,
    *,
    probes: int = 0,
    kind: ProbeKind = "random",
    generator: Generator | None = None,
    target: Prediction | None = None,
    force_cap: float = FORCE_CAP,
    source: str = "md",
    temperature_K: float = 0.0,
    block: int = 0,
) -> LabelledFrame:
    """One structure with the teacher's answer.

    Args:
        system: One struct.
        potential: The teacher.
        probes: How many curvature directions.
        kind: "random" directions or "rows" of the Hessian.
        generator: Draws them; must be given where probes > 0.
        target: The answer where it is already known (dynamics run by the teacher); else the teacher is asked.
        force_cap: Largest force accepted, eV/Å.
        source, temperature_K, block: Kept with the frame (see `LabelledFrame`).
    Raises:
        BrokenLabel: The teacher raised or hung, or its answer is not finite, of a wrong shape or beyond the cap.
        BadInput: The potential does not know an element.
    """
    if probes > 0 and generator is None:
        raise BadInput("generator", "None", allowed="a torch.Generator where probes > 0", fix="pass one with a fixed seed")
    try:
        answer = potential(build_graph(system, potential.cutoff)) if target is None else target
        _screen(system, answer, force_cap)
        directions = draw_probes(system, probes, generator, kind=kind) if probes > 0 and generator is not None else None
        products = None if directions is None else curvature(potential, system, directions)
        if products is not None and not bool(torch.isfinite(products).all()):
            raise BrokenLabel("curvature products are not finite", system)
    except (BrokenLabel, BadInput, BlowUp):
        raise
    except Exception as error:
        raise BrokenLabel(f"{potential.name}: {type(error).__name__}: {error}", system) from error
    return LabelledFrame(
        system=system,
        target=answer,
        probes=directions,
        products=products,
        source=source,
        temperature_K=temperature_K,
        block=block,
    )


def draw_probes(system: System, count: int, generator: Generator, *, kind: ProbeKind = "random") -> Float[Tensor, "probe atom 3"]:
    """Directions with random entries ±1, or ("rows") unit vectors of distinct coordinates, as many as there are at most."""
    if kind == "rows":
        chosen = torch.randperm(3 * system.n_atoms, generator=generator)[:count]
        rows = torch.zeros((len(chosen), 3 * system.n_atoms)).scatter(1, chosen.unsqueeze(1), 1.0)
        return rows.view(-1, system.n_atoms, 3).to(system.positions)
    signs = torch.randint(0, 2, (count, system.n_atoms, 3), generator=generator)
    return (2 * signs - 1).to(system.positions)


def probe_kind(probe: Float[Tensor, "atom 3"]) -> ProbeKind:
    """Whether a direction is a unit vector of one coordinate ("rows") or not."""
    return "rows" if int((probe != 0).sum()) == 1 else "random"


def curvature(potential: Potential, system: System, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
    """H·v (eV/Å²) of one struct: by automatic differentiation if the potential can, else by central differences."""
    return curvature_products(potential, system, probes)


def curvature_calls(potential: Potential, probes: int) -> int:
    """Teacher calls (energy and forces) that `probes` curvature directions cost on one structure, about."""
    return 2 * probes + isinstance(potential, CurvedPotential)


def _screen(system: System, answer: Prediction, force_cap: float) -> None:
    shapes = (tuple(answer.energy.shape), tuple(answer.forces.shape))
    if shapes != ((1,), (system.n_atoms, 3)):
        raise BrokenLabel(f"energy and forces have shapes {shapes[0]} and {shapes[1]}", system)
    parts = [answer.energy, answer.forces] + ([] if answer.stress is None else [answer.stress])
    if any(part.dtype in (torch.float16, torch.bfloat16) for part in parts):
        raise BrokenLabel("half-precision answer: too coarse to learn from", system)
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise BrokenLabel("energy, forces or stress are not finite", system)
    largest = float(answer.forces.square().sum(-1).max().sqrt())
    if largest > force_cap:
        raise BrokenLabel(f"largest force {largest:.4g} eV/Å is above the cap of {force_cap:g} eV/Å", system, beyond_cap=True)


@dataclass(slots=True)
class TimedPotential:
    """A potential whose calls may take at most `seconds`; a call that hangs raises `TimeoutError`.

    The call runs in a second thread, which is left behind when it hangs (a new one serves the next call), so this works
    for any calculator, also one that waits for another process.
    """

    potential: Potential
    seconds: float
    _tasks: queue.SimpleQueue[Any] | None = field(default=None, init=False)

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.potential.elements

    @property
    def name(self) -> str:
        return self.potential.name

    def __call__(self, graph: Graph) -> Prediction:
        return self._run(self.potential, graph)

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        if isinstance(self.potential, CurvedPotential):
            return self._run(self.potential.curvature, graph, probes)
        return curvature_by_differences(self, graph.system, probes)

    def _run(self, function: Any, *arguments: Any) -> Any:
        if self._tasks is None:
            self._tasks = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._tasks,), daemon=True).start()
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tasks.put((function, arguments, answer))
        try:
            value, error = answer.get(timeout=self.seconds)
        except queue.Empty:
            self._tasks = None
            raise TimeoutError(f"no answer within {self.seconds:g} s") from None
        if error is not None:
            raise error
        return value


def _serve(tasks: queue.SimpleQueue[Any]) -> None:
    while True:
        function, arguments, answer = tasks.get()
        try:
            answer.put((function(*arguments), None))
        except BaseException as error:
            answer.put((None, error))

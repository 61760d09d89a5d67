"""Time of a step of the medium student by class of processor, and notes on a student that is far slower."""

from __future__ import annotations

import torch

from mdistill.estimates import Estimate
from mdistill.graph import build_graph
from mdistill.nets.catalogue import POTENTIALS
from mdistill.nets.compiled import OnKernel
from mdistill.nets.settings import SIZES
from mdistill.types import Potential, System

RECORD_US = {"avx512": 1.08, "avx2": 2.8, "sse": 6.9}
"""µs/atom by widest vector instructions: medium student in compiled code, float32, 416 atoms, 25 neighbours, one thread."""
_ATOMS, _NEIGHBOURS, _FEW_ATOMS, _SHARE = 416, 25.0, 1.5, 0.5


def runs_in(student: Potential, instructions: str) -> str:
    """How a student runs and the widest vector instructions of the processor, for people."""
    how = "compiled code" if isinstance(student, OnKernel) else "torch" if _is_network(student) else "its own code"
    return f"student in {how} on a processor with {instructions or 'unknown vector instructions'}"


def speed_notes(student: Potential, system: System, measured: Estimate, instructions: str) -> list[str]:
    """Warnings about a network in torch, or a compiled one below half the speed recorded on this class of processor.

    A record is compared with students of at most the medium size in float32 on a CPU. It is scaled by the neighbours per atom
    where there are more, and by 1.5 in cells of fewer atoms; more threads only make a student faster.

    Args:
        student: The potential that was timed.
        system: Structure of the timing, Å.
        measured: Time of a step, µs/atom.
        instructions: Class of the processor (`runs.hardware.instructions`).
    """
    if _is_network(student) and not isinstance(student, OnKernel):
        return ["speed: the student runs in torch, not in compiled code, which is 10 to 30 times faster: see mdistill doctor"]
    record, value = RECORD_US.get(instructions), measured.value
    if record is None or value is None or not isinstance(student, OnKernel) or not _comparable(student):
        return []
    neighbours = len(build_graph(system, student.cutoff).receiver) / system.n_atoms
    expected = record * max(1.0, neighbours / _NEIGHBOURS) * (_FEW_ATOMS if system.n_atoms < _ATOMS else 1.0)
    if value <= expected / _SHARE:
        return []
    return [
        f"speed: the student takes {value:.3g} µs/atom a step, below half the speed expected on a processor with {instructions} "
        f"({expected:.3g} µs/atom): other load, a throttled processor, or a kernel built for another one (see mdistill doctor)"
    ]


def _is_network(student: Potential) -> bool:
    return getattr(getattr(student, "net", None), "kind", "") in POTENTIALS


def _comparable(student: OnKernel) -> bool:
    weights, size = next(student.net.parameters()), student.net.settings
    small = all(getattr(size, name) <= limit for name, limit in SIZES["medium"].items())
    return small and weights.dtype == torch.float32 and weights.device.type == "cpu"

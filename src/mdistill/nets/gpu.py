"""A moment network on its CUDA kernels: time steps on the GPU, many per call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mdistill.derivatives import Conservative
from mdistill.graph import build_graph, cast, checked_box, make_system
from mdistill.kernels.build import NoKernel
from mdistill.kernels.replicas import ReplicaEngine, WarpKernel, cuda_program
from mdistill.nets.compiled import OnKernel, kernel_weights
from mdistill.types import Graph, Prediction, System


@dataclass(frozen=True)
class GpuMoment(OnKernel):
    """A `CurvedPotential`: dynamics of one structure runs on the kernels; graphs given from outside go through torch.

    Attributes:
        kernel: Its weights on the GPU.
    """

    kernel: WarpKernel

    def __call__(self, graph: Graph) -> Prediction:
        return self.plain(graph)

    def engine(self, system: System, *, threads: int, skin: float) -> ReplicaEngine:
        """Evaluation and dynamics of one structure on the GPU; `threads` are those of CPU engines.

        Raises:
            BadInput: An element that the student does not know.
        """
        species = self.net.species(system.numbers.to(self.net.species_of.device))
        return ReplicaEngine(self.kernel, species.cpu().numpy(), skin)


def gpu_moment(potential: Conservative, *, double: bool) -> GpuMoment:
    """A moment network on the current GPU.

    Raises:
        NoKernel: Its kernels cannot be built, or do not give the forces of torch.
    """
    weights = kernel_weights(potential.net, double=double)  # type: ignore[arg-type]
    return checked(GpuMoment(potential, WarpKernel(weights, cuda_program(tuple(weights.sizes.items())))))


def checked(student: GpuMoment) -> GpuMoment:
    """The student, after its forces in a small cluster with all its elements were compared with those of torch.

    Raises:
        NoKernel: They differ by more than rounding errors.
    """
    elements = np.array(sorted(student.elements) * 2)
    grid = np.stack(np.unravel_index(np.arange(len(elements)), (3, 3, len(elements) // 9 + 1)), 1)
    positions = 0.5 * student.cutoff * (grid + 0.2 * np.sin(np.arange(3 * len(grid))).reshape(-1, 3))
    cluster = make_system(positions, elements, np.zeros((3, 3)), [False] * 3)
    graph = build_graph(cast(cluster, device=student.net.species_of.device), student.cutoff)
    expected = student.plain(graph).forces.cpu().double().numpy()
    box, pbc = checked_box(cluster, student.cutoff), np.zeros(3)
    found = student.engine(cluster, threads=1, skin=0.0).evaluate(positions, box, pbc)[1]
    off, scale = np.abs(found - expected).max(), 0.1 + np.abs(expected).max()
    if not off <= (1e-8 if student.kernel.real == torch.float64 else 1e-4) * scale:
        raise NoKernel(f"forces of the CUDA kernels differ from those of torch by {off:.2g} eV/Å\n  fix: --device cpu")
    return student

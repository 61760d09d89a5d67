"""The CUDA kernels built for the CPU, with a thin header in place of CUDA (`cuda_on_cpu.hpp`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mdistill.kernels import edge_attention_gpu
from mdistill.kernels.build import Source
from mdistill.kernels.moment import Weights
from mdistill.kernels.replicas import KERNELS, SOURCES

_HERE = Path(__file__).parent
_FLAGS = (f"-I{_HERE}", f"-I{SOURCES[0].parent}", "-O1", "-w", "-Wl,-Bsymbolic")
_SOURCE = Source((_HERE / "replicas_on_cpu.cpp", _HERE / "cuda_on_cpu.hpp", *SOURCES), _FLAGS)
_ATTENTION = Source((_HERE / "edge_attention_on_cpu.cpp", _HERE / "cuda_on_cpu.hpp", edge_attention_gpu.CUDA), _FLAGS)


@dataclass(slots=True)
class CpuProgram:
    """A `Program` on the CPU; `backwards`: threads of a block run in descending order."""

    library: ctypes.CDLL
    kernels: tuple[str, ...]
    backwards: bool = False
    device: str = "cpu"

    def launch(self, kernel: str, blocks: int, threads: int, argument: ctypes.Structure) -> None:
        if blocks:
            done = self.library.mdistill_launch(
                self.kernels.index(kernel), blocks, threads, self.backwards, ctypes.addressof(argument)
            )
            assert done, f"threads of {kernel} wait for each other"

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


def cpu_program(weights: Weights, *, backwards: bool = False) -> CpuProgram:
    return CpuProgram(_SOURCE.library(**weights.sizes), KERNELS, backwards)


def attention_on_cpu(width: int, real: str) -> CpuProgram:
    """The kernels of edge_attention.cu."""
    return CpuProgram(_ATTENTION.library(width=width, real=real), edge_attention_gpu.KERNELS)

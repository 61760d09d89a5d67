"""CUDA sources compiled at first use (NVRTC) and launched through the driver: the only module that knows cuda.bindings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mdistill.kernels.build import NoKernel

_OPTIONS = ("--std=c++17", "--extra-device-vectorization")
_FIX = 'pip install "mdistill[gpu]", with the major version of the CUDA that torch was built for'


class Program(Protocol):
    """Compiled kernels, each with one struct as its argument.

    Attributes:
        device: Where their arrays are, as torch names it.
    """

    device: str

    def launch(self, kernel: str, blocks: int, threads: int, argument: ctypes.Structure) -> None: ...

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, whose launches are the same at each call, as one launch."""
        ...


class CudaProgram:
    """A source for the current GPU, compiled with macros (in capitals after MDISTILL_); raises `NoKernel` where that fails."""

    def __init__(self, source: Path, headers: Sequence[Path], kernels: Sequence[str], macros: dict[str, str | int]) -> None:
        import torch

        self.device = f"cuda:{torch.cuda.current_device()}"
        major, minor = torch.cuda.get_device_capability()
        binary = compiled(source, headers, macros, f"sm_{major}{minor}")
        driver = _bindings().driver
        torch.cuda.current_stream().synchronize()  # makes the context of torch the current one
        self._module = _checked(driver.cuModuleLoadData(np.frombuffer(binary, dtype=np.uint8).ctypes.data))
        self._functions = {name: _checked(driver.cuModuleGetFunction(self._module, name.encode())) for name in kernels}

    def launch(self, kernel: str, blocks: int, threads: int, argument: ctypes.Structure) -> None:
        import torch

        addresses = np.array([ctypes.addressof(argument)], dtype=np.uint64)
        stream, function = torch.cuda.current_stream().cuda_stream, self._functions[kernel]
        sizes = (blocks, 1, 1, threads, 1, 1, 0)
        _checked(_bindings().driver.cuLaunchKernel(function, *sizes, stream, addresses.ctypes.data, 0))

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work` as a CUDA graph."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay


def compiled(source: Path, headers: Sequence[Path], macros: dict[str, str | int], architecture: str) -> bytes:
    """Machine code of a source for an architecture (sm_90); needs no GPU.

    Raises:
        NoKernel: cuda.bindings or NVRTC is absent, or the source does not compile.
    """
    nvrtc = _bindings().nvrtc
    texts = [path.read_bytes() for path in headers]
    try:
        program = _checked(
            nvrtc.nvrtcCreateProgram(
                source.read_bytes(), source.name.encode(), len(texts), texts, [h.name.encode() for h in headers]
            )
        )
    except RuntimeError as error:  # cuda.bindings loads the library at the first call
        raise NoKernel(f"NVRTC is absent ({error})\n  fix: {_FIX}") from error
    try:
        options = [f"--gpu-architecture={architecture}", *_OPTIONS, *(f"-DMDISTILL_{k.upper()}={v}" for k, v in macros.items())]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if int(status):
            log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
            nvrtc.nvrtcGetProgramLog(program, log)
            lines = [line for line in log.decode(errors="replace").splitlines() if "error" in line] or ["no message"]
            raise NoKernel(f"NVRTC cannot compile {source.name}: {lines[0].strip()}\n  fix: {_FIX}")
        binary = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, binary))
        return binary
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _bindings() -> Any:
    try:
        import cuda.bindings.driver
        import cuda.bindings.nvrtc
    except ImportError as error:
        raise NoKernel(f"cuda.bindings is not installed\n  fix: {_FIX}") from error
    return cuda.bindings


def _checked(answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if int(status):
        raise NoKernel(f"CUDA answers {status!r}\n  fix: {_FIX}")
    return values[0] if values else None

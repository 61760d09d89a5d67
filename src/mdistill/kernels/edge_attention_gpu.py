"""Triangular attention on a GPU: calls of edge_attention.cu, and the walks of its threads through the triples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.kernels.build import c_struct
from mdistill.kernels.cuda import CudaProgram, Program
from mdistill.kernels.edge_attention import EdgeAttention, Triples

KERNELS, CUDA = ("attend", "attend_back"), Path(__file__).parent / "edge_attention.cu"
_THREADS = 128
FORWARD, FIRST, SECOND = "forward", "first", "second"


@cache
def cuda_program(width: int, real: str, device: int) -> Program:
    """The kernels for heads of this width on a GPU, which is the current one; raises `NoKernel`."""
    return CudaProgram(CUDA, (), KERNELS, {"width": width, "real": real})


@dataclass(frozen=True, slots=True)
class Walk:
    """What a thread of a token goes through; `Walk` in edge_attention.cu."""

    steps: Int[Tensor, "token 5"] | None = None
    first: Int[Tensor, " token1"] | None = None
    pairs: Int[Tensor, "triple 2"] | None = None

    def addresses(self) -> dict[str, int]:
        return {name: 0 if (held := getattr(self, name)) is None else held.data_ptr() for name in ("steps", "first", "pairs")}


def walks(triples: Triples, device: str | torch.device) -> dict[str, Walk]:
    """For each token e its sides a and b; for each token as a, and as b, the e and the other side. Made once for some triples."""
    if f"{device}" not in triples.there:
        made = _listed(triples) if triples.sizes is None else _complete(triples.sizes)
        triples.there[f"{device}"] = {
            name: Walk(*(None if part is None else torch.from_numpy(part).to(device) for part in parts))
            for name, parts in made.items()
        }
    held: dict[str, Walk] = triples.there[f"{device}"]
    return held


def _complete(sizes: Int[np.ndarray, " struct"]) -> dict[str, tuple[np.ndarray | None, ...]]:
    found: dict[str, list[np.ndarray]] = {FORWARD: [], FIRST: [], SECOND: []}
    start = 0
    for n in sizes.tolist():
        row, column = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        along, down = start + n * row, start + column  # (row, 0) and (0, column): one step is 1, or n
        many, one, far = np.full(n * n, n), np.full(n * n, 1), np.full(n * n, n)
        found[FORWARD].append(np.stack([many, along, one, down, far], 1))
        found[FIRST].append(np.stack([many, along, one, start + n * column, one], 1))
        found[SECOND].append(np.stack([many, down, far, start + row, far], 1))
        start += n * n
    return {name: (np.concatenate(parts).astype(np.int32), None, None) for name, parts in found.items()}


def _listed(triples: Triples) -> dict[str, tuple[np.ndarray | None, ...]]:
    token, pairs = triples.listed()
    found: dict[str, tuple[np.ndarray | None, ...]] = {FORWARD: (None, triples.first, np.ascontiguousarray(pairs, np.int32))}
    for name, mine in ((FIRST, 0), (SECOND, 1)):
        order = np.argsort(pairs[:, mine], kind="stable")
        first = np.concatenate([[0], np.bincount(pairs[:, mine], minlength=triples.tokens).cumsum()])
        found[name] = (None, first, np.stack([token[order], pairs[order, 1 - mine]], 1).astype(np.int32))
    return found


def attention_kernel(sides: Float[Tensor, "token 4 head d"]) -> Any:
    """The kernel with `attend` and `attend_back` for such arrays, where they are.

    Raises:
        NoKernel: It cannot be built.
    """
    _, _, heads, width = sides.shape
    real = f"{sides.dtype}".removeprefix("torch.")
    if sides.device.type == "cpu":
        return EdgeAttention(heads, width, real)
    return GpuAttention(cuda_program(width, "float" if real == "float32" else "double", torch.cuda.current_device()))


@dataclass(frozen=True, slots=True)
class GpuAttention:
    """`EdgeAttention` on a GPU."""

    program: Program

    def attend(
        self, triples: Triples, sides: Float[Tensor, "token 4 head d"], bias: Float[Tensor, " token"]
    ) -> tuple[Float[Tensor, "token head d"], Float[Tensor, "token head"]]:
        """Attention of q, k, v, w, and the logs of its sums of exponentials; contiguous arrays."""
        tokens, _, heads, width = sides.shape
        result, logs = sides.new_empty((tokens, heads, width)), sides.new_empty((tokens, heads))
        walk = walks(triples, sides.device)[FORWARD]
        _launch(self.program, "attend", walk, 0, sides=sides, bias=bias, out=result, logs=logs)
        return result, logs

    def attend_back(
        self, triples: Triples, inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor], gradient: Tensor
    ) -> tuple[Float[Tensor, "token 4 head d"], Float[Tensor, " token"]]:
        """Gradients of sides and bias, the inputs of `attend`, from its outputs and the gradient of the first of these."""
        (sides, bias), (result, logs) = inputs, outputs
        to_sides, to_bias, along = torch.empty_like(sides), torch.empty_like(logs), (gradient * result).sum(2)
        arrays = {"sides": sides, "bias": bias, "logs": logs, "gradient": gradient, "along": along}
        for role, name in enumerate((FIRST, SECOND)):
            walk = walks(triples, sides.device)[name]
            _launch(self.program, "attend_back", walk, role, **arrays, to_sides=to_sides, to_bias=to_bias)
        return to_sides, to_bias.sum(1)


def _launch(program: Program, kernel: str, walk: Walk, role: int, *, sides: Tensor, **arrays: Tensor) -> None:
    """Arguments in the order of `Call` in edge_attention.cu; arrays that a kernel does not use are null."""
    tokens, _, heads, _ = sides.shape
    order = ("bias", "out", "logs", "gradient", "along", "to_sides", "to_bias")
    addresses = {name: arrays[name].data_ptr() if name in arrays else 0 for name in order}
    argument = c_struct(tokens=tokens, heads=heads, role=role, **walk.addresses(), sides=sides.data_ptr(), **addresses)
    program.launch(kernel, -(-tokens * heads // _THREADS), _THREADS, argument)

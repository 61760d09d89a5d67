"""Calls of compiled triangular attention; see edge_attention.hpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import byref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.kernels.build import Source, c_struct

_FILES = ("edge_attention.cpp", "edge_attention.hpp", "lanes.hpp", "crew.hpp")
_PART, _TABLE = 2**21, 2**24
SOURCE = Source(tuple(Path(__file__).parent / name for name in _FILES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Triples:
    """Triangles of pair tokens e = (i, j), a = (i, l), b = (l, j).

    Attributes:
        tokens: Number of tokens.
        sizes: Atoms of each struct, where every pair of atoms of a struct and every atom itself is a token: (i, j) has the
            number (tokens of earlier structs) + i · n + j. None with a list.
        first: [token + 1] first triple of each token in the list, int64.
        pairs: [triple, 2] tokens a and b, int32, in the order of e.
        there: What a device was given of it (`edge_attention_gpu.walks`).
    """

    tokens: int
    sizes: Int[np.ndarray, " struct"] | None = None
    first: Int[np.ndarray, " token1"] | None = None
    pairs: Int[np.ndarray, "triple 2"] | None = None
    there: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    _held: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        structs = 0 if self.sizes is None else len(self.sizes)
        held = c_struct(count=self.tokens, structs=structs, sizes=self.sizes, first=self.first, pairs=self.pairs)
        object.__setattr__(self, "_held", held)

    @property
    def count(self) -> int:
        """Number of triples."""
        return len(self.pairs) if self.pairs is not None else 0 if self.sizes is None else int((self.sizes**3).sum())

    def listed(self) -> tuple[Int[np.ndarray, " triple"], Int[np.ndarray, "triple 2"]]:
        """Token e, and tokens a and b, of every triple."""
        if self.first is not None and self.pairs is not None:
            return np.repeat(np.arange(self.tokens), np.diff(self.first)), self.pairs
        tokens, pairs, start = [], [], 0
        for n in [] if self.sizes is None else self.sizes.tolist():
            i, j, m = (axis.ravel() for axis in np.meshgrid(*[np.arange(n)] * 3, indexing="ij"))
            tokens.append(start + i * n + j)
            pairs.append(start + np.stack([i * n + m, m * n + j], 1))
            start += n * n
        return np.concatenate(tokens), np.concatenate(pairs)


def common_neighbours(
    receiver: Int[np.ndarray, " token"], sender: Int[np.ndarray, " token"], shift: Float[np.ndarray, "token 3"]
) -> Triples:
    """All triangles of tokens, from any atom to one it shares a token with: shifts of a and b sum to that of e.

    Args:
        receiver, sender: Atoms i and j of each token.
        shift: Lattice vectors between them, whole numbers; equal tokens occur once.
    """
    whole = shift.round().astype(np.int64)
    span, atoms = 4 * int(np.abs(whole).max(initial=0)) + 1, int(receiver.max(initial=-1)) + 1
    lattice, middle = whole @ np.array([span * span, span, 1]), span**3 // 2
    key = (receiver * atoms + sender) * span**3 + lattice + middle
    token_of = _token_by_key(key, span**3 * atoms**2)
    order = np.argsort(receiver, kind="stable")
    count = np.bincount(receiver, minlength=atoms)
    many, begin = count[receiver], (count.cumsum() - count)[receiver]
    ends = many.cumsum()
    pairs = np.empty((int(ends[-1]) if len(ends) else 0, 2), dtype=np.int32)  # memory is used as far as it is filled
    triples, done = np.zeros(len(receiver) + 1, dtype=np.int64), 0
    for lower, upper in _parts(ends):
        token = np.repeat(np.arange(lower, upper), many[lower:upper])
        a = order[
            np.repeat((begin - ends + many)[lower:upper], many[lower:upper]) + np.arange(len(token)) + ends[lower] - many[lower]
        ]
        b = token_of((sender[a] * atoms + sender[token]) * span**3 + lattice[token] - lattice[a] + middle)
        found = b >= 0
        fresh = int(found.sum())
        pairs[done : done + fresh, 0], pairs[done : done + fresh, 1] = a[found], b[found]
        triples[1:] += np.bincount(token[found], minlength=len(receiver))
        done += fresh
    return Triples(tokens=len(receiver), first=triples.cumsum(), pairs=pairs[:done])


def _parts(ends: Int[np.ndarray, " token"]) -> Iterator[tuple[int, int]]:
    """Ranges of tokens of about `_PART` candidates each."""
    lower = 0
    while lower < len(ends):
        before = int(ends[lower - 1]) if lower else 0
        upper = max(lower + 1, int(np.searchsorted(ends, before + _PART, side="right")))
        yield lower, upper
        lower = upper


def _token_by_key(key: Int[np.ndarray, " token"], largest: int) -> Callable[[Int[np.ndarray, " k"]], Int[np.ndarray, " k"]]:
    """The token of each key, −1 where there is none: by a table, or where that would be large by bisection."""
    if largest <= _TABLE:
        table = np.full(largest, -1, dtype=np.int32)
        table[key] = np.arange(len(key))
        return lambda wanted: table[wanted]
    by_key = np.argsort(key, kind="stable")
    ordered = key[by_key]

    def token_of(wanted: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        place = np.searchsorted(ordered, wanted).clip(max=len(key) - 1)
        return np.where(ordered[place] == wanted, by_key[place], -1)

    return token_of


@dataclass(frozen=True, slots=True)
class EdgeAttention:
    """The kernel for heads of one width and one float type, given as numpy names it, on a CPU.

    Raises:
        NoKernel: It cannot be built.
    """

    heads: int
    width: int
    real: str

    def _call(self, name: str) -> Any:
        kind = {"float32": "float", "float64": "double"}[self.real]
        return getattr(SOURCE.library(width=self.width, real=kind), name)

    def attend(
        self, triples: Triples, sides: Float[Tensor, "token 4 head d"], bias: Float[Tensor, " token"]
    ) -> tuple[Float[Tensor, "token head d"], Float[Tensor, "head token"]]:
        """Attention of q, k, v, w, and the logs of its sums of exponentials; contiguous arrays."""
        result, logs = sides.new_empty((len(sides), self.heads, self.width)), sides.new_empty((self.heads, len(sides)))
        addresses = [part.data_ptr() for part in (sides, bias, result, logs)]
        self._call("mdistill_attend")(byref(triples._held), self.heads, torch.get_num_threads(), *addresses)
        return result, logs

    def attend_back(
        self, triples: Triples, inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor], gradient: Tensor
    ) -> tuple[Float[Tensor, "token 4 head d"], Float[Tensor, " token"]]:
        """Gradients of sides and bias, the inputs of `attend`, from its outputs and the gradient of the first of these."""
        to_sides, to_bias = torch.empty_like(inputs[0]), torch.empty_like(outputs[1])
        addresses = [part.data_ptr() for part in (*inputs, *outputs, gradient, to_sides, to_bias)]
        self._call("mdistill_attend_back")(byref(triples._held), self.heads, torch.get_num_threads(), *addresses)
        return to_sides, to_bias.sum(0)

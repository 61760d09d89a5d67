"""A convolution of an equivariant network in compiled code: its result and its gradient, without anything stored per edge."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mdistill.kernels.build import NoKernel, Source, c_struct

SOURCE = Source(tuple(Path(__file__).parent / name for name in ("convolution.cpp", "lanes.hpp", "crew.hpp")))
_LARGEST = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionPath:
    """From one block of the features to one block of the result.

    Attributes:
        block: Number of the block of features.
        weight: First of its radial functions.
        start, stride: First number of its result, and numbers between two components there.
        coefficients: C_cab with all factors.
    """

    block: int
    weight: int
    start: int
    stride: int
    coefficients: Float[np.ndarray, "component feature_component harmonic"]


class ConvolutionKernel:
    """The convolution of convolution.cpp; features and result have channels last, block after block.

    Args:
        blocks: Channels and components of each block of the features.
        paths: Its paths.
        table: Coefficients of the radial functions between two knots, in powers of the share of the way to the next.
        scale: Factor of the result.
        lowest, spacing: Distance of the first knot, and between two knots, Å.
    Raises:
        NoKernel: It cannot be built, or the sizes are not supported.
    """

    def __init__(
        self, blocks: Sequence[tuple[int, int]], paths: Sequence[ConvolutionPath],
        table: Float[np.ndarray, "interval power weight"], *, scale: float, lowest: float, spacing: float,
    ) -> None:  # fmt: skip
        self._library = SOURCE.library()
        lanes, harmonics = self._library.mdistill_lanes(), paths[0].coefficients.shape[2]
        if any(channels % lanes or components > _LARGEST for channels, components in blocks) or harmonics > 16:
            raise NoKernel(f"a convolution of the blocks {list(blocks)} is not supported")
        rows, terms, values = [], [], []
        for path in paths:
            components, _, _ = path.coefficients.shape
            flat = path.coefficients.reshape(-1, harmonics)
            found = np.argwhere(flat)
            rows.append((path.block, components, path.weight, path.start, path.stride, len(found)))
            terms += found.tolist()
            values += flat[tuple(found.T)].tolist()
        numbers = np.ascontiguousarray(table, dtype=np.float32)
        self._pointer = self._library.mdistill_convolution(
            len(blocks), np.array(blocks), len(rows), np.array(rows), np.array(terms), np.array(values), harmonics, len(table),
            numbers.ctypes.data, np.array([scale, lowest, spacing]),
        )  # fmt: skip
        self.outputs = sum(blocks[path.block][0] * path.coefficients.shape[0] for path in paths)
        weakref.finalize(self, self._library.mdistill_convolution_free, self._pointer)

    def convolve(self, atoms: int, threads: int, edges: dict[str, int], features: int, result: int) -> None:
        """Write the result. `edges` has the addresses of first [atom + 1] and sender (int64), length and harmonics (float32);
        features and result are addresses of float32 numbers."""
        self._library.mdistill_convolve(self._pointer, atoms, threads, _edges(edges), features, result)

    def convolve_back(
        self, atoms: int, threads: int, edges: dict[str, int], features: int, *, gradient: int, to: tuple[int, int, int]
    ) -> None:
        """Write the gradients of features, harmonics and lengths to the addresses `to`, from the gradient of the result."""
        self._library.mdistill_convolve_back(self._pointer, atoms, threads, _edges(edges), features, gradient, *to)


def _edges(addresses: dict[str, int]) -> Any:
    return byref(c_struct(**{name: addresses[name] for name in ("first", "sender", "length", "harmonics")}))

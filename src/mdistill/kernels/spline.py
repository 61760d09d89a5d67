"""The spline student in compiled code: weights handed over once, then energy, forces, virial and dynamics of one structure.

Float64 goes in and comes out; inside, edges and networks are computed in the float type of the library, energies, forces
and virials are added up in float64. The radial functions are evaluated exactly (Chebyshev recurrence), not tabulated.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mdistill.kernels.library import Field, Size, address, library
from mdistill.kernels.motion import Motion, Point, run

Array = np.ndarray
_ATOMS_PER_THREAD = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A student's weights as float64 arrays (n species, k radial functions, c channels, h hidden units, f features).

    Attributes:
        size: What the library is compiled for.
        head: [3] cutoff (Å), width of the frozen zone (Å), energy scale (eV).
        reference, rest: [n] E0 (eV); output of the MLP for an isolated atom.
        closest: [n, n] distance below which learned functions come to rest, Å.
        core: Core repulsion: [4] charges, [n·n] strengths (eV Å), [n·n, 4] decays (1/Å), [n·n] outer radii (Å).
        mixing: [n, degree + 1, n·k, c].
        layers: Weight [n, f or h, h] and bias [n, h] of the first and second layer, then [n, h] of the last, normalisation of
            features included; without a hidden layer [n, f] alone.
        sphere: [point, 1 + lm] weight and harmonics of one of each antipodal pair of quadrature points.
    """

    size: Size
    head: Array
    reference: Array
    rest: Array
    closest: Array
    core: tuple[Array, Array, Array, Array]
    mixing: Array
    layers: tuple[Array, ...]
    sphere: Array

    def flat(self) -> Float[Array, " number"]:
        """All numbers in the order in which spline.hpp reads them."""
        parts = [self.head, self.reference, self.rest, self.closest, *self.core, self.mixing, *self.layers]
        return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in (*parts, self.sphere)])


class SplineKernel:
    """Weights in a compiled library. Raises RuntimeError at construction where the library cannot be built."""

    def __init__(self, weights: Weights) -> None:
        handle = library(weights.size)
        if handle is None:
            raise RuntimeError("no C++ compiler")
        self.library, self.species, self.cutoff = handle, len(weights.reference), float(weights.head[0])
        flat = weights.flat()
        self.pointer = handle.mdistill_net(self.species, address(flat))
        weakref.finalize(self, handle.mdistill_net_free, self.pointer)

    def engine(self, species: Int[Array, " atom"], *, threads: int, skin: float) -> Engine:
        """What evaluates one structure with atoms of these species (indices), again and again."""
        return Engine(self, np.ascontiguousarray(species, dtype=np.int32), threads, skin)


class Engine:
    """One structure: keeps its neighbour list between calls. Results depend on the positions alone, not on the calls before."""

    def __init__(self, kernel: SplineKernel, species: Int[Array, " atom"], threads: int, skin: float) -> None:
        self.kernel, self.atoms, self.species = kernel, len(species), species
        self.threads, self.skin = threads, skin
        self._call, self._lender = kernel.library, self
        self._pointer = self._call.mdistill_engine(kernel.pointer, self.atoms, address(species), threads, skin)
        weakref.finalize(self, self._call.mdistill_engine_free, self._pointer)

    def set_limits(self, distances: Float[Array, "species species"]) -> None:
        """Closest distance (Å) of each pair at which `run` stops; 0 for none."""
        limits = _real(distances)
        self._call.mdistill_limits(self._pointer, address(limits))

    def share_list(self, other: Engine) -> bool:
        """Use the neighbour list of another engine from now on, where it has the same pairs; says whether it has."""
        same = (self.kernel.cutoff, self.skin) == (other.kernel.cutoff, other.skin)
        if not same or not np.array_equal(self.species, other.species):
            return False
        self._lender = other
        self._call.mdistill_share(self._pointer, other._call.mdistill_pairs(other._pointer))
        return True

    def field(self) -> Field:
        """What `Strides` calls, from whichever library."""
        functions = (self._call.mdistill_evaluate, self._call.mdistill_closest)
        return Field(self._pointer, *(ctypes.cast(function, ctypes.c_void_p) for function in functions))

    def evaluate(self, positions: Array, cell: Array, pbc: Array) -> tuple[float, Array, Array]:
        """Energy (eV), forces (eV/Å), virial (eV) with the engine's own neighbour search."""
        forces, virial = np.empty((self.atoms, 3)), np.empty((3, 3))
        r, h, p = _real(positions), _real(cell), np.ascontiguousarray(pbc, dtype=np.int32)
        energy = self._call.mdistill_evaluate(
            self._pointer, address(r), address(h), address(p), address(forces), address(virial), None
        )
        return energy, forces, virial

    def on_graph(self, first: Array, sender: Array, offset: Array, positions: Array) -> tuple[Array, Array, Array]:
        """Energy of each atom (eV), forces, virial with the edges given.

        Args:
            first: [atom + 1] where the edges of each receiver begin.
            sender: [edge].
            offset: [edge, 3] lattice vector to add to the sender's position, Å.
            positions: [atom, 3] Å.
        """
        atomic, forces, virial = np.zeros(self.atoms), np.empty((self.atoms, 3)), np.empty((3, 3))
        parts = (np.ascontiguousarray(first, np.int64), np.ascontiguousarray(sender, np.int32), _real(offset), _real(positions))
        self._call.mdistill_graph(self._pointer, *map(address, parts), address(forces), address(virial), address(atomic))
        return atomic, forces, virial

    def run(self, motion: Motion, point: Point) -> tuple[int, bool]:
        """Take steps, changing the point in place; gives how many were taken, and whether the last of them passed a limit or
        has energy or forces that are not finite."""
        return run(self._call.mdistill_run, self._pointer, motion, point)

    def counts(self) -> dict[str, float]:
        """Neighbour searches of its list so far and the seconds they took, edges within the cutoff at the last evaluation."""
        searches, edges, seconds = ctypes.c_int64(), ctypes.c_int64(), ctypes.c_double()
        self._call.mdistill_counts(self._pointer, ctypes.byref(searches), ctypes.byref(edges), ctypes.byref(seconds))
        return {"searches": searches.value, "edges": edges.value, "search_seconds": seconds.value}


def threads_for(atoms: int, available: int) -> int:
    """Threads worth using: fewer than 150 atoms each are not worth another one."""
    return max(1, min(available, atoms // _ATOMS_PER_THREAD))


def neighbours(
    kernel: SplineKernel, positions: Array, cell: Array, pbc: Array, reach: float, *, threads: int = 1, few: int = -1
) -> tuple[Array, Array, Array]:
    """Pairs within a reach by the compiled search: first [atom + 1], sender [pair], offset [pair, 3] (Å).

    Up to `few` atoms (−1: the usual number) all pairs are gone through, above that it takes bins; the answer is the same.
    """
    r, h, p = _real(positions), _real(cell), np.ascontiguousarray(pbc, dtype=np.int32)
    first, room = np.empty(len(r) + 1, dtype=np.int64), 128 * len(r)
    while True:
        sender, offset = np.empty(room, dtype=np.int32), np.empty((room, 3))
        lists = (first, sender, offset)
        found = kernel.library.mdistill_search(
            len(r), address(r), address(h), address(p), reach, threads, few, room, *map(address, lists)
        )
        if found <= room:
            return first, sender[:found], offset[:found]
        room = found


def _real(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=np.float64)

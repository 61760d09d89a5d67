"""The moment network in compiled code: weights are passed once; then energy, forces, virial and dynamics of one structure.

Input and output are float64; inside, edges and networks are computed in the float type of the library, energies, forces
and virials are added up in float64. The radial functions are evaluated exactly (Chebyshev recurrence), not tabulated.
"""

from __future__ import annotations

import ctypes
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mdistill.kernels.build import NoKernel, Source, build
from mdistill.kernels.motion import Motion, Point, run

Array = np.ndarray
_HEADERS = (
    "lanes", "crew", "neighbours", "skin_list", "products", "edges", "moment", "gather", "rank", "domain", "motion", "dynamics",
    "splitting_map",
)  # fmt: skip
SOURCE = Source(tuple(Path(__file__).parent / name for name in ("moment.cpp", *(f"{name}.hpp" for name in _HEADERS))))
SLOW = "in torch, 10 to 30 times slower"
_ATOMS_PER_THREAD = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A student's weights as float64 arrays (n species, k radial functions, c channels, h hidden units, f features).

    Attributes:
        sizes: Sizes of the compiled library: radial, degree, channels, hidden, and the float type real.
        head: [3] cutoff (Å), width of the frozen zone (Å), energy scale (eV).
        reference, rest: [n] E0 (eV); output of the MLP for an isolated atom.
        closest: [n, n] distance below which learned functions are constant, Å.
        core: Core repulsion: [4] charges, [n·n] strengths (eV Å), [n·n, 4] decays (1/Å), [n·n] outer radii (Å).
        mixing: [n, degree + 1, n·k, c].
        layers: Weight [n, f or h, h] and bias [n, h] of the first and second layer, then [n, h] of the last, normalisation of
            features included; without a hidden layer [n, f] alone.
        sphere: [point, 1 + lm] weight and harmonics of one of each antipodal pair of quadrature points.
    """

    sizes: dict[str, str | int]
    head: Array
    reference: Array
    rest: Array
    closest: Array
    core: tuple[Array, Array, Array, Array]
    mixing: Array
    layers: tuple[Array, ...]
    sphere: Array

    def flat(self) -> Float[Array, " number"]:
        """All numbers in the order in which moment.hpp reads them."""
        parts = [self.head, self.reference, self.rest, self.closest, *self.core, self.mixing, *self.layers]
        return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in (*parts, self.sphere)])


class MomentKernel:
    """Weights in a compiled library; raises `NoKernel` where it cannot be built."""

    def __init__(self, weights: Weights, source: Source = SOURCE) -> None:
        self.library = source.library(**weights.sizes)
        self.species, self.cutoff = len(weights.reference), float(weights.head[0])
        self.pointer = self.library.mdistill_net(self.species, weights.flat())
        weakref.finalize(self, self.library.mdistill_net_free, self.pointer)

    def engine(self, species: Int[Array, " atom"], *, threads: int, skin: float) -> Engine:
        """An engine for one structure with atoms of these species (indices)."""
        return Engine(self, np.ascontiguousarray(species, dtype=np.int32), threads, skin)


class Engine:
    """One structure with its neighbour list. Results depend on the positions alone, not on earlier calls."""

    def __init__(self, kernel: MomentKernel, species: Int[Array, " atom"], threads: int, skin: float) -> None:
        self.kernel, self.library, self.species, self.atoms = kernel, kernel.library, species, len(species)
        self.threads, self.skin, self._list_owner = threads, skin, self
        self._pointer = self.library.mdistill_engine(kernel.pointer, self.atoms, species, threads, skin)
        weakref.finalize(self, self.library.mdistill_engine_free, self._pointer)

    def set_limits(self, distances: Float[Array, "species species"]) -> None:
        """Closest distance (Å) of each pair at which `run` stops; 0 for none."""
        self.library.mdistill_limits(self._pointer, distances)

    def share_list(self, other: Engine) -> bool:
        """Use the neighbour list of another engine if it has the same pairs; returns whether it has."""
        same = (self.kernel.cutoff, self.skin) == (other.kernel.cutoff, other.skin)
        if not same or not np.array_equal(self.species, other.species):
            return False
        self._list_owner = other
        self.library.mdistill_share(self._pointer, other.library.mdistill_pairs(other._pointer))
        return True

    def addresses(self) -> list[int | None]:
        """The engine and its functions, for a caller in another library (`Field` in splitting_map.hpp)."""
        functions = (self.library.mdistill_evaluate, self.library.mdistill_closest)
        return [self._pointer, *(ctypes.cast(function, ctypes.c_void_p).value for function in functions)]

    def evaluate(self, positions: Array, cell: Array, pbc: Array) -> tuple[float, Array, Array]:
        """Energy (eV), forces (eV/Å), virial (eV) with the engine's own neighbour search."""
        forces, virial = np.empty((self.atoms, 3)), np.empty((3, 3))
        energy = self.library.mdistill_evaluate(self._pointer, positions, cell, pbc, forces, virial, None)
        return energy, forces, virial

    def on_graph(self, first: Array, sender: Array, offset: Array, positions: Array) -> tuple[Array, Array, Array]:
        """Energy of each atom (eV), forces, virial with the edges given.

        Args:
            first: [atom + 1] first edge of each receiver.
            sender: [edge].
            offset: [edge, 3] lattice vector to add to the sender's position, Å.
            positions: [atom, 3] Å.
        """
        atomic, forces, virial = np.zeros(self.atoms), np.empty((self.atoms, 3)), np.empty((3, 3))
        self.library.mdistill_graph(self._pointer, first, sender, offset, positions, forces, virial, atomic)
        return atomic, forces, virial

    def run(self, motion: Motion, point: Point) -> tuple[int, bool]:
        """Take steps as `motion.run` does."""
        return run(self.library.mdistill_run, self._pointer, motion, point)

    def counts(self) -> dict[str, float]:
        """Neighbour searches of its list so far and the seconds they took, edges within the cutoff at the last evaluation."""
        numbers, seconds = np.empty(2, dtype=np.int64), np.empty(1)
        self.library.mdistill_counts(self._pointer, numbers, seconds)
        return {"searches": int(numbers[0]), "edges": int(numbers[1]), "search_seconds": float(seconds[0])}


def threads_for(atoms: int, available: int) -> int:
    """Useful number of threads: at least 150 atoms each."""
    return max(1, min(available, atoms // _ATOMS_PER_THREAD))


def neighbours(
    kernel: MomentKernel, positions: Array, cell: Array, pbc: Array, cutoff: float, *, threads: int = 1
) -> tuple[Array, Array, Array]:
    """Pairs within a cutoff by the compiled search: first [atom + 1], sender [pair], offset [pair, 3] (Å)."""
    first, room = np.empty(len(positions) + 1, dtype=np.int64), 128 * len(positions)
    search = kernel.library.mdistill_search
    while True:
        sender, offset = np.empty(room, dtype=np.int32), np.empty((room, 3))
        pairs = search(len(positions), positions, cell, pbc, cutoff, threads, room, first, sender, offset)
        if pairs <= room:
            return first, sender[:pairs], offset[:pairs]
        room = pairs


def build_failure() -> str | None:
    """Reason why no kernel can be built here, tested with a tiny one outside the cache folder; None if it can."""
    tiny: dict[str, str | int] = {"radial": 2, "degree": 1, "channels": 1, "hidden": 1, "real": "double"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(replace(SOURCE, flags=("-O0",)), tiny, [Path(folder)])
        except NoKernel as error:
            return str(error)
    return None

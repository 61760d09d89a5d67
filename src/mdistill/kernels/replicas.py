"""The moment network on a GPU: energy, forces, virial and dynamics of a batch of structures, a launch for all of them.

The kernels (`replicas.cu`) give one warp to each atom and use no atomics. Positions, momenta and sums are float64; networks
and edges have the float type of the program. An answer depends neither on the rest of the batch nor on earlier calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.kernels.build import c_struct
from mdistill.kernels.cuda import CudaProgram, Program
from mdistill.kernels.moment import Weights
from mdistill.kernels.motion import Motion, Point

Array = np.ndarray
KERNELS = ("sizes", "advance", "search", "evaluate", "gather", "finish")
SOURCES = tuple(Path(__file__).parent / name for name in ("replicas.cu", "warp_moment.hpp"))
_RECORDED, _ROOM, _ROWS, _FULL = 20, 96, 16, 2
_PLAN = (
    "steps", "first_step", "ensemble", "time_step", "keep", "temperature_K", "keys", "normal", "chi_square", "watch_every",
    "largest_force", "highest_temperature", "reference_energy", "energy_change",
)  # fmt: skip
_REAL = {field.name for field in fields(Motion) if field.type == "float"}


@cache
def cuda_program(sizes: tuple[tuple[str, str | int], ...]) -> Program:
    """The kernels for these sizes of a student on the current GPU; raises `NoKernel`."""
    return CudaProgram(SOURCES[0], SOURCES[1:], KERNELS, dict(sizes))


class WarpKernel:
    """A student's weights where a program's arrays are."""

    def __init__(self, weights: Weights, program: Program) -> None:
        self.program, self.species, self.cutoff = program, len(weights.reference), float(weights.head[0])
        self.real = torch.float64 if weights.sizes["real"] == "double" else torch.float32
        self._arrays = {name: self._there(array, exact) for name, (array, exact) in _tables(weights).items()}
        self.net = dict(zip(("species", "cutoff", "freeze", "scale"), (self.species, *map(float, weights.head)), strict=True))
        self.net |= {f"net_{name}": array.data_ptr() for name, array in self._arrays.items()}
        sizes = torch.zeros(4, dtype=torch.int64, device=program.device)
        program.launch("sizes", 1, 1, c_struct(out=sizes.data_ptr()))
        self.warps, self.block, self.batch_bytes, plan_bytes = (int(size) for size in sizes.cpu())
        if plan_bytes != 8 * len(_PLAN):
            raise RuntimeError(f"Plan has {plan_bytes} bytes in replicas.cu and {8 * len(_PLAN)} here")

    def _there(self, array: Array, exact: bool) -> Tensor:
        kind = torch.float64 if exact else self.real
        return torch.tensor(np.ascontiguousarray(array), dtype=kind, device=self.program.device).flatten()


def _tables(weights: Weights) -> dict[str, tuple[Array, bool]]:
    """Arrays of `Net` in warp_moment.hpp in their order, and whether they stay float64."""
    n, radial, degree, channels = len(weights.reference), *(int(weights.sizes[k]) for k in ("radial", "degree", "channels"))
    closest, cutoff, freeze = weights.closest, weights.head[0], weights.head[1]
    mixing = np.reshape(weights.mixing, (n, degree + 1, n, radial, channels)).transpose(0, 2, 1, 3, 4)
    none = np.zeros((1, 1))
    first, bias1, second, bias2, last = weights.layers if len(weights.layers) > 1 else (*[none] * 4, weights.layers[0])
    third = np.cbrt(weights.sphere[:, :1]) * weights.sphere[:, 1:]
    back = np.zeros((len(third), _ROWS))
    back[:, : third.shape[1]] = third
    exact = dict(zip(("charge", "strength", "decay", "outer"), weights.core, strict=True))
    inverse_range = 1.0 / np.maximum(cutoff - closest, freeze)
    rounded = {
        "closest": closest, "inverse_range": inverse_range, "met": closest < cutoff, "mixing": mixing,
        "first": first, "bias1": bias1, "second": second, "bias2": bias2, "last": last, "first_back": first.swapaxes(-1, -2),
        "second_back": second.swapaxes(-1, -2), "sphere": third.T, "sphere_back": back,
    }  # fmt: skip
    exact = {"reference": weights.reference, "rest": weights.rest} | exact
    return {name: (array, True) for name, array in exact.items()} | {name: (array, False) for name, array in rounded.items()}


class Replicas:
    """Structures that are evaluated and moved together; each may have its own atoms, cell and plan.

    Args:
        kernel: Weights and kernels.
        species: Index of each atom's species, for every structure.
        skin: Å; larger skins give rarer searches and longer lists.
    """

    def __init__(self, kernel: WarpKernel, species: Sequence[Int[Array, " atom"]], skin: float) -> None:
        self.kernel, self.skin, self._counts = kernel, skin, [len(part) for part in species]
        self._first = np.cumsum([0, *self._counts])
        orders = [np.argsort(part, kind="stable") for part in species]
        self._order = np.concatenate([order + start for order, start in zip(orders, self._first[:-1], strict=True)])
        self._back = np.argsort(self._order)
        self._fixed = self._describe(species, orders)
        self._state = self._allocate(len(self._order), len(species))
        self._noise: list[Tensor] = []
        self._make_tables(_ROOM)

    def _tensor(self, array: Array, kind: torch.dtype) -> Tensor:
        return torch.tensor(array, device=self.kernel.program.device).to(kind).contiguous()

    def _describe(self, species: Sequence[Array], orders: list[Array]) -> dict[str, Tensor]:
        kinds = np.concatenate(species)[self._order]
        below = [[int((part < t).sum()) for t in range(self.kernel.species + 1)] for part in species]
        ranges = np.array(below) + self._first[:-1, None]
        numbers = {
            "first": self._first, "range": ranges, "owner": np.repeat(np.arange(len(species)), self._counts),
            "kind": kinds, "own": np.concatenate(orders),
        }  # fmt: skip
        return {name: self._tensor(array, torch.int32) for name, array in numbers.items()}

    def _allocate(self, atoms: int, structures: int) -> dict[str, Tensor]:
        n, device = self.kernel.species, self.kernel.program.device
        per_structure = {"cell": 9, "inverse": 9, "volume": 1, "pbc": 3}
        moved = dict.fromkeys(("positions", "momenta", "middle", "forces", "old"), 3 * atoms)
        sizes = {name: size * structures for name, size in per_structure.items()} | {"mass": atoms, "limit": n * n}
        sizes |= {"plan": len(_PLAN) * structures} | moved
        sizes |= {"energy": atoms, "virial": 6 * atoms, "closest": atoms, "heat": atoms}
        sizes |= {"total": 7 * structures, "sums": (3 + n) * structures}
        sizes |= dict.fromkeys(("step", "state", "stale", "lost"), structures)
        sizes |= {"wanted": atoms, "end": n * atoms, "near_end": n * atoms}
        whole = {"pbc", "step", "state", "stale", "lost", "wanted", "end", "near_end"}
        kinds = {name: torch.int32 if name in whole else torch.int64 if name == "plan" else torch.float64 for name in sizes}
        return {name: torch.zeros(size, dtype=kinds[name], device=device) for name, size in sizes.items()}

    def _make_tables(self, room: int) -> None:
        """Neighbour tables with this many slots per atom, and what is recorded with their addresses."""
        slots, device, whole = room * len(self._order), self.kernel.program.device, torch.int32
        kinds = {"sender": whole, "reverse": whole, "near": whole, "image": torch.int64}
        self._tables = {name: torch.zeros(slots, dtype=kind, device=device) for name, kind in kinds.items()}
        self._tables["pull"] = torch.zeros(3 * slots, dtype=self.kernel.real, device=device)
        self._room = room
        numbers = {"atoms": len(self._order), "structures": len(self._counts), "room": room, "skin": float(self.skin)}
        arrays = {name: array.data_ptr() for name, array in (self._fixed | self._state | self._tables).items()}
        self._batch = c_struct(**self.kernel.net, **numbers, **arrays)
        if ctypes.sizeof(self._batch) != self.kernel.batch_bytes:
            raise RuntimeError(f"Batch has {self.kernel.batch_bytes} bytes in replicas.cu and {ctypes.sizeof(self._batch)} here")
        self._recorded: Callable[[], None] | None = None

    def _launch(self, *kernels: str) -> None:
        warps = -(-len(self._order) // self.kernel.warps)
        sizes = {"advance": (-(-len(self._order) // 128), 128), "finish": (len(self._counts), self.kernel.block)}
        for name in kernels:
            self.kernel.program.launch(name, *sizes.get(name, (warps, 32 * self.kernel.warps)), self._batch)

    def _step(self) -> None:
        self._launch("advance", "search", "evaluate", "gather", "finish")

    def _several(self) -> None:
        for _ in range(_RECORDED):
            self._step()

    def set_limits(self, distances: Float[Array, "species species"]) -> None:
        """Closest distance (Å) of each pair at which `run` stops; 0 for none."""
        self._write("limit", distances)

    def evaluate(
        self, positions: Sequence[Array], cells: Sequence[Array], pbc: Sequence[Array]
    ) -> list[tuple[float, Float[Array, "atom 3"], Float[Array, "3 3"]]]:
        """Energy (eV), forces (eV/Å) and virial Σ d ⊗ ∂E/∂d (eV, symmetric part) of each structure."""
        self._place(positions, cells, pbc)
        self._write("step", np.full(len(self._counts), -1))
        self._settled(0, [Motion(steps=0, first_step=0, ensemble=0, time_step=0.0)] * len(self._counts))  # type: ignore[arg-type]
        forces, totals = self._read("forces"), self._read("total")
        return [(float(total[0]), force, _matrix(total[1:])) for force, total in zip(forces, totals, strict=True)]

    def run(self, motions: Sequence[Motion], points: Sequence[Point]) -> list[tuple[int, bool]]:
        """Take steps and change the points in place, as `motion.run` does, for every structure."""
        steps = max(motion.steps for motion in motions)
        while True:
            self._place([p.positions for p in points], [p.cell for p in points], [p.pbc for p in points])
            for name in ("momenta", "forces"):
                self._write(name, np.concatenate([getattr(point, name) for point in points])[self._order])
            self._write("mass", np.concatenate([point.masses for point in points])[self._order])
            self._write("sums", np.concatenate([point.sums for point in points]))
            if not all(point.known for point in points):
                self._write("step", np.array([0 if point.known else -1 for point in points]))
                self._settled(0, [_standing(motion) for motion in motions])
            self._write("step", np.zeros(len(points)))
            self._plan(motions)
            if not self._take(steps):
                return self._finish(motions, points)

    def edges(self) -> int:
        """Edges within the cutoff at the last evaluation."""
        return int(self._state["near_end"].view(-1, self.kernel.species)[:, -1].sum())

    def _settled(self, steps: int, motions: Sequence[Motion]) -> None:
        self._plan(motions)
        while True:
            self._launch("search", "evaluate", "gather", "finish")
            if not self._grown():
                return
            self._write("state", np.zeros(len(self._counts)))
            self._write("stale", np.ones(len(self._counts)))

    def _take(self, steps: int) -> bool:
        """Take steps; True where the neighbour tables had to grow, so that the steps must be taken again."""
        if steps >= _RECORDED and self._recorded is None:
            self._step()  # loads what a recording must not load; counts as a step
            steps -= 1
            self._recorded = self.kernel.program.recorded(self._several)
        while steps >= _RECORDED and self._recorded is not None:
            self._recorded()
            steps -= _RECORDED
        for _ in range(steps):
            self._step()
        return self._grown()

    def _grown(self) -> bool:
        if not bool((self._state["state"] == _FULL).any()):
            return False
        wanted = int(self._state["wanted"].max())
        self._make_tables(-(-max(wanted * 5 // 4, self._room + 1) // 32) * 32)
        return True

    def _finish(self, motions: Sequence[Motion], points: Sequence[Point]) -> list[tuple[int, bool]]:
        moved = {name: self._read(name) for name in ("positions", "momenta", "middle", "forces")}
        totals, sums, taken, states = (self._read(name) for name in ("total", "sums", "step", "state"))
        answers = []
        for k, (motion, point) in enumerate(zip(motions, points, strict=True)):
            for name, arrays in moved.items():
                if name != "middle" or motion.ensemble == 1:
                    getattr(point, name)[...] = arrays[k]
            point.sums[...] = sums[k]
            point.energy, point.virial[...], point.known = float(totals[k][0]), _matrix(totals[k][1:]), True
            answers.append((int(taken[k][0]), bool(states[k][0])))
        return answers

    def _place(self, positions: Sequence[Array], cells: Sequence[Array], pbc: Sequence[Array]) -> None:
        self._write("positions", np.concatenate(list(positions))[self._order])
        cell = np.stack([np.asarray(one, dtype=np.float64) for one in cells])
        self._write("cell", cell)
        self._write("inverse", np.linalg.inv(cell).swapaxes(1, 2))
        self._write("volume", np.abs(np.linalg.det(cell)))
        self._write("pbc", np.stack([np.asarray(one) for one in pbc]))
        for name, value in (("stale", 1), ("lost", 0), ("state", 0)):
            self._state[name].fill_(value)

    def _plan(self, motions: Sequence[Motion]) -> None:
        table, self._noise = np.zeros((len(motions), len(_PLAN)), dtype=np.int64), []
        for row, motion in zip(table, motions, strict=True):
            for place, name in enumerate(_PLAN):
                value = getattr(motion, name)
                if name in ("keys", "normal", "chi_square"):
                    row[place] = 0 if value is None else self._keep(value)
                elif name in _REAL:
                    row[place] = np.float64(value).view(np.int64)
                else:
                    row[place] = int(value)
        self._write("plan", table)

    def _keep(self, noise: Array) -> int:
        held = torch.from_numpy(np.ascontiguousarray(noise).view(np.int64)).to(self.kernel.program.device)
        self._noise.append(held)
        return held.data_ptr()

    def _write(self, name: str, values: Any) -> None:
        there = self._state[name]
        there.copy_(torch.from_numpy(np.ascontiguousarray(values)).flatten())

    def _read(self, name: str) -> list[Array]:
        """An array by structure, atoms in the order in which they were given."""
        values = self._state[name].cpu().numpy()
        if len(values) == 3 * len(self._order) and name in ("positions", "momenta", "middle", "forces"):
            return np.split(values.reshape(-1, 3)[self._back], self._first[1:-1])
        return list(values.reshape(len(self._counts), -1))


class ReplicaEngine:
    """An engine (`motion.StructureEngine`) of one structure."""

    def __init__(self, kernel: WarpKernel, species: Int[Array, " atom"], skin: float) -> None:
        self.replicas = Replicas(kernel, [species], skin)

    def set_limits(self, distances: Float[Array, "species species"]) -> None:
        self.replicas.set_limits(distances)

    def evaluate(self, positions: Array, cell: Array, pbc: Array) -> tuple[float, Array, Array]:
        return self.replicas.evaluate([positions], [cell], [pbc])[0]

    def run(self, motion: Motion, point: Point) -> tuple[int, bool]:
        return self.replicas.run([motion], [point])[0]

    def counts(self) -> dict[str, float]:
        return {"edges": self.replicas.edges()}


def _standing(motion: Motion) -> Motion:
    """A plan without steps."""
    return Motion(steps=0, first_step=motion.first_step, ensemble=motion.ensemble, time_step=motion.time_step)


def _matrix(six: Float[Array, " 6"]) -> Float[Array, "3 3"]:
    xx, yy, zz, yz, xz, xy = six
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])

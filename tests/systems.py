"""Tiny named structures, networks with random weights, and a toy teacher, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import Conservative, EnergyNet
from mdistill.graph import build_graph, make_system
from mdistill.labelling.engine import as_engine
from mdistill.labelling.tasks import Question, frame_of
from mdistill.nets.edge_transformer import EdgeTransformerNet
from mdistill.nets.moment import MomentNet
from mdistill.nets.painn import PainnNet
from mdistill.nets.settings import EdgeTransformerSettings, MomentSettings, PainnSettings, SplittingMapSettings
from mdistill.nets.splitting_map import SplittingMap
from mdistill.types import Graph, LabelledFrame, Potential, System

LIPSCL = (3, 15, 16, 17)
CLOSEST = 1.9
"""Å; the smallest distance in `random_box`, and what `tiny_net` takes as the closest labelled one."""


def random_box(
    seed: int, *, atoms: int = 10, length: float = 6.0, skew: float = 0.25, periodic: bool = True, closest: float = CLOSEST
) -> System:
    """Random Li–P–S–Cl atoms in a skewed box, none closer than `closest` Å."""
    rng = np.random.default_rng(seed)
    cell = np.eye(3) + skew * rng.uniform(-1, 1, (3, 3))
    cell *= length / np.abs(np.linalg.det(cell)) ** (1 / 3)
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    positions = np.zeros((0, 3))
    while len(positions) < atoms:
        tries = rng.uniform(0, 1, (200, 3)) @ cell
        gaps = np.linalg.norm(tries[:, None, None] - positions[:, None] + images, axis=-1).reshape(200, -1)
        fit = tries[(gaps > closest).all(1)]
        positions = np.concatenate([positions, fit[:1]]) if len(fit) else positions[: len(positions) // 2]
    return make_system(positions, rng.choice(LIPSCL, atoms), cell, [periodic] * 3)


def isolated_atom(number: int = 16) -> System:
    return make_system(np.zeros((1, 3)), np.array([number]), np.zeros((3, 3)), [False] * 3)


def fcc(number: int = 17, lattice: float = 4.6, *, squeeze: float = 1.0) -> System:
    """The primitive cell of a face-centred cubic crystal: one atom, lattice vectors shorter than the cutoff."""
    cell = 0.5 * lattice * squeeze * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return make_system(np.zeros((1, 3)), np.array([number]), cell, [True] * 3)


def dimer(first: int, second: int, distance: float) -> System:
    return make_system(np.array([[0.0, 0, 0], [0, 0, distance]]), np.array([first, second]), np.zeros((3, 3)), [False] * 3)


def slab(seed: int) -> System:
    """Periodic along two lattice vectors, open along the third."""
    box = random_box(seed)
    return replace(box, pbc=torch.tensor([[True, True, False]]))


SYSTEMS: dict[str, Callable[[], System]] = {
    "box": lambda: random_box(1),
    "cell shorter than the cutoff": lambda: random_box(2, atoms=3, length=3.7),
    "very skewed": lambda: random_box(3, skew=0.6),
    "molecule": lambda: random_box(4, periodic=False),
    "slab": lambda: slab(5),
    "fcc primitive": fcc,
    "isolated atom": isolated_atom,
    "dimer": lambda: dimer(3, 16, 2.4),
}


def tiny_net(seed: int = 0, **size: int) -> MomentNet:
    """A small moment network with every weight and buffer random, strong enough that bugs show."""
    settings = MomentSettings(elements=LIPSCL, **({"channels": 4, "radial": 5, "hidden": 8} | size))
    net = MomentNet(settings, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        net.mixing.mul_(2.0)
        net.reference.copy_(-1.0 - torch.rand(4, generator=generator))
        if net.settings.hidden:
            net.first.bias.copy_(torch.randn(net.first.bias.shape, generator=generator))
        net.mean.copy_(0.1 * torch.randn(net.mean.shape, generator=generator))
        net.scale.fill_(0.5)
        net.set_closest(torch.full((4, 4), CLOSEST, dtype=torch.float64))
    return net


def tiny_map(*, kicks: int = 2, stride_fs: float = 8.0, apart: float = 0.05, **size: int) -> SplittingMap:
    """A long-stride map of `tiny_net` or one of another size, whose kicks differ from it by `apart` and from each other."""
    net = tiny_net(**size)
    made = SplittingMap(SplittingMapSettings(stride_fs=stride_fs, kicks=kicks, potential=net.settings))
    made.begin_as(net)
    with torch.no_grad():
        for k, stage in enumerate(made.stages):
            stage.mixing.mul_(1.0 + apart * (k + 1))
    return made


def tiny_painn(seed: int = 0, **size: int) -> PainnNet:
    """A small message-passing network with every weight and buffer random, strong enough that bugs show."""
    net = PainnNet(PainnSettings(elements=LIPSCL, **({"width": 6, "layers": 2, "radial": 5} | size)), seed=seed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        net.reference.copy_(-1.0 - torch.rand(4, generator=generator))
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        net.scale.fill_(0.5)
        net.set_closest(torch.full((4, 4), CLOSEST, dtype=torch.float64))
    return net


def tiny_edge_transformer(seed: int = 0, *, elements: tuple[int, ...] = LIPSCL, **size: Any) -> EdgeTransformerNet:
    """A small edge transformer with every weight and buffer random."""
    small = {"cutoff": 5.0, "width": 32, "heads": 2, "layers": 2, "radial": 6} | size
    net = EdgeTransformerNet(EdgeTransformerSettings(elements=elements, **small), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    n = len(elements)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        net.reference.copy_(-1.0 - torch.rand(n, generator=generator))
        net.scale.fill_(0.5)
        net.set_closest(torch.full((n, n), CLOSEST, dtype=torch.float64))
    return net


NETS: dict[str, Callable[[int], EnergyNet]] = {"moment": tiny_net, "painn": tiny_painn}
"""Every network; each law is tested on each."""


class MorseNet:
    """A toy teacher: Morse pairs, E_i = Σ_j D ((1 − e^{−a(r − r₀)})² − 1) (1 − (r/r_c)²)³ / 2, r₀ by element."""

    cutoff, elements, name = 5.0, frozenset(LIPSCL), "morse"

    def __call__(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        size = torch.zeros(119, dtype=vectors.dtype).index_put(
            (torch.tensor(LIPSCL),), torch.tensor([1.0, 1.1, 1.4, 1.5]).to(vectors)
        )
        sizes = size[graph.system.numbers]
        distance = vectors.norm(dim=1)
        well = (1.0 - torch.exp(-1.6 * (distance - sizes[graph.receiver] - sizes[graph.sender]))).square() - 1.0
        pairs = 0.2 * well * (1.0 - (distance / self.cutoff).square()).clamp_min(0.0).pow(3)
        return -sizes + vectors.new_zeros(len(sizes)).index_add(0, graph.receiver, pairs)


def morse_frames(count: int, *, seed: int = 0, atoms: int = 8, blocks: int = 4, probes: int = 0) -> list[LabelledFrame]:
    """Rattled copies of one box, labelled by `MorseNet`; two temperatures, `blocks` blocks each."""
    rng = np.random.default_rng(seed)
    box = random_box(seed, atoms=atoms, closest=2.2)
    teacher: Potential = Conservative(MorseNet())
    frames = []
    for k in range(count):
        moved = replace(box, positions=box.positions + torch.from_numpy(rng.normal(0.0, 0.08, (atoms, 3))))
        graph = build_graph(moved, teacher.cutoff)
        directions = torch.from_numpy(rng.normal(size=(probes, atoms, 3))) if probes else None
        frames.append(
            LabelledFrame(
                system=moved,
                target=teacher(graph),
                probes=directions,
                products=None if directions is None else Conservative(MorseNet()).curvature(graph, directions),
                temperature_K=600.0 if k % 2 else 1000.0,
                block=2 * (k * blocks // count) + k % 2,
            )
        )
    return frames


def labelled(system: System, potential: Potential, *, probes: Tensor | None = None, **kept: Any) -> LabelledFrame:
    """A structure with what a potential says of it."""
    asked = Question(name="", index=0, system=system, probes=probes, **kept)
    frame = frame_of(asked, as_engine(potential).label(system, Path(), probes=probes), largest_force=50.0)
    assert isinstance(frame, LabelledFrame), frame
    return frame

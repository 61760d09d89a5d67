"""Labelled frames as batches to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdistill.data.probes import probe_kind
from mdistill.errors import BadInput
from mdistill.graph import build_graph, cast, concatenate
from mdistill.training.losses import Target
from mdistill.training.ranks import here
from mdistill.types import Graph, LabelledFrame, Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A labelled frame with its neighbour graph, built once."""

    graph: Graph
    frame: LabelledFrame


def items_of(frames: Sequence[LabelledFrame], cutoff: float, dtype: torch.dtype) -> list[Item]:
    """Frames with their graphs; positions in float64 for the search, in `dtype` afterwards."""
    items = []
    for frame in frames:
        graph = build_graph(cast(frame.system, dtype=torch.float64), cutoff)
        system = cast(graph.system, dtype=dtype)
        graph = Graph(system=system, receiver=graph.receiver, sender=graph.sender, shift=graph.shift.to(dtype), cutoff=cutoff)
        items.append(Item(graph=graph, frame=frame))
    return items


def join(graphs: Sequence[Graph]) -> Graph:
    """Graphs of several batches as one."""
    offsets = np.cumsum([0] + [graph.system.n_atoms for graph in graphs])
    return Graph(
        system=concatenate([graph.system for graph in graphs]),
        receiver=torch.cat([graph.receiver + int(o) for graph, o in zip(graphs, offsets[:-1], strict=True)]),
        sender=torch.cat([graph.sender + int(o) for graph, o in zip(graphs, offsets[:-1], strict=True)]),
        shift=torch.cat([graph.shift for graph in graphs]),
        cutoff=graphs[0].cutoff,
    )


def target_of(frames: Sequence[LabelledFrame], like: Tensor) -> Target:
    """Energies (float64), forces and stress of the frames in the float type of `like`; missing stress is marked."""
    stress = [torch.zeros(1, 3, 3) if frame.target.stress is None else frame.target.stress for frame in frames]
    label = Prediction(
        energy=torch.cat([frame.target.energy for frame in frames]).to(torch.float64),
        forces=torch.cat([frame.target.forces for frame in frames]).to(like),
        stress=torch.cat([s.to(like) for s in stress]),
        atomic=torch.cat([_atomic(frame) for frame in frames]).to(torch.float64),
    )
    return Target(
        label=label,
        has_stress=torch.tensor([frame.target.stress is not None for frame in frames]),
        has_atomic=torch.cat([torch.full((frame.system.n_atoms,), frame.target.atomic is not None) for frame in frames]),
    )


def known_forces(frames: Sequence[LabelledFrame]) -> Float[Tensor, "atom 3"]:
    """Forces of all frames that have them, eV/Å; 1 eV/Å where none has."""
    return torch.cat([frame.target.forces for frame in frames if "forces" not in frame.missing] or [torch.ones(1, 3)])


def _atomic(frame: LabelledFrame) -> Tensor:
    return torch.zeros(frame.system.n_atoms) if frame.target.atomic is None else frame.target.atomic


def curvature_labels(
    frames: Sequence[LabelledFrame], random: np.random.Generator, like: Tensor, *, count: int = 1
) -> tuple[Float[Tensor, "probe atom 3"], Float[Tensor, "probe atom 3"], Bool[Tensor, " atom"]]:
    """`count` probes of every frame, drawn at random (with repeats where it has fewer), their products, and which atoms have
    them (zeros elsewhere). Of several ranks each draws for all frames and returns its share of them."""
    probes, products, known = [], [], []
    for place, frame in enumerate(frames):
        n, own = frame.system.n_atoms, here().owns(place)
        if frame.probes is None or frame.products is None or len(frame.probes) == 0:
            if own:
                probes.append(like.new_zeros((count, n, 3)))
                products.append(like.new_zeros((count, n, 3)))
                known.append(torch.zeros(n, dtype=torch.bool))
            continue
        held = len(frame.probes)
        chosen = torch.from_numpy(
            random.choice(held, count, replace=count > held) if count > 1 else random.integers(held, size=1)
        )
        if not own:
            continue
        probes.append(frame.probes[chosen].to(like))
        products.append(frame.products[chosen].to(like))
        known.append(torch.ones(n, dtype=torch.bool))
    return torch.cat(probes, 1), torch.cat(products, 1), torch.cat(known)


def with_probes(frames: Sequence[LabelledFrame], kind: Literal["any", "rows", "probes", "none"]) -> list[LabelledFrame]:
    """The frames with curvature labels of one kind only: Hessian rows, other probes, any or none.

    Raises:
        BadInput: Rows or probes are selected and no frame has any.
    """
    if kind == "any":
        return list(frames)
    probes = {"rows": "rows", "probes": "random", "none": ""}[kind]
    chosen = [_with_probes(frame, probes) for frame in frames]
    if kind != "none" and all(frame.probes is None for frame in chosen):
        fix = f"label with --probe-kind {probes} --probes 1 or more"
        raise BadInput("curvature", f"{kind}, but no frame has such labels", allowed="labels with them, or any or none", fix=fix)
    return chosen


def _with_probes(frame: LabelledFrame, kind: str) -> LabelledFrame:
    if frame.probes is None or frame.products is None:
        return frame
    rows = [k for k, probe in enumerate(frame.probes) if probe_kind(probe) == kind]
    if not rows:
        return replace(frame, probes=None, products=None)
    return replace(frame, probes=frame.probes[rows], products=frame.products[rows])


def check_labels(frames: Sequence[LabelledFrame]) -> None:
    """Reject labels that cannot be trained on.

    Raises:
        BadInput: No frames, a frame of several structures, forces of another shape, or numbers that are not finite.
    """
    if not frames:
        raise BadInput("labels", "no frames", allowed="at least two time blocks of labelled frames", fix="label structures first")
    for k, frame in enumerate(frames):
        label = frame.target
        if frame.system.n_structs != 1 or label.forces.shape != frame.system.positions.shape or label.energy.numel() != 1:
            problem = f"forces {tuple(label.forces.shape)} for {frame.system.n_atoms} atoms"
            raise BadInput(f"frame {k}", problem, allowed="one structure per frame", fix="label it again")
        values = [
            frame.system.positions,
            *(getattr(label, name) for name in ("energy", "forces") if name not in frame.missing),
            *(x for x in (label.stress, label.atomic, frame.probes, frame.products) if x is not None),
        ]
        if not all(bool(torch.isfinite(value).all()) for value in values):
            problem = "a label or position is not finite"
            raise BadInput(f"frame {k}", problem, allowed="finite numbers", fix="leave the frame out or label it again")


def frames_hash(frames: Sequence[LabelledFrame]) -> str:
    """sha256 over positions, elements, labels and probes of all frames."""
    digest = hashlib.sha256()
    for frame in frames:
        parts = (
            frame.system.positions, frame.system.numbers, frame.system.cell, frame.target.energy, frame.target.forces,
            frame.target.stress, frame.target.atomic, frame.probes, frame.products,
            *(() if frame.system.charge is None else (frame.system.charge, frame.system.unpaired)),
        )  # fmt: skip
        for part in parts:
            digest.update(b"-" if part is None else part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

"""Training of direct forces on labelled structures, from scratch or from an earlier model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mdistill.data.split import split_blocks
from mdistill.derivatives import potential_of
from mdistill.direct.objective import TurnedObjective
from mdistill.direct.safe import stated
from mdistill.direct.settings import DirectSettings
from mdistill.errors import BadInput
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.edge_transformer import EdgeTransformerNet
from mdistill.nets.model_files import load_net, read_metadata
from mdistill.notices import notify
from mdistill.training.calibrate import calibrate, reference_energies
from mdistill.training.fit import TRAINING
from mdistill.training.labels import check_labels, frames_hash, items_of, with_probes
from mdistill.training.objective import PotentialObjective, loss_terms
from mdistill.training.potential import Prepared, TrainingResult, evaluate, run_fit
from mdistill.types import LabelledFrame

_REFITTED_BY = 256
"""Largest number of frames that reference energies are fitted again to."""


def train_direct(
    frames: Sequence[LabelledFrame], settings: DirectSettings, folder: Path, *, stop: StopRequest = NEVER,
    start_from: Path | None = None, held_blocks: Collection[int] = (), provenance: dict[str, Any] | None = None,
) -> TrainingResult:  # fmt: skip
    """Train an edge transformer; writes `student.mdistill`, `training.ckpt` and `history.json` into the folder, or resumes.

    Args:
        frames: Labelled structures; with `settings.states` their charges and unpaired electrons count.
        settings: Size and training.
        folder, stop: Folder; stop is checked between steps.
        start_from: A model file to fine-tune: all its weights, its size and its elements, which must include those of the frames.
            Its reference energies are fitted again.
        held_blocks: Blocks to hold out; by default `split_blocks` chooses them.
        provenance: Stored in the model file.
    Raises:
        BadInput: Frames that are not finite, nothing to hold out, elements outside the training of start_from, or an odd number
            of electrons without its charge or unpaired ones.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    ready = prepare_direct(frames, settings, start_from=start_from, held_blocks=held_blocks)
    return run_fit(ready, folder, stop=stop, provenance=provenance)


def prepare_direct(
    frames: Sequence[LabelledFrame], settings: DirectSettings, *, start_from: Path | None = None,
    held_blocks: Collection[int] = (),
) -> Prepared:  # fmt: skip
    """The network, its objective and its items. Arguments and errors as `train_direct`."""
    check_labels(frames)
    train, held_out = split_blocks(frames, held_out=settings.held_out, chosen=held_blocks)
    train = with_probes(train, "any" if settings.curvature_weight else "none")
    elements = tuple(sorted({int(z) for frame in frames for z in frame.system.numbers.unique()}))
    dtype = torch.float64 if settings.float64 else torch.float32
    if not settings.states and start_from is None and any(stated(frame.system) for frame in frames):
        notify("some labels are of ions or radicals: without --states the network knows neither charge nor unpaired electrons")
    net = EdgeTransformerNet(settings.student(elements), seed=settings.fit.seed) if start_from is None else _earlier(start_from)
    if start_from is not None:
        _tell_unused(settings, net)
    items, held_items = items_of(train, net.cutoff, dtype), items_of(held_out, net.cutoff, dtype)
    calibrate(net, items, fresh=start_from is None)
    if start_from is not None:
        _refit_references(net, train)
    inputs = {"train": frames_hash(train), "held_out": frames_hash(held_out)}
    inputs |= {} if start_from is None else {"start": read_metadata(start_from)["sha256"]}
    terms = loss_terms(train, settings.weights())
    curved = [term for term in terms if term.quantity == "curvature"]
    if settings.curvature_weight and not curved:
        fix = "label with `mdistill label --probes 1` or more, or leave the weight out"
        raise BadInput("--curvature-weight", "no label has curvature products", allowed="labels with them, or 0", fix=fix)
    terms = [term for term in terms if term.quantity != "curvature"]
    objective = TurnedObjective(
        inner=PotentialObjective(terms=terms, every=10**9, seed=settings.fit.seed),
        copies=settings.copies, seed=settings.fit.seed, antisymmetry=settings.antisymmetry_weight / terms[0].scale**2,
        curvature=sum(term.weight / term.scale for term in curved),
    )  # fmt: skip
    return Prepared(
        net=net.in_type(dtype), objective=objective, items=items, held_items=held_items, train=train, held_out=held_out,
        settings=settings, work=replace(TRAINING, settings=settings, inputs=inputs), title="direct forces",
    )  # fmt: skip


def _tell_unused(settings: DirectSettings, net: EdgeTransformerNet) -> None:
    """Issue a notice where a size was asked for that is not the one of the model to fine-tune."""
    for name in ("cutoff", "width", "layers", "radial", "states"):
        asked, usual, has = (getattr(one, name) for one in (settings, DirectSettings(), net.settings))
        if asked not in (usual, has):
            notify(f"--{name} {asked} has no effect: the model of --start-from has {has}, and fine-tuning keeps its size")


def _refit_references(net: EdgeTransformerNet, frames: Sequence[LabelledFrame]) -> None:
    """Add to the reference energies what the labels lack for each element, by least squares over some frames: another level of
    theory has another zero of energy, hundreds of eV an atom away, which the heads of the network cannot learn."""
    frames = [frame for frame in frames if "energy" not in frame.missing]
    frames = frames[:: -(-len(frames) // _REFITTED_BY) or 1]
    answers = evaluate(potential_of(net), frames)
    lacking = [
        replace(frame, target=replace(frame.target, energy=frame.target.energy - answer.energy))
        for frame, answer in zip(frames, answers, strict=True)
    ]
    present = torch.tensor([any(z in frame.system.numbers for frame in frames) for z in net.settings.elements])
    net.reference.add_(reference_energies(net, items_of(lacking, net.cutoff, torch.float64)) * present)


def _earlier(path: Path) -> EdgeTransformerNet:
    net = load_net(path)
    if not isinstance(net, EdgeTransformerNet):
        raise BadInput(path, f"holds a {net.kind}", allowed="an edge transformer", fix="a model of `mdistill train direct`")
    return net


def throughput(result: TrainingResult, settings: DirectSettings) -> dict[str, float]:
    """Structures and copies per CPU second of a training."""
    structures = result.steps * settings.fit.batch_size / max(60.0 * result.cpu_minutes, 1e-9)
    return {"structures_per_s": structures, "copies_per_s": settings.copies * structures}

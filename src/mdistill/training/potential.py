"""Training of the fast potential on a teacher's labels: energies, forces, stress and curvature products."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdistill.analysis.accuracy import Accuracy, accuracy
from mdistill.analysis.taught import described
from mdistill.data.probes import draw_probes
from mdistill.data.split import split_blocks
from mdistill.derivatives import EnergyNet, curvature_products, potential_of, predict
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import load_net, network_of, read_metadata, save_model
from mdistill.nets.network import Student
from mdistill.runs.identity import model_id
from mdistill.runs.ledger import Work
from mdistill.training.calibrate import calibrate
from mdistill.training.contact_dimers import contact_dimers
from mdistill.training.fit import TRAINING, FitResult, Objective, fit
from mdistill.training.labels import Item, check_labels, frames_hash, items_of, with_probes
from mdistill.training.losses import root_mean_square
from mdistill.training.objective import PotentialObjective, loss_terms
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction

MODEL = "student.mdistill"
_PARITY_POINTS = 4000
_SIZED_BY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        path: The model file.
        sha256: sha256 of its weights.
        accuracy: Errors on the held-out blocks.
        curvature_error: RMS of H·v − teacher's over RMS of the teacher's on held-out frames; None without such labels.
        parity: Up to a few thousand pairs (teacher, student) per quantity: "force" eV/Å, "energy" eV/atom, "stress" eV/Å³.
        history: Rows of {step, epoch, minutes, train, validation}; measures in eV/atom, eV/Å, eV/Å³, eV/Å².
        parameters: Number of trained numbers.
        train_frames: Frames trained on.
        held_out_frames: Frames held out.
        steps: Number of steps; 0 for a fit in closed form.
        cpu_minutes, wall_minutes: Time of the training thread, and by the clock.
        ended: What ended the fit (`budget.ended_by`).
        note: A sentence where the fit is short or took much longer than its budget.
    """

    path: Path
    sha256: str
    accuracy: Accuracy
    curvature_error: float | None
    parity: dict[str, list[tuple[float, float]]]
    history: list[dict[str, Any]]
    parameters: int
    train_frames: int
    held_out_frames: int
    steps: int = 0
    cpu_minutes: float = 0.0
    wall_minutes: float = 0.0
    ended: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A fit before its first step.

    Attributes:
        net: The calibrated network, in the float type of training.
        objective: The objective.
        items, held_items: Frames with their graphs: trained on, held out.
        train, held_out: The frames themselves.
        settings: Kind of network (`net`) and its fit: `TrainSettings`, or those of another room.
        work: The fit, for the ledger of its folder.
        title: Name of the student, for the progress bar and messages.
    """

    net: Student
    objective: Objective[Item]
    items: list[Item]
    held_items: list[Item]
    train: Sequence[LabelledFrame]
    held_out: Sequence[LabelledFrame]
    settings: Any
    work: Work
    title: str = "student"


def train_potential(
    frames: Sequence[LabelledFrame], settings: TrainSettings, folder: Path, *, stop: StopRequest = NEVER,
    start_from: Path | None = None, redraw: Potential | None = None, provenance: dict[str, Any] | None = None, member: int = 1,
    held_blocks: Collection[int] = (),
) -> TrainingResult:  # fmt: skip
    """Train a potential; writes `student.mdistill`, `training.ckpt` and `history.json` into the folder, or resumes.

    Reference energies are fitted first, the core begins at the closest labels, whole time blocks are held out.

    Args:
        frames, settings: Labelled structures; how.
        folder, stop: Folder; stop is checked between steps.
        start_from: A model file of the same elements and size to start from (refit); None to start afresh.
        redraw: A teacher that computes products of new random probes at every curvature step, in place of stored ones.
        provenance: Stored in the model file: teacher, commit, …
        member: Number in a committee; each holds out other blocks.
        held_blocks: Blocks to hold out; by default `split_blocks` chooses them.
    Raises:
        BadInput: Frames that are not finite, nothing to hold out, a start_from of another size or other elements.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    ready = prepare_fit(frames, settings, start_from=start_from, redraw=redraw, member=member, held_blocks=held_blocks)
    return run_fit(ready, folder, stop=stop, provenance=provenance)


def prepare_fit(
    frames: Sequence[LabelledFrame], settings: TrainSettings, *, start_from: Path | None = None, redraw: Potential | None = None,
    member: int = 1, held_blocks: Collection[int] = (),
) -> Prepared:  # fmt: skip
    """Split the frames, make and calibrate the network, set up the objective. Arguments and errors as `train_potential`."""
    check_labels(frames)
    train, held_out = split_blocks(frames, held_out=settings.held_out, member=member, chosen=held_blocks)
    train = with_probes(train, "none" if redraw is not None else settings.curvature)
    dtype = torch.float64 if settings.float64 else torch.float32
    size = settings.student(tuple(sorted({int(z) for frame in frames for z in frame.system.numbers.unique()})))
    net = network_of(size, seed=settings.fit.seed) if start_from is None else _net_of(start_from, size)
    items, held_items = items_of(train, net.cutoff, dtype), items_of(held_out, net.cutoff, dtype)
    calibrate(net, items, fresh=start_from is None)
    inputs = {"train": frames_hash(train), "held_out": frames_hash(held_out)}
    inputs |= {} if start_from is None else {"start": read_metadata(start_from)["sha256"]}
    models = {} if redraw is None else {"teacher": model_id(redraw)}
    objective = PotentialObjective(
        terms=loss_terms(train, settings, redrawn=_product_size(train, redraw, settings.fit.seed)),
        every=settings.curvature_every, probes=settings.curvature_probes, seed=settings.fit.seed,
        dimers=contact_dimers(net, dtype), teacher=redraw,
        teacher_error=None if settings.teacher_error is None else 1e-3 * settings.teacher_error,
    )  # fmt: skip
    return Prepared(
        net=net.in_type(dtype), objective=objective, items=items, held_items=held_items, train=train, held_out=held_out,
        settings=settings, work=replace(TRAINING, settings=settings, inputs=inputs, models=models),
        title=f"student {member}" if member > 1 else "student",
    )  # fmt: skip


def run_fit(
    ready: Prepared, folder: Path, *, stop: StopRequest = NEVER, finish: Callable[[Student], None] = lambda _: None,
    provenance: dict[str, Any] | None = None,
) -> TrainingResult:  # fmt: skip
    """Fit, write the model file, evaluate its content. `finish` is given the fitted network before it is written."""
    fitted = fit_only(ready, folder, stop=stop)
    finish(fitted.module)
    made_from = (provenance or {}) | {"steps": fitted.steps, "settings": asdict(ready.settings)}
    made_from |= {"train_frames": len(ready.train), "held_out_frames": len(ready.held_out)}
    path, net = Path(folder) / MODEL, fitted.module.folded().requires_grad_(False)
    potential = potential_of(net)
    predictions = evaluate(potential, ready.held_out)
    measured = accuracy(ready.held_out, predictions)
    digest = save_model(path, net, described(ready.train, potential.cutoff, measured) | made_from)
    return TrainingResult(
        path=path, sha256=digest, accuracy=measured,
        curvature_error=curvature_error(potential.net, ready.held_out), parity=parity(ready.held_out, predictions),
        history=fitted.history, parameters=sum(p.numel() for p in fitted.module.parameters()), train_frames=len(ready.train),
        held_out_frames=len(ready.held_out), steps=fitted.steps, cpu_minutes=fitted.cpu_minutes,
        wall_minutes=fitted.wall_minutes, ended=fitted.ended, note=f"{ready.title}: {fitted.note}" if fitted.note else "",
    )  # fmt: skip


def fit_only(ready: Prepared, folder: Path, *, stop: StopRequest = NEVER) -> FitResult[Student]:
    """Fit, and no more: for the ranks that write no files."""
    return fit(
        ready.net, ready.objective, ready.items, ready.held_items, ready.settings.fit.suited(ready.settings.net),
        folder=folder, stop=stop, work=ready.work, title=ready.title,
    )  # fmt: skip


def _product_size(frames: Sequence[LabelledFrame], redraw: Potential | None, seed: int) -> float:
    """Root mean square of curvature products drawn during training, eV/Å²; 0 with stored products."""
    if redraw is None:
        return 0.0
    generator = torch.Generator().manual_seed(seed)
    sample = [frame.system for frame in frames[:: max(len(frames) // _SIZED_BY, 1)]]
    return root_mean_square(torch.cat([curvature_products(redraw, s, draw_probes(s, 1, generator))[0] for s in sample]))


def evaluate(potential: Potential, frames: Sequence[LabelledFrame]) -> list[Prediction]:
    """Predictions of a potential for every frame, in order; `analysis.accuracy.accuracy` compares it with the labels."""
    return [potential(build_graph(frame.system, potential.cutoff)) for frame in frames]


def curvature_error(net: EnergyNet, frames: Sequence[LabelledFrame]) -> float | None:
    """RMS of H·v − label over RMS of the labels, all frames and probes together; None where no frame has such labels."""
    wrong, size = 0.0, 0.0
    for frame in frames:
        if frame.probes is not None and frame.products is not None:
            products = predict(net, build_graph(frame.system, net.cutoff), probes=frame.probes)[1].detach()
            wrong += float((products - frame.products).square().sum())
            size += float(frame.products.square().sum())
    return None if size == 0.0 else (wrong / size) ** 0.5


def parity(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> dict[str, list[tuple[float, float]]]:
    """Pairs (label, prediction) for a parity plot, thinned evenly: "force" eV/Å, "energy" eV/atom, "stress" eV/Å³."""
    pairs: dict[str, list[Tensor]] = {"force": [], "energy": [], "stress": []}
    for frame, prediction in zip(frames, predictions, strict=True):
        label = frame.target
        if "forces" not in frame.missing:
            pairs["force"].append(torch.stack([label.forces.flatten(), prediction.forces.flatten()], 1))
        if "energy" not in frame.missing:
            pairs["energy"].append(torch.stack([label.energy, prediction.energy], 1) / frame.system.n_atoms)
        if label.stress is not None and prediction.stress is not None:
            pairs["stress"].append(torch.stack([label.stress.flatten(), prediction.stress.flatten()], 1))
    return {name: _thinned(torch.cat(rows)) for name, rows in pairs.items() if rows}


def _thinned(rows: Tensor) -> list[tuple[float, float]]:
    stride = -(-len(rows) // _PARITY_POINTS)
    return [(float(x), float(y)) for x, y in rows[::stride].tolist()]


def _net_of(path: Path, size: Any) -> Student:
    """The network of a model file, which must be of this size."""
    net = load_net(path)
    if net.settings != size:
        allowed, fix = f"{size}", "train afresh, or with its settings and elements"
        raise BadInput(path, f"was trained with {net.settings}", allowed=allowed, fix=fix)
    return net

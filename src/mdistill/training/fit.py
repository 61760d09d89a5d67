"""The only training loop: SOAP (`training.optimiser`), cosine schedule, moving average of the weights, checkpoints.

It knows no product: an objective turns a batch of items into a loss. The order of items and every other random choice depend
on (seed, epoch) and (seed, step) alone, and with a fixed number of steps the schedule on the step alone. So a resumed training
equals an uninterrupted one bit for bit (same machine, same threads). With a time budget the number of steps is timed again as
training goes on (`training.budget`); checkpoints hold it.

Several processes (`training.ranks`) share each batch and add up their gradients, so all take the same steps. The clock, the
history and the files are those of rank 0, and checkpoints know no ranks.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import write_bytes, write_json
from mdistill.nets.model_files import read_header, sealed, tensor_hash
from mdistill.notices import notify
from mdistill.progress import Advance, progress, silent
from mdistill.runs.ledger import Ledger, Work
from mdistill.training.budget import TIMED_FROM, TIMED_TO, Clock, Spent, ended_by, remark, retimed, window
from mdistill.training.optimiser import Optimiser
from mdistill.training.ranks import LostRank, here
from mdistill.training.settings import FitSettings

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
Module = TypeVar("Module", bound=torch.nn.Module)
TRAINING = Work(key="training")
CHECKPOINT, HISTORY = "training.ckpt", "history.json"
_RECORDS = 25
_SAVE_SECONDS, _LONGEST_UNSAVED = 5.0, 60.0
"""Least time between saves, at ends of epochs; most time within a long epoch."""


class Objective(Protocol[Item_contra]):
    """The objective of a training."""

    def __call__(self, module: torch.nn.Module, batch: Sequence[Item_contra], step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss (a scalar with gradient) and measured numbers to record; step is −1 in validation.

        Of several ranks each is given the whole batch and evaluates its share of it (`ranks.here().share`): the losses that they
        return add up to that of the batch, and the measures are those of the batch.
        """
        ...

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        """Called with all rows of the history when one is added, and when a training is resumed."""
        ...

    def describe(self, measures: dict[str, float]) -> str:
        """The measures as text for the progress bar."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult(Generic[Module]):
    """Result of a fit.

    Attributes:
        module: A copy with the averaged weights.
        history: Rows of {step, epoch, minutes, train, validation}.
        steps: Number of steps done.
        cpu_minutes, wall_minutes: Time of the training thread, and by the clock.
        ended: What ended it: "steps", "budget", "epochs" or "plateau" (`budget.ended_by`).
        note: A sentence where it is short or took much longer than its budget; "" for any other.
    """

    module: Module
    history: list[dict[str, Any]]
    steps: int
    cpu_minutes: float = 0.0
    wall_minutes: float = 0.0
    ended: str = "steps"
    note: str = ""


@dataclass(slots=True)
class _Progress:
    """State of a training, as in the checkpoint."""

    step: int = 0
    total: int = 0
    minutes: float = 0.0
    spent: Spent = field(default_factory=Spent)
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class _Run(Generic[Module, Item]):
    """One training: module, average, the optimiser's two moments, and position."""

    def __init__(self, module: Module, objective: Objective[Item], settings: FitSettings, folder: Path) -> None:
        self.module, self.objective, self.settings, self.folder = module, objective, settings, folder
        self.average: Module = copy.deepcopy(module)
        self.average.requires_grad_(False)
        self.parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self.averages: list[Tensor] = [
            q for q, p in zip(self.average.parameters(), module.parameters(), strict=True) if p.requires_grad
        ]
        self.optimiser = Optimiser(self.parameters)
        self.at = _Progress(total=settings.steps)
        self.saved = time.monotonic()
        self.ranks, self.asked = here(), False

    def update(self, batch: Sequence[Item], *, asked: bool = False) -> None:
        """One optimiser step; `asked`: this rank was asked to stop, of which all hear."""
        settings, step = self.settings, self.at.step
        share, measures = self.objective(self.module, batch, step)
        gradients = [torch.zeros_like(p) for p in self.parameters]
        if share.requires_grad:
            gradients = list(torch.autograd.grad(share, self.parameters, allow_unused=True, materialize_grads=True))
        loss, number_asked = self.ranks.add(gradients, float(share.detach()), float(asked))
        self.asked = number_asked > 0.0
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
        if not math.isfinite(loss + norm):
            raise MdistillError(
                f"training diverged at step {step + 1}: the loss is {loss}, its gradient {norm}.\n"
                f"  kept: {self.folder / CHECKPOINT} holds the last good state, if one was written\n"
                f"  fix: a lower learning rate (now {settings.learning_rate}), and check the labels for outliers"
            )
        torch._foreach_mul_(gradients, min(1.0, settings.clip / (norm + 1e-12)))
        with torch.no_grad():
            rate = learning_rate(settings, step, self.at.total)
            self.optimiser.step(gradients, step + 1, rate=rate, decay=settings.weight_decay or 0.0)
            torch._foreach_lerp_(self.averages, self.parameters, 1.0 - min(settings.ema, (1.0 + step) / (10.0 + step)))
        self.at.step += 1
        self.at.counted += 1
        for name, value in ({"loss": loss} | measures).items():
            self.at.sums[name] = self.at.sums.get(name, 0.0) + value

    def record(self, validation: Sequence[Item], epoch: int) -> None:
        """One row of history: means over the steps since the last row, and the averaged weights on the held-out items."""
        at = self.at
        train = {name: total / max(at.counted, 1) for name, total in at.sums.items()}
        row = {
            "step": at.step, "epoch": epoch, "minutes": at.minutes, "train": train,
            "validation": validate(self.average, self.objective, validation, self.settings.batch_size),
        }  # fmt: skip
        at.history, at.sums, at.counted = [*at.history, self.ranks.told(row)], {}, 0
        self.objective.observe(at.history)
        self._check_equal()

    def _check_equal(self) -> None:
        """Reject ranks whose weights are not those of rank 0."""
        if not self.ranks.alone:
            weights = b"".join(p.detach().cpu().contiguous().numpy().tobytes() for p in self.parameters)
            if others := self.ranks.differing(weights):
                raise MdistillError(
                    f"the weights of rank {', '.join(map(str, others))} differ from those of rank 0 at step {self.at.step}.\n"
                    "  cause: other processors or libraries on their machines round differently\n"
                    "  fix: machines of one kind; the same command resumes from the last checkpoint"
                )

    def align(self, work: Work) -> None:
        """Give every rank the state of rank 0."""
        if self.ranks.alone:
            return
        if others := self.ranks.differing(work.fingerprint().encode()):
            problem = f"other labels, settings or start than rank 0 (rank {', '.join(map(str, others))})"
            allowed, fix = "the same command and files for all", "check the files of each machine"
            raise BadInput("processes", problem, allowed=allowed, fix=fix)
        self.ranks.copy(list(self._tensors().values()))
        held = self.ranks.told(asdict(self.at))
        self.at = _Progress(**held | {"spent": Spent(**held["spent"])})
        self.objective.observe(self.at.history)

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for part, module in (("module", self.module), ("average", self.average)):
            tensors |= {f"{part}/{name}": value for name, value in module.state_dict().items()}
        for name, values in self.optimiser.state.items():
            tensors |= {f"{name}/{k}": value for k, value in enumerate(values)}
        return tensors

    def retime(self, total: int, *, most: int) -> None:
        """The number of steps of the whole fit by the clock of rank 0."""
        at = self.at
        at.total = retimed(self.settings, at.step, total, at.spent, at.history, most=most)
        told: dict[str, Any] = self.ranks.told({"total": at.total, "spent": asdict(at.spent)})
        at.total, at.spent = told["total"], Spent(**told["spent"])

    def save(self) -> None:
        """Checkpoint and history, each all or nothing."""
        if not self.ranks.first:
            return
        arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in self._tensors().items()}
        header = {"progress": asdict(self.at), "sha256": tensor_hash(arrays)}
        write_bytes(self.folder / CHECKPOINT, safetensors.numpy.save(arrays, metadata=sealed("training", json.dumps(header))))
        write_json(self.folder / HISTORY, self.at.history)
        self.saved = time.monotonic()

    @contextmanager
    def saved_where_lost(self) -> Iterator[None]:
        """Save where another rank ends within the block."""
        try:
            yield
        except LostRank:
            self.save()
            raise

    def load(self) -> None:
        """Load the checkpoint of the folder."""
        path = self.folder / CHECKPOINT
        fix = f"remove {path} to train from the start"
        header = read_header(path, "training")
        try:
            arrays = safetensors.numpy.load(path.read_bytes())
            if tensor_hash(arrays) != header["sha256"]:
                raise ValueError("sha256 of its tensors differs from its header")
            tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
            for part, module in (("module", self.module), ("average", self.average)):
                module.load_state_dict(
                    {name[len(part) + 1 :]: value for name, value in tensors.items() if name.startswith(part + "/")}
                )
            for name, values in self.optimiser.state.items():
                self.optimiser.state[name] = [tensors[f"{name}/{k}"].to(v) for k, v in enumerate(values)]
            held = header["progress"]
            earlier = {"cpu": held["minutes"], "wall": held["minutes"], "timed_step": held["step"], "timed_cpu": held["minutes"]}
            spent = {name: value for name, value in held.get("spent", earlier).items() if name != "timed_wall"}
            self.at = _Progress(**held | {"spent": Spent(**spent)})
            self.objective.observe(self.at.history)
        except BadInput:
            raise
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise BadInput(path, f"is damaged ({error})", allowed="a checkpoint of this training", fix=fix) from error


def fit(
    module: Module, objective: Objective[Item], train: Sequence[Item], validation: Sequence[Item], settings: FitSettings, *,
    folder: Path, stop: StopRequest = NEVER, work: Work = TRAINING, title: str = "train",
) -> FitResult[Module]:  # fmt: skip
    """Train a module; its weights change in place, the averaged copy is returned.

    Args:
        module: Every parameter that requires grad is trained.
        objective: Loss of a batch of items.
        train: Items to learn from.
        validation: Held-out items, evaluated at intervals; with a time budget their plateau ends training.
        settings: Steps, batch size, learning rate.
        folder: Gets `training.ckpt` every epoch, every minute of a long one, and `history.json`; training resumes from them.
        stop: Checked between steps; on request training saves and raises Interrupted.
        work: Settings and data behind module, objective and items; a checkpoint of other work or other `settings` is rejected.
        title: Text of the progress bar.
    Raises:
        BadInput: No items, or a checkpoint that is damaged or of another training.
        MdistillError: The loss is no longer finite; the last checkpoint is intact.
        Interrupted: Stopped on request, after saving.
    """
    if not train:
        raise BadInput("training frames", "none", allowed="at least one", fix="label more structures")
    if settings.learning_rate is None or settings.weight_decay is None:
        raise BadInput("learning_rate, weight_decay", "None", allowed="numbers", fix="settings.suited(kind of network)")
    counts = {"training_items": len(train), "held_out_items": len(validation)}
    work = replace(work, settings={"fit": settings, "of": work.settings} | counts)
    ledger, run = Ledger(Path(folder)), _Run(module, objective, settings, Path(folder))
    if run.ranks.first:
        ledger.resumes(work, holds="a training", files=(CHECKPOINT,))
        if (run.folder / CHECKPOINT).exists():
            run.load()
    run.align(work)
    clock, at = Clock(), run.at
    most = settings.steps or max(settings.max_epochs * len(train) // settings.batch_size, 2 * TIMED_TO)
    step = partial(_advance, run, train, validation, clock, stop=stop)
    with run.saved_where_lost():
        if not at.total:
            step(until=TIMED_FROM, advance=silent)
            at.spent.mark(at.step)
            step(until=TIMED_TO, advance=silent)
            run.retime(most, most=most)
            run.save()
        with progress(title, at.total, unit="step", done=at.step) as advance:
            while at.step < at.total:
                step(until=at.total if settings.steps else min(at.total, at.spent.timed_step + window(at.total)), advance=advance)
                if not settings.steps and at.step < at.total:
                    run.retime(at.total, most=most)
                    advance(0, "", at.total)
    if run.ranks.first and not ledger.is_done(work):
        ledger.finish(work, [CHECKPOINT, HISTORY], seconds=60.0 * at.spent.wall)
    note = remark(settings, at.step, at.spent)
    if note and not settings.steps:
        notify(f"{title}: {note}")
    return FitResult(
        module=run.average, history=at.history, steps=at.step, cpu_minutes=at.spent.cpu, wall_minutes=at.spent.wall,
        ended=ended_by(settings, at.step, at.spent, most=most), note=note,
    )  # fmt: skip


def _advance(
    run: _Run[Module, Item], train: Sequence[Item], validation: Sequence[Item], clock: Clock, *, until: int, stop: StopRequest,
    advance: Advance,
) -> None:  # fmt: skip
    """Train up to step `until`, saving at ends of epochs (at most every few seconds), every minute of a long epoch, and on a stop
    request to any rank."""
    at, size, alone = run.at, run.settings.batch_size, run.ranks.alone
    per_epoch = math.ceil(len(train) / size)
    while at.step < until:
        if stop.pending() if alone else run.asked:
            clock.lap(at.spent)
            run.save()
            stop.raise_if_pending()
            raise Interrupted("stopped: another process of the training was asked to; everything so far is saved")
        begin = time.monotonic()
        epoch, k = divmod(at.step, per_epoch)
        batch = [train[i] for i in order_of(len(train), run.settings.seed, epoch)[k * size : (k + 1) * size]]
        run.update(batch, asked=not alone and stop.pending())
        at.minutes += (time.monotonic() - begin) / 60.0
        advance(1, run.objective.describe({name: total / at.counted for name, total in at.sums.items()}))
        finished, epoch_ended = at.step == at.total, at.step % per_epoch == 0
        every = max(1, math.ceil(at.total / per_epoch) // _RECORDS)
        if finished or (at.total and epoch_ended and (epoch + 1) % every == 0):
            run.record(validation, epoch + 1)
        clock.lap(at.spent)
        if finished or time.monotonic() - run.saved > (_SAVE_SECONDS if epoch_ended else _LONGEST_UNSAVED):
            run.save()


def learning_rate(settings: FitSettings, step: int, total: int) -> float:
    """Linear warm-up, then a cosine from the peak down to 1 % of it at step `total` (0: still unknown, warming up)."""
    warm = min(1.0, (step + 1) / settings.warmup)
    cosine = 1.0 if total == 0 else 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / total)))
    return (settings.learning_rate or 0.0) * warm * (0.01 + 0.99 * cosine)


def order_of(n_items: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch takes the items; a function of seed and epoch alone."""
    return [int(i) for i in np.random.default_rng([seed, epoch]).permutation(n_items)]


def validate(module: torch.nn.Module, objective: Objective[Item], items: Sequence[Item], batch_size: int) -> dict[str, float]:
    """Means of the objective's measures over items, without training."""
    sums: dict[str, float] = {}
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        loss, measures = objective(module, batch, -1)
        whole = float(here().total(loss.detach().to(torch.float64)))
        for name, value in ({"loss": whole} | measures).items():
            sums[name] = sums.get(name, 0.0) + value * len(batch) / len(items)
    return sums

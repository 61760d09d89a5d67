"""Jobs whose results must not depend on the number of processes: `test_ranks` does them in one and, by this program, in two.

    RANK=… WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python tests/rank_jobs.py FOLDER JOB [JOB …]

Each rank writes FOLDER/results-RANK.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maps import exact_flow, tiny_direct
from mdistill.derivatives import Conservative
from mdistill.direct.settings import DirectSettings
from mdistill.direct.train import prepare_direct
from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.interrupt import NEVER, StopRequest
from mdistill.training import optimiser
from mdistill.training.fit import TRAINING, FitResult, fit
from mdistill.training.labels import items_of
from mdistill.training.objective import PotentialObjective, loss_terms
from mdistill.training.potential import Prepared, fit_only, prepare_fit
from mdistill.training.ranks import LostRank, here, joined
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.training.stride_objective import StrideObjective
from mdistill.training.windows import windows_of
from mdistill.transport.ion_rows import ion_rows, scales_of
from mdistill.transport.taught import TaughtNet, _Objective
from mdistill.types import LabelledFrame
from planted_motion import planted
from systems import MorseNet, morse_frames, tiny_net

FIT = FitSettings(steps=24, batch_size=5, warmup=5, learning_rate=0.02)
SMALL = TrainSettings(cutoff=5.0, channels=4, radial=5, hidden=8, held_out=0.2, curvature_every=2, float64=True, fit=FIT)
SILENT_S = 30.0
"""Time-out of the job `silent`."""


class StopAt(StopRequest):
    """Pending from the given question on."""

    __slots__ = ("left",)

    def __init__(self, question: int) -> None:
        super().__init__()
        self.left = question

    def pending(self) -> bool:
        self.left -= 1
        return self.left < 0


class Line:
    """y = W x, with this rank's share; `spoil` is called with (module, loss, step)."""

    def __init__(self, spoil: Callable[[torch.nn.Module, Tensor, int], Tensor] = lambda _module, loss, _step: loss) -> None:
        self.spoil = spoil

    def __call__(self, module: torch.nn.Module, batch: Sequence[Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        own = here().share(batch)
        loss = torch.stack([(module(x) - x.sum()).square().sum() for x in own]).sum() / len(batch) if own else torch.zeros(())
        return self.spoil(module, loss, step), {"error": 1.0}

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        pass

    def describe(self, measures: dict[str, float]) -> str:
        return ""


def line(folder: Path, objective: Line, *, stop: StopRequest = NEVER, name: str = "line", **settings: Any) -> FitResult[Any]:
    items = list(torch.randn(22, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    net = torch.nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        net.weight.fill_(0.1 + 0.1 * here().rank)
        net.bias.zero_()
    chosen = FitSettings(**({"steps": 60, "batch_size": 4, "warmup": 5, "learning_rate": 0.05} | settings)).suited("moment")
    return fit(
        net, objective, items[:18], items[18:], chosen, folder=folder, stop=stop, work=replace(TRAINING, inputs={"of": name})
    )


def answers(objective: Any, module: torch.nn.Module, batch: Sequence[Any], steps: Sequence[int]) -> dict[str, Any]:
    """Loss, gradient and measures of a batch of five items and of one alone, at some steps."""
    found: dict[str, Any] = {}
    parameters = [p for p in module.parameters() if p.requires_grad]
    for size in (5, 1):
        for step in steps:
            loss, measures = objective(module, batch[:size], step)
            gradients = [torch.zeros_like(p) for p in parameters]
            if loss.requires_grad and step >= 0:
                gradients = list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
            whole = here().add(gradients, float(loss.detach()))
            name = f"{size} items, step {step}"
            found[name] = {"loss": whole[0], "gradient": torch.cat([g.flatten() for g in gradients]).tolist()} | measures
    return found


def frames(count: int = 24) -> list[LabelledFrame]:
    """Frames of which some lack an energy, forces, the stress or probes."""
    made = morse_frames(count, probes=2)
    for k in range(0, count, 6):
        label = made[k].target
        made[k] = replace(made[k], target=replace(label, energy=label.energy * torch.nan), missing=frozenset({"energy"}))
        made[k + 1] = replace(made[k + 1], target=replace(made[k + 1].target, stress=None), probes=None, products=None)
    return made


def potential(folder: Path) -> dict[str, Any]:
    ready = prepare_fit(frames(), SMALL)
    return answers(ready.objective, ready.net, ready.items, (0, 1, 2, -1))


def redrawn(folder: Path) -> dict[str, Any]:
    made = frames()
    objective = PotentialObjective(
        terms=loss_terms(made, SMALL, redrawn=1.0), every=1, probes=2, seed=0, teacher=Conservative(MorseNet())
    )
    return answers(objective, tiny_net(), items_of(made[:5], 5.0, torch.float64), (0, 3))


def direct(folder: Path) -> dict[str, Any]:
    settings = DirectSettings(
        cutoff=5.0, width=32, layers=1, heads=2, radial=6, float64=True, copies=2, antisymmetry_weight=1e-3, energy_gradient_weight=0.05, curvature_weight=0.5,
        fit=FIT,
    )  # fmt: skip
    ready = prepare_direct(morse_frames(12, probes=2), settings)
    return answers(ready.objective, ready.net, ready.items, (0, 1, 2, -1))


def stride(folder: Path) -> dict[str, Any]:
    objective = StrideObjective(reversal=True, turning=True, seed=1, energy=tiny_net(), energy_weight=0.1)
    short, long = (windows_of(exact_flow(3), t) for t in (4.0, 16.0))
    return answers(objective, tiny_direct(), [short[0], long[0], long[1], short[3], short[7]], (0, 1, -1))


def taught(folder: Path) -> dict[str, Any]:
    records = planted(6)
    items = [ion_rows(one, scales_of(records, expansion="none")) for one in records]
    items[1] = replace(items[1], known=torch.zeros_like(items[1].known))
    net = TaughtNet(items[0].structure.shape[1], items[0].trajectory.shape[2], seed=3)  # type: ignore[union-attr]
    return answers(_Objective(seen=1.0, alone=0.5), net, items, (0, -1))


def weights(result: FitResult[Any]) -> list[float]:
    return torch.cat([p.detach().flatten() for p in result.module.parameters()]).tolist()  # type: ignore[no-any-return]


def fitted(result: FitResult[Any]) -> dict[str, Any]:
    rows = [{k: v for k, v in row.items() if k != "minutes"} for row in result.history]
    return {"weights": weights(result), "history": rows}


def without_bases(ready: Prepared, folder: Path, stop: StopRequest) -> FitResult[Any]:
    """A fit in which every weight keeps its own basis. The basis of one gradient is arbitrary where that has no component:
    rounding chooses it there, so that fits with it differ from one number of processes to another as from machine to machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimiser, "WIDEST", 0)
        return fit_only(ready, folder, stop=stop)


def whole_fit(folder: Path) -> dict[str, Any]:
    return fitted(without_bases(prepare_fit(frames(), SMALL), folder / "whole", NEVER))


def continued(folder: Path, stop: StopRequest | None = None) -> dict[str, Any]:
    """Resume the fit in FOLDER/parts; rank 1 is asked to stop after nine steps, and all do."""
    asked = StopAt(9) if stop is None and here().rank == 1 else stop or NEVER
    try:
        return fitted(without_bases(prepare_fit(frames(), SMALL), folder / "parts", asked))
    except Interrupted as error:
        return {"stopped": str(error)}


def budget(folder: Path) -> dict[str, Any]:
    """A fit by the clock: the number of steps is that of rank 0."""
    result = line(folder / "budget", Line(), steps=0, max_minutes=0.002, least_steps=60, max_epochs=1000)
    steps = here().total(torch.tensor([result.steps])).item()
    return {"steps are equal": steps == here().count * result.steps}


def failing(kind: type[MdistillError], run: Callable[[], Any]) -> dict[str, Any]:
    with pytest.raises(kind) as caught:
        run()
    return {"message": str(caught.value)}


def not_finite(folder: Path) -> dict[str, Any]:
    def spoil(_: torch.nn.Module, loss: Tensor, step: int) -> Tensor:
        return loss * torch.nan if step == 5 and here().rank == here().count - 1 else loss

    return failing(MdistillError, lambda: line(folder / "nan", Line(spoil)))


def other_labels(folder: Path) -> dict[str, Any]:
    return failing(BadInput, lambda: line(folder / "other", Line(), name=f"labels of rank {here().rank}"))


def other_weights(folder: Path) -> dict[str, Any]:
    def spoil(module: torch.nn.Module, loss: Tensor, step: int) -> Tensor:
        if step == 3 and here().rank == 1:
            with torch.no_grad():
                next(module.parameters()).add_(1e-12)
        return loss

    return failing(MdistillError, lambda: line(folder / "weights", Line(spoil)))


def silent(folder: Path) -> dict[str, Any]:
    """Rank 1 does not answer any more: rank 0 ends after the time-out. Last of all jobs."""
    if here().rank:
        while not (folder / "results-0.json").is_file():
            time.sleep(0.2)
        return {}
    return failing(LostRank, lambda: line(folder / "silent", Line()))


JOBS: dict[str, Callable[[Path], dict[str, Any]]] = {
    job.__name__: job
    for job in (potential, redrawn, direct, stride, taught, whole_fit, continued, budget, not_finite, other_labels, other_weights, silent)
}  # fmt: skip


def main(place: str, *names: str) -> None:
    torch.set_num_threads(1)
    with joined(timeout=timedelta(seconds=SILENT_S if "silent" in names else 300.0)) as ranks:
        found = {name: JOBS[name](Path(place)) for name in names}
        (Path(place) / f"results-{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

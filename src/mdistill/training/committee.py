"""A committee: students of the same labels with other first weights, another order of training and other held-out blocks.

Where their forces differ, they are uncertain (`judge.spread`). Number 1 is the student of a run; its files lie in the folder
itself, those of number k in `student-k`. The members are trained at the same time in processes of one thread each.

Reference:
    B. Lakshminarayanan, A. Pritzel, C. Blundell, NeurIPS 2017, arXiv 1612.01474 (ensembles of networks from other seeds).
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from shutil import copyfile
from typing import Any

from mdistill.errors import BadInput, Interrupted, MdistillError, MdistillNotice
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import replacing
from mdistill.notices import notify
from mdistill.processes import begin_worker, usable_cores, worker_context
from mdistill.progress import forward_progress, progress
from mdistill.settings import child_seed
from mdistill.training.potential import MODEL, TrainingResult, train_potential
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame

_LOOK_S = 0.2
"""Seconds between checks of the stop request."""
_PER_CORE = 2
"""Largest number of members in training per core."""


def member_file(number: int) -> str:
    """Name of the model file of a member, counted from 1."""
    return MODEL if number == 1 else f"student-{number}.mdistill"


def members_beside(student: Path) -> list[Path]:
    """The model files of members 2, 3, … that lie beside that of number 1; none beside a file of another name."""
    found: list[Path] = []
    while student.name == MODEL and (path := student.with_name(member_file(len(found) + 2))).is_file():
        found.append(path)
    return found


@dataclass(frozen=True, slots=True)
class _Fit:
    """One member's training."""

    frames: Sequence[LabelledFrame]
    settings: TrainSettings
    folder: Path
    member: int
    start_from: Path | None
    provenance: dict[str, Any] | None

    def run(self, stop: StopRequest) -> TrainingResult:
        own = self.folder if self.member == 1 else self.folder / f"student-{self.member}"
        result = train_potential(
            self.frames, self.settings, own, stop=stop, start_from=self.start_from, provenance=self.provenance, member=self.member
        )
        if self.member > 1:
            with replacing(self.folder / member_file(self.member)) as partial:
                copyfile(result.path, partial)
        return replace(result, path=self.folder / member_file(self.member))


def train_committee(
    frames: Sequence[LabelledFrame], settings: TrainSettings, folder: Path, *, count: int, start_from: Sequence[Path] = (),
    stop: StopRequest = NEVER, provenance: dict[str, Any] | None = None,
) -> list[TrainingResult]:  # fmt: skip
    """Train all members; each resumes, or is only evaluated where it is done. A committee of one is `train_potential`.

    Args:
        frames: Labelled structures, the same for all.
        settings: Settings of member 1. The seeds of the others follow from its seed.
        folder: Gets `student.mdistill`, `student-2.mdistill`, …
        count: Number of members.
        start_from: A model file for each member to start from (refit); empty to start afresh.
        stop: Checked within every fit.
        provenance: Stored in the model files.
    Raises:
        BadInput, MdistillError, Interrupted: As `train_potential`; a process that died.
    """
    fits = [
        _Fit(frames, replace(settings, fit=_seeded(settings, number)), folder, number,
             start_from[number - 1] if start_from else None, provenance)
        for number in range(1, count + 1)
    ]  # fmt: skip
    cores = usable_cores()
    return [fit.run(stop) for fit in fits] if count == 1 or cores == 1 else _side_by_side(fits, _PER_CORE * cores, stop)


def _seeded(settings: TrainSettings, number: int) -> Any:
    seed = settings.fit.seed
    return replace(settings.fit, seed=seed if number == 1 else child_seed(seed, f"member {number}"))


def _side_by_side(fits: Sequence[_Fit], most: int, stop: StopRequest) -> list[TrainingResult]:
    """All fits in worker processes, at most `most` at once. The first that fails has the others save and end."""
    waiting, working, results = list(fits), dict[Connection, _Worker](), dict[int, TrainingResult]()
    failure: Exception | None = None
    try:
        with progress(f"train {len(fits)} students", 100.0 * len(fits), unit="%") as advance:
            while waiting or working:
                if stop.pending() or failure is not None:
                    waiting.clear()
                    for worker in working.values():
                        worker.ask_to_stop()
                while waiting and len(working) < most:
                    worker = _Worker(waiting.pop(0))
                    working[worker.pipe] = worker
                for pipe in wait(list(working), timeout=_LOOK_S):
                    worker = working[pipe]  # type: ignore[index]
                    answer = worker.answer(advance)
                    if answer is None:
                        continue
                    del working[worker.pipe]
                    worker.end()
                    if isinstance(answer, TrainingResult):
                        results[worker.fit.member] = answer
                    elif not isinstance(answer, Interrupted):
                        failure = failure or answer
    finally:
        for worker in working.values():
            worker.end(kill=True)
    if failure is not None:
        raise failure
    if len(results) < len(fits):
        stop.raise_if_pending()
    return [results[fit.member] for fit in fits]


class _Worker:
    """The process of one fit. It tells (done, total, note), notices, and last its result or error."""

    def __init__(self, fit: _Fit) -> None:
        context = worker_context()
        self.fit, self._shown, self._stopping = fit, 0.0, False
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, fit), daemon=True)
        self.process.start()
        theirs.close()

    def ask_to_stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            with suppress(OSError):
                self.pipe.send_bytes(b"stop")

    def answer(self, advance: Callable[..., None]) -> TrainingResult | Exception | None:
        """Its result or error where it ended; None where it goes on."""
        try:
            kind, told = pickle.loads(self.pipe.recv_bytes())  # noqa: S301  (written by our own process)
        except (EOFError, OSError):
            self.process.join()
            return MdistillError(
                f"the process that trained student {self.fit.member} died (exit status {self.process.exitcode}).\n"
                f"  kept: the last checkpoint of each student\n"
                "  fix: run the same command again, it resumes; --threads 1 trains one student after the other with less memory"
            )
        if kind == "progress":
            share = 100.0 * told[0] / max(told[1], 1.0)
            advance(max(share - self._shown, 0.0), f"student {self.fit.member}: {told[2]}" if told[2] else "")
            self._shown = max(share, self._shown)
        elif kind == "notice":
            notify(told)
        return {"result": lambda: told, "bad input": lambda: BadInput(**told), "error": lambda: MdistillError(told),
                "stopped": lambda: Interrupted(told)}.get(kind, lambda: None)()  # fmt: skip

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        self.process.join()
        self.pipe.close()


class _ParentStop(StopRequest):
    """Pending once the parent has written to the pipe."""

    __slots__ = ("pipe",)

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def pending(self) -> bool:
        return self.pipe.poll()


def _serve(pipe: Connection, fit: _Fit) -> None:
    """Train one member in this process."""
    begin_worker()

    def tell(kind: str, what: object) -> None:
        pipe.send_bytes(pickle.dumps((kind, what)))

    def notice(message: Warning | str, category: type[Warning], *_args: object, **_options: object) -> None:
        if issubclass(category, MdistillNotice):
            tell("notice", str(message))

    warnings.showwarning = notice  # type: ignore[assignment]
    forward_progress(lambda done, total, note: tell("progress", (done, total, note)))
    try:
        tell("result", fit.run(_ParentStop(pipe)))
    except BadInput as error:
        tell("bad input", {name: getattr(error, name) for name in ("subject", "problem", "allowed", "fix")})
    except Interrupted as error:
        tell("stopped", str(error))
    except MdistillError as error:
        tell("error", str(error))
    except Exception as error:
        tell("error", f"student {fit.member}: {type(error).__name__}: {error}")

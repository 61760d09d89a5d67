"""Long jobs in worker processes: one process of one thread for each job, this many at once.

A worker ends with this process, however that ends, and prints into a log. A job whose worker is killed is tried again once, after
all others; killed again, it is told as `Killed`.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from mdistill.errors import BadInput, MdistillError
from mdistill.interrupt import NEVER, StopRequest
from mdistill.labelling.tasks import raised, sent
from mdistill.notices import heard, listening, notify
from mdistill.processes import begin_worker, end_worker, worker_context

Result = TypeVar("Result")
ATTEMPTS = 2
"""Number of workers that a job may lose."""
_LOOK_S = 0.2


class Killed(MdistillError):
    """The worker processes of a job were killed."""


def in_workers(
    jobs: Sequence[Callable[[], Result]], logs: Sequence[Path], *, workers: int,
    tell: Callable[[Sequence[int]], object] = lambda _: None, stop: StopRequest = NEVER,
) -> Generator[tuple[int, Result | MdistillError]]:  # fmt: skip
    """Number and result of every job, as they end. Workers at work are killed when the iterator is closed.

    Args:
        jobs: Without arguments; results, and where processes cannot fork the jobs too, can be pickled.
        logs: File for what each job prints.
        workers: Largest number of processes at once.
        tell: Called with the numbers of the jobs at work whenever they change.
        stop: Checked a few times a second; workers at work are killed.
    Yields:
        The result, or the error that the job raised.
    Raises:
        MdistillError: A job raised an exception that no input explains; its log has it.
        Interrupted: A stop was requested.
    """
    if workers < 1:
        raise BadInput("workers", f"{workers}", allowed="1 or more", fix="--workers 2")
    waiting, tries, at_work = deque(range(len(jobs))), Counter[int](), dict[Connection, tuple[int, _Worker]]()
    try:
        while waiting or at_work:
            stop.raise_if_pending()
            while waiting and len(at_work) < workers:
                number = waiting.popleft()
                tries[number] += 1
                worker = _Worker(jobs[number], logs[number])
                at_work[worker.pipe] = number, worker
                tell([k for k, _ in at_work.values()])
            for pipe in wait(list(at_work), timeout=_LOOK_S):
                number, worker = at_work.pop(pipe)  # type: ignore[call-overload]
                answer = worker.answer()
                status = worker.end()
                tell([k for k, _ in at_work.values()])
                if answer is not None:
                    yield number, _result(answer, logs[number])
                elif tries[number] < ATTEMPTS:
                    waiting.append(number)
                else:
                    yield number, Killed(_death(status))
    finally:
        for _, worker in at_work.values():
            worker.end()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a worker sends.

    Attributes:
        result: Of the job.
        error: That the job raised, as `sent` tells it.
        failure: An exception that is no MdistillError.
        notices: Facts that the user should know.
    """

    result: Any = None
    error: dict[str, str] | None = None
    failure: str = ""
    notices: tuple[str, ...] = ()


def _result(answer: _Answer, log: Path) -> Any:
    """The result or error of a job; its notices are issued here."""
    for text in answer.notices:
        notify(text)
    if answer.failure:
        raise MdistillError(f"a worker process failed: {answer.failure}\n  log: {log}")
    return answer.result if answer.error is None else raised(answer.error)


def _death(status: int | None) -> str:
    """How a process ended that told nothing."""
    if status is None or status >= 0:
        return f"the worker process ended {ATTEMPTS} times (exit status {status})"
    often = ", often for lack of memory" if status == -signal.SIGKILL else ""
    return f"the worker process was killed {ATTEMPTS} times ({signal.Signals(-status).name}{often})"


class _Worker:
    """A process at one job, in its own process group, so that its children die with it."""

    def __init__(self, job: Callable[[], Any], log: Path) -> None:
        context = worker_context()
        log.parent.mkdir(parents=True, exist_ok=True)
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, job, log, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self) -> _Answer | None:
        """What it sent; None where it died first."""
        try:
            answer: _Answer = pickle.loads(self.pipe.recv_bytes())  # noqa: S301  (written by our own process)
        except (EOFError, OSError):
            return None
        return answer

    def end(self) -> int | None:
        """Kill it and its children; returns the exit status, also of one that had ended."""
        return end_worker(self.process, self.pipe)


def _work(pipe: Connection, job: Callable[[], Any], log: Path, parent: int) -> None:
    """Main function of a worker."""
    begin_worker()
    if os.getppid() != parent:  # it died before the system was asked to tell
        return
    os.environ["MDISTILL_QUIET"] = "1"
    with open(log, "a", encoding="utf-8", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        with redirect_stdout(file), redirect_stderr(file), listening():
            try:
                answer = _Answer(result=job(), notices=tuple(heard()))
            except MdistillError as error:
                answer = _Answer(error=sent(error), notices=tuple(heard()))
            except Exception as error:
                traceback.print_exc()
                answer = _Answer(failure=f"{type(error).__name__}: {error}")
            pipe.send_bytes(pickle.dumps(answer))

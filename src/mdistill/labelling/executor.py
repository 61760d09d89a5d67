"""Executors call an engine and handle calls that hang or die. Answers come in the order of the questions.

`Serial` calls it in this process, `Processes` in workers of one thread each. A call that takes too long is stopped: a worker is
killed with its children; this process uses an alarm (`time_limit`).
"""

from __future__ import annotations

import pickle
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from mdistill.errors import BadInput, MdistillError
from mdistill.interrupt import NEVER, StopRequest
from mdistill.labelling.engine import Answer, Engine, Failure
from mdistill.labelling.tasks import Question, ask, raised, sent
from mdistill.processes import begin_worker, end_worker, time_limit, worker_context
from mdistill.types import Graph, Prediction

_LOOK_S = 0.2
"""Seconds between checks of the stop request."""


class NoAnswer(MdistillError):
    """An engine failed twice on one structure of a dynamics."""


class Executor(Protocol):
    """Answers questions with an engine."""

    @property
    def engine(self) -> Engine: ...
    def answers(
        self, questions: Sequence[Question], *, attempts: int = 1, stop: StopRequest = NEVER
    ) -> Iterator[Answer | Failure]:
        """Answers in the order of the questions.

        Args:
            questions: Structures to label.
            attempts: Largest number of calls for a question whose failure allows a retry.
            stop: Checked before every question; after a request the answers end with those under way.
        Raises:
            BadInput: The engine does not know an element.
        """
        ...

    def close(self) -> None:
        """Stop its processes."""
        ...


def executor(engine: Engine, *, workers: int, seconds: float, folder: Path, address: str = "") -> Executor:
    """The executor for this number of worker processes; 0: this process. Or a cluster.

    Args:
        engine: The engine.
        workers: Number of worker processes.
        seconds: Longest time of one answer.
        folder: Folder for the files of each question.
        address: Of a Dask scheduler ("dask://host:port"); its workers must see the folder under the same path.
    """
    if address:
        from mdistill.labelling.dask_executor import Dask

        return Dask(engine, address, seconds, folder)
    if workers < 0:
        raise BadInput("workers", f"{workers}", allowed="0 or more", fix="--workers 0 uses this process")
    return Processes(engine, workers, seconds, folder) if workers else Serial(engine, seconds, folder)


@dataclass(frozen=True, slots=True)
class Serial:
    """Calls the engine in this process."""

    engine: Engine
    seconds: float
    folder: Path

    def answers(
        self, questions: Sequence[Question], *, attempts: int = 1, stop: StopRequest = NEVER
    ) -> Iterator[Answer | Failure]:
        for question in questions:
            if stop.pending():
                return
            answer = self._ask(question)
            for _ in range(attempts - 1):
                if isinstance(answer, Failure) and answer.retry:
                    answer = self._ask(question)
            yield answer

    def _ask(self, question: Question) -> Answer | Failure:
        try:
            with time_limit(self.seconds):
                return ask(self.engine, question, self.folder)
        except TimeoutError as error:
            return Failure(reason=f"{error}", retry=True)

    def close(self) -> None:
        pass


class Processes:
    """Calls the engine in worker processes until `close`; a worker that hung or died is replaced."""

    def __init__(self, engine: Engine, workers: int, seconds: float, folder: Path) -> None:
        self.engine, self.workers, self.seconds, self.folder = engine, workers, seconds, folder
        self._idle = [_Worker(engine, folder) for _ in range(workers)]
        self._busy: dict[_Worker, int] = {}

    def answers(
        self, questions: Sequence[Question], *, attempts: int = 1, stop: StopRequest = NEVER
    ) -> Iterator[Answer | Failure]:
        waiting, tries, ready = deque(range(len(questions))), Counter[int](), dict[int, Answer | Failure]()
        try:
            for following in range(len(questions)):
                while following not in ready:
                    while waiting and not stop.pending() and len(self._busy) < self.workers:
                        self._hand_out(questions, waiting.popleft())
                    if not self._busy:
                        return
                    for number, answer in self._returned():
                        tries[number] += 1
                        if isinstance(answer, Failure) and answer.retry and tries[number] < attempts:
                            waiting.appendleft(number)
                        else:
                            ready[number] = answer
                yield ready.pop(following)
        finally:
            for worker in self._busy:
                worker.kill()
            self._busy.clear()

    def _hand_out(self, questions: Sequence[Question], number: int) -> None:
        fit = self._idle and self._idle[-1].process.is_alive()
        worker = self._idle.pop() if fit else _Worker(self.engine, self.folder)
        worker.ask(questions[number], self.seconds)
        self._busy[worker] = number

    def _returned(self) -> Iterator[tuple[int, Answer | Failure]]:
        """Wait briefly and return new answers with the numbers of their questions. Workers that died or hang are removed."""
        nearest = min(worker.until for worker in self._busy) - time.monotonic()
        told = wait([worker.pipe for worker in self._busy], timeout=min(max(nearest, 0.0), _LOOK_S))
        for worker in [w for w in self._busy if w.pipe in told or time.monotonic() >= w.until]:
            number = self._busy.pop(worker)
            answer = worker.answer() if worker.pipe in told else None
            if answer is None:
                status = worker.kill()
                reason = (
                    f"the worker process died (exit status {status})"
                    if worker.pipe in told
                    else f"no answer within {self.seconds:g} s"
                )
                yield number, Failure(reason=reason, retry=True)
                continue
            self._idle.append(worker)
            if isinstance(answer, MdistillError):
                raise answer
            yield number, answer

    def close(self) -> None:
        for worker in [*self._idle, *self._busy]:
            worker.kill()
        self._idle.clear()
        self._busy.clear()


class _Worker:
    """A process with an engine, in its own process group, so that its children die with it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        context = worker_context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, engine, folder), daemon=True)
        self.process.start()
        theirs.close()
        self.until = 0.0

    def ask(self, question: Question, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        with suppress(OSError):
            self.pipe.send_bytes(pickle.dumps(question))

    def answer(self) -> Answer | Failure | MdistillError | None:
        """Its answer, or the error that ends the job; None where it died."""
        try:
            answer = pickle.loads(self.pipe.recv_bytes())  # noqa: S301  (written by our own process)
        except (EOFError, OSError):
            return None
        return raised(answer) if isinstance(answer, dict) else answer

    def kill(self) -> int | None:
        """Stop it and its children; returns the exit status where it had ended."""
        return end_worker(self.process, self.pipe)


def _serve(pipe: Connection, engine: Engine, folder: Path) -> None:
    """Main loop of a worker: one question after the other, with one thread, until the executor closes."""
    begin_worker()
    while True:
        try:
            question = pickle.loads(pipe.recv_bytes())  # noqa: S301  (written by our own process)
        except EOFError:
            return
        try:
            answer: Any = ask(engine, question, folder)
        except MdistillError as error:
            answer = sent(error)
        except Exception as error:
            answer = Failure(reason=f"{type(error).__name__}: {error}", retry=True)
        pipe.send_bytes(pickle.dumps(answer))


@dataclass(frozen=True, slots=True)
class AskedPotential:
    """An executor's engine as a potential, for dynamics; a call that fails is repeated once."""

    executor: Executor
    cutoff: float = 0.0

    @property
    def name(self) -> str:
        return self.executor.engine.name

    @property
    def elements(self) -> frozenset[int]:
        return self.executor.engine.elements

    def __call__(self, graph: Graph) -> Prediction:
        (answer,) = self.executor.answers([Question(name="step", index=0, system=graph.system)], attempts=2)
        if isinstance(answer, Failure):
            raise NoAnswer(answer.reason)
        return answer.prediction

"""An executor for a cluster: calculations are carried out by the workers of a Dask scheduler.

The scheduler may be that of `dask-jobqueue` (SLURM, PBS, …), of `dask scheduler` and `dask worker`, or a LocalCluster. A worker
that dies loses the calculation in hand; another worker repeats it. With `Remembered` around the engine a calculation that ended
is not repeated after the death of the driver either. Workers need this package, the engine, and the run's folder under the same
path.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput, MdistillError, MissingPackage
from mdistill.interrupt import NEVER, StopRequest
from mdistill.labelling.engine import Answer, Engine, Failure
from mdistill.labelling.tasks import Question, ask, raised, sent

SCHEME = "dask://"
_CONNECT_S = 10.0
_LOOK_S = 0.2


def connected(address: str, flag: str) -> Any:
    """A client of the scheduler at dask://HOST:PORT.

    Args:
        address: The address.
        flag: The flag that gave it, named in errors.
    Raises:
        BadInput: It is no such address, or no scheduler answers there.
        MissingPackage: distributed is not installed.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackage("distributed", 'pip install "mdistill[dask]"', f"{flag} {SCHEME}…") from error
    allowed, fix = "dask://HOST:PORT of a running scheduler", "start one: dask scheduler --port 8786"
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    if not address.startswith(SCHEME) or not host or not port.isdecimal():
        raise BadInput(flag, repr(address), allowed=allowed, fix=fix)
    try:
        return Client(f"tcp://{host}:{port}", timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise BadInput(flag, f"no Dask scheduler answers at {address}", allowed=allowed, fix=fix) from error


class Dask:
    """Asks an engine through a scheduler until `close`.

    Args:
        engine: The engine; it is sent to the workers.
        address: "dask://host:port".
        seconds: Longest time of one answer, from when a worker begins it.
        folder: Folder for the files of each question, as the workers see it.
    Raises:
        BadInput: No scheduler answers at the address.
        MissingPackage: distributed is not installed.
    """

    def __init__(self, engine: Engine, address: str, seconds: float, folder: Path) -> None:
        self.engine, self.seconds, self.folder = engine, seconds, Path(folder).absolute()
        self.client = connected(address, "--executor")

    def answers(
        self, questions: Sequence[Question], *, attempts: int = 1, stop: StopRequest = NEVER
    ) -> Iterator[Answer | Failure]:
        """See `Executor.answers`."""
        futures = [self._submit(question) for question in questions]
        tries, begun = Counter[int](), dict[str, float]()
        try:
            for number in range(len(questions)):
                while True:
                    answer = self._wait(futures, number, begun, stop)
                    if answer is None:
                        return
                    tries[number] += 1
                    if not isinstance(answer, Failure) or not answer.retry or tries[number] >= attempts:
                        break
                    futures[number] = self._submit(questions[number])
                yield answer
        finally:
            self.client.cancel(futures)

    def _submit(self, question: Question) -> Any:
        """The engine goes with every question: data that was scattered before is lost with the workers that hold it."""
        return self.client.submit(_answer, self.engine, question, self.folder, pure=False, retries=0)

    def _wait(self, futures: list[Any], number: int, begun: dict[str, float], stop: StopRequest) -> Answer | Failure | None:
        """The answer of one question; None where a stop was requested before it came. A worker that hangs is restarted."""
        future = futures[number]
        while not future.done():
            if stop.pending():
                return None
            threads = self.client.nthreads()  # a worker holds more questions than it answers at once
            running = {key: one for one, keys in self.client.processing().items() for key in list(keys)[: threads.get(one, 1)]}
            if future.key in running:
                begun.setdefault(future.key, time.monotonic())
            if time.monotonic() - begun.get(future.key, time.monotonic()) > self.seconds:
                self.client.cancel([future])
                with suppress(Exception):
                    self.client.restart_workers([running[future.key]])
                return Failure(reason=f"no answer within {self.seconds:g} s", retry=True)
            time.sleep(_LOOK_S)
        try:
            answer = future.result()
        except Exception as error:
            return Failure(reason=f"the worker process died or failed ({type(error).__name__}: {str(error)[:200]})", retry=True)
        if isinstance(answer, dict):
            raise raised(answer)
        return answer

    def close(self) -> None:
        """Leave the scheduler; its workers stay."""
        self.client.close()


def _answer(engine: Engine, question: Question, folder: Path) -> Any:
    """One answer, in a worker; an error that ends the job as a dictionary."""
    try:
        return ask(engine, question, folder)
    except MdistillError as error:
        return sent(error)
    except Exception as error:
        return Failure(reason=f"{type(error).__name__}: {error}", retry=True)

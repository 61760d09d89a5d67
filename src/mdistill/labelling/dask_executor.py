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
_TAKE_S = 30.0
"""Time to fetch an answer. Where its worker died meanwhile, Dask may wait for it without end."""


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
        futures = {number: self._submit(question) for number, question in enumerate(questions)}
        tries, begun, ready = Counter[int](), dict[str, float](), dict[int, Answer | Failure]()
        try:
            for number in range(len(questions)):
                while number not in ready:
                    for one, answer in self._look(futures, begun):
                        tries[one] += answer is not None
                        if answer is None or (isinstance(answer, Failure) and answer.retry and tries[one] < attempts):
                            futures[one] = self._submit(questions[one])
                        else:
                            ready[one] = answer
                    if number not in ready:
                        if stop.pending():
                            return
                        time.sleep(_LOOK_S)
                yield ready.pop(number)
        finally:
            self.client.cancel(list(futures.values()))

    def _submit(self, question: Question) -> Any:
        """The engine goes with every question: data that was scattered before is lost with the workers that hold it."""
        return self.client.submit(_answer, self.engine, question, self.folder, pure=False, retries=0)

    def _look(self, futures: dict[int, Any], begun: dict[str, float]) -> list[tuple[int, Answer | Failure | None]]:
        """Take the answers that have come (None: lost), because a worker that dies takes all it holds with it. A worker that
        hangs is restarted, and its question failed.

        Args:
            futures: What is not answered, by number of the question; what is answered is taken out.
            begun: Time at which a worker began each, by key; filled in.
        """
        found = [(number, _taken(futures.pop(number))) for number, future in list(futures.items()) if future.done()]
        threads = self.client.nthreads()  # a worker holds more questions than it answers at once
        running = {key: one for one, keys in self.client.processing().items() for key in list(keys)[: threads.get(one, 1)]}
        for number, future in list(futures.items()):
            if future.key in running and time.monotonic() - begun.setdefault(future.key, time.monotonic()) > self.seconds:
                self.client.cancel([futures.pop(number)])
                with suppress(Exception):
                    self.client.restart_workers([running[future.key]])
                found.append((number, Failure(reason=f"no answer within {self.seconds:g} s", retry=True)))
        return found

    def close(self) -> None:
        """Leave the scheduler; its workers stay."""
        self.client.close()


def _taken(future: Any) -> Answer | Failure | None:
    """The answer of a future that is done; raises the error that ends the job."""
    try:
        answer = future.result(timeout=_TAKE_S)
    except TimeoutError:
        return None
    except Exception as error:
        return Failure(reason=f"the worker process died or failed ({type(error).__name__}: {str(error)[:200]})", retry=True)
    if isinstance(answer, dict):
        raise raised(answer)
    return answer


def _answer(engine: Engine, question: Question, folder: Path) -> Any:
    """One answer, in a worker; an error that ends the job as a dictionary."""
    try:
        return ask(engine, question, folder)
    except MdistillError as error:
        return sent(error)
    except Exception as error:
        return Failure(reason=f"{type(error).__name__}: {error}", retry=True)

"""Jobs side by side in threads of this process, for work in compiled code, which frees the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from mdistill.errors import Interrupted
from mdistill.interrupt import NEVER, StopRequest

Result = TypeVar("Result")


@dataclass(slots=True)
class _Shared(StopRequest):
    """A request that is pending when its parent is, or once a job failed."""

    parent: StopRequest = field(default_factory=StopRequest)
    failed: bool = False

    def pending(self) -> bool:
        return self.failed or self.parent.pending()

    def raise_if_pending(self) -> None:
        self.parent.raise_if_pending()
        if self.failed:
            raise Interrupted("stopped: another run failed; everything so far is saved")


def side_by_side(jobs: Sequence[Callable[[StopRequest], Result]], *, stop: StopRequest = NEVER) -> list[Result]:
    """Call every job, as many at once as torch has threads, each with one thread; returns their results in order.

    Raises:
        Exception: That of the first job that failed, once the others have saved and stopped.
        Interrupted: A stop was requested.
    """
    threads, shared = torch.get_num_threads(), _Shared(parent=stop)

    def call(job: Callable[[StopRequest], Result]) -> Result:
        shared.raise_if_pending()
        try:
            return job(shared)
        except Exception:
            shared.failed = True
            raise

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=threads) as pool:
            futures: list[Future[Result]] = [pool.submit(call, job) for job in jobs]
            errors = [error for error in (future.exception() for future in futures) if error is not None]
    finally:
        torch.set_num_threads(threads)
    own = [error for error in errors if not isinstance(error, Interrupted)]
    for error in own or errors:
        raise error
    return [future.result() for future in futures]

"""The runs of a campaign at work: a process for each, here side by side, by Dask, by executorlib, or by a job of SLURM.

A run is `mdistill distill` in a process of its own, which ends with its parent. Whoever starts it writes its record.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mdistill.campaign.plan import Campaign, Record, open_campaign
from mdistill.errors import BadInput, MissingPackage
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import this_host
from mdistill.runs.lock import working
from mdistill.runs.results import read_results
from mdistill.settings import to_json

_LOOK_S = 0.2
_SAVE_S = 120.0
"""Time (s) for a run to save after a stop request."""
_CHILD = "from mdistill.processes import end_with_parent; end_with_parent({parent}); from mdistill.cli import main; main()"
_STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


@dataclass(slots=True)
class Attempt:
    """One attempt of a run, in a process of its own."""

    campaign: Campaign
    name: str
    process: subprocess.Popen[bytes]
    before: Record
    began: float
    offset: int
    stopping: float | None = None

    def outcome(self) -> Record | None:
        """Its record once it has ended."""
        number, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if number == 0:
            if self.stopping is not None and time.monotonic() - self.stopping > _SAVE_S:
                self.kill()
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        minutes, cpu = (time.time() - self.began) / 60.0, (usage.ru_utime + usage.ru_stime) / 60.0
        record = judged(self.campaign, self.name, self.process.returncode, self.offset)
        record = replace(
            record, attempts=self.before.attempts + 1, minutes=self.before.minutes + minutes,
            cpu_minutes=self.before.cpu_minutes + cpu, process=self.process.pid, host=this_host(),
        )  # fmt: skip
        self.campaign.keep(self.name, record)
        return record

    def stop(self) -> None:
        """Ask it to save and end."""
        if self.stopping is None:
            self.stopping = time.monotonic()
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def begin(campaign: Campaign, name: str, flags: Sequence[str] = ()) -> Attempt:
    """Start a run, or go on with it.

    Args:
        campaign: The campaign.
        name: Name of the run.
        flags: Flags for `mdistill distill`, such as --update.
    """
    folder, log = campaign.run(name), campaign.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    hours = [] if campaign.max_hours is None else ["--max-hours", f"{campaign.max_hours:g}"]
    words = ["distill", str(campaign.settings_file(name)), "--out", str(folder), "--threads", "1", *hours, *flags]
    code = _CHILD.format(parent=os.getpid())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("MDISTILL_QUIET", None)
    with open(log, "ab") as output:
        offset = output.tell()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", code, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )  # fmt: skip
    before = campaign.record(name)
    campaign.keep(name, replace(before, state="running", status=None, reason="", process=process.pid, host=this_host()))
    return Attempt(campaign, name, process, before, time.time(), offset)


def judged(campaign: Campaign, name: str, status: int, offset: int) -> Record:
    """State and reason of a run from the exit status of its process."""
    if status in (0, 4):
        try:
            failed = [gate.name for gate in read_results(campaign.run(name)).gates if not gate.passed]
        except BadInput as error:
            return Record(state="failed", status=status, reason=str(error))
        return Record(state="done", status=status, reason=f"failed: {', '.join(failed)}" if failed else "")
    if status in _STOPPED:
        return Record(state="stopped", status=status, reason="stopped after saving; it resumes")
    if status < 0:
        told = signal.Signals(-status).name + (", often for lack of memory" if status == -signal.SIGKILL else "")
        return Record(state="failed", status=status, reason=f"the process was killed by {told}")
    return Record(state="failed", status=status, reason=_said(campaign.log(name), offset) or f"exit status {status}")


def _said(log: Path, offset: int) -> str:
    """The last error in a log."""
    with open(log, "rb") as file:
        file.seek(offset)
        text = file.read().decode("utf-8", errors="replace")
    lines = text.splitlines()
    starts = [k for k, line in enumerate(lines) if line.startswith("mdistill distill: ")]
    if not starts:
        return lines[-1].strip() if lines else ""
    first = starts[-1]
    rest = [line for line in lines[first + 1 :] if line.startswith("  ")]
    return "\n".join([lines[first].removeprefix("mdistill distill: "), *rest])


class Pool(Protocol):
    """Runs at work, by name."""

    at_work: dict[str, Any]

    def free(self) -> bool: ...
    def start(self, name: str) -> None: ...
    def finished(self) -> Iterator[tuple[str, Record]]: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Here:
    """Processes on this machine, this many at once."""

    campaign: Campaign
    workers: int
    flags: Sequence[str] = ()
    at_work: dict[str, Attempt] = field(default_factory=dict)

    def free(self) -> bool:
        return len(self.at_work) < self.workers

    def start(self, name: str) -> None:
        self.at_work[name] = begin(self.campaign, name, self.flags)

    def finished(self) -> Iterator[tuple[str, Record]]:
        for name, attempt in list(self.at_work.items()):
            if (record := attempt.outcome()) is not None:
                del self.at_work[name]
                yield name, record

    def stop(self) -> None:
        for attempt in self.at_work.values():
            attempt.stop()

    def close(self) -> None:
        for attempt in self.at_work.values():
            attempt.kill()


@dataclass(slots=True)
class Distributed:
    """Runs as tasks of a queue elsewhere, which decides how many at once. All machines see the folder under one path.

    Attributes:
        place: Name of the queue.
        submit: Function and its arguments → a future.
        slots: How many tasks are worth having there.
        shut: Called at the end.
    """

    campaign: Campaign
    place: str
    submit: Callable[..., Any]
    slots: Callable[[], int]
    shut: Callable[[], object]
    flags: Sequence[str] = ()
    at_work: dict[str, Any] = field(default_factory=dict)

    def free(self) -> bool:
        return len(self.at_work) < self.slots()

    def start(self, name: str) -> None:
        _stop_file(self.campaign, name).unlink(missing_ok=True)
        self.at_work[name] = self.submit(task, str(self.campaign.folder.resolve()), name, list(self.flags))

    def finished(self) -> Iterator[tuple[str, Record]]:
        for name, future in list(self.at_work.items()):
            if not future.done():
                continue
            del self.at_work[name]
            if not future.cancelled() and (error := future.exception()) is None:
                yield name, Record(**future.result())
                continue
            reason = "stopped" if future.cancelled() else f"{self.place}: {error}"
            record = replace(self.campaign.record(name), state="failed", status=-signal.SIGKILL, reason=reason)
            if future.cancelled():
                record = replace(record, state="stopped", status=None)
            self.campaign.keep(name, record)
            yield name, record

    def stop(self) -> None:
        for name, future in self.at_work.items():
            if not (stop := _stop_file(self.campaign, name)).exists():
                stop.touch()
            if self.campaign.record(name).state != "running":
                future.cancel()

    def close(self) -> None:
        self.shut()


def on_dask(campaign: Campaign, client: Any, flags: Sequence[str]) -> Distributed:
    """Tasks of a Dask cluster, two for each thread of its workers."""

    def submit(work: Callable[..., Any], folder: str, name: str, more: list[str]) -> Any:
        return client.submit(work, folder, name, more, key=f"mdistill-{name}-{time.time_ns()}", pure=False)

    return Distributed(campaign, "Dask", submit, lambda: 2 * max(1, sum(client.nthreads().values())), client.close, flags)


def on_executorlib(campaign: Campaign, kind: str, flags: Sequence[str]) -> Distributed:
    """Tasks of one core by an executor of executorlib: all of them at once, in its queue.

    Raises:
        MissingPackage: executorlib is absent.
        BadInput: It has no such executor, or cannot start it.
    """
    try:
        import executorlib
    except ImportError as error:
        raise MissingPackage("executorlib", 'pip install "mdistill[executorlib]"', "--workers executorlib:…") from error
    known = sorted(name for name in dir(executorlib) if name.endswith("Executor") and name != "BaseExecutor")
    if kind not in known:
        raise BadInput("--workers", f"executorlib:{kind}", allowed=", ".join(known), fix=f"--workers executorlib:{known[-1]}")
    try:
        executor: Any = getattr(executorlib, kind)(resource_dict={"cores": 1})
    except Exception as error:
        fix = "run this where the scheduler is, or with another executor"
        raise BadInput("--workers", f"executorlib:{kind}: {error}", allowed="an executor that starts here", fix=fix) from error
    return Distributed(
        campaign, "executorlib", executor.submit, lambda: len(campaign.jobs), partial(executor.shutdown, wait=False), flags
    )


def _stop_file(campaign: Campaign, name: str) -> Path:
    return campaign.folder / "jobs" / f"{name}.stop"


def task(folder: str, name: str, flags: list[str]) -> dict[str, Any]:
    """A run as a task elsewhere. A worker that dies leaves a run that another worker continues."""
    campaign = open_campaign(Path(folder))
    until = time.monotonic() + _SAVE_S
    while working(campaign.run(name)) is not None and time.monotonic() < until:
        time.sleep(_LOOK_S)
    record: dict[str, Any] = to_json(one(campaign, name, flags, asked=_stop_file(campaign, name).exists))
    return record


def one(
    campaign: Campaign, name: str, flags: Sequence[str] = (), *, stop: StopRequest = NEVER,
    asked: Callable[[], bool] = lambda: False,
) -> Record:  # fmt: skip
    """Do one run, until it ends or a stop is requested.

    Raises:
        BadInput: Another process works on it.
    """
    if (holder := working(campaign.run(name))) is not None:
        problem = f"process {holder.get('process')} on {holder.get('host')} works on it"
        raise BadInput(campaign.run(name), problem, allowed="one process for a run", fix="wait for it")
    attempt = begin(campaign, name, flags)
    try:
        while (record := attempt.outcome()) is None:
            if stop.pending() or asked():
                attempt.stop()
            time.sleep(_LOOK_S)
    except BaseException:
        attempt.kill()
        raise
    return record


def run_queue(
    campaign: Campaign, pool: Pool, names: Sequence[str], *, stop: StopRequest = NEVER,
    tell: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Do these runs. One whose process dies is repeated, at most `campaign.attempts` times in all.

    Args:
        campaign: The campaign.
        pool: Where they run.
        names: Their names, first first.
        stop: Checked a few times a second; the runs at work then save and end.
        tell: Called a few times a second.
    Raises:
        Interrupted: A stop was requested.
    """
    waiting, tries = deque(names), Counter[str]()
    try:
        while waiting or pool.at_work:
            if stop.pending():
                waiting.clear()
                pool.stop()
            held = 0
            while waiting and pool.free() and held < len(waiting):
                name = waiting.popleft()
                if working(campaign.run(name)) is None:
                    tries[name] += 1
                    pool.start(name)
                else:  # another process, such as one of a driver that was killed, still saves
                    waiting.append(name)
                    held += 1
            for name, record in pool.finished():
                if (
                    record.state == "failed"
                    and (record.status or 0) < 0
                    and tries[name] < campaign.attempts
                    and not stop.pending()
                ):
                    waiting.append(name)
            tell()
            time.sleep(_LOOK_S)
    finally:
        pool.close()
    stop.raise_if_pending()

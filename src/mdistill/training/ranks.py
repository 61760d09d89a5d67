"""Training on several processes, started by torchrun: the only module that calls torch.distributed.

Every process (rank) runs the same command on the same labels. It takes its share of every batch; sums over ranks (`total`, `add`)
make losses and gradients those of the whole batch, so the weights stay equal. Rank 0 alone writes files and prints. No rank waits
longer than `_TIMEOUT` for another, and one that ends takes the others with it. A process that is alone does nothing here.

The ranks of a process are a fact of the process, as torch.distributed has it: `here()` tells them, `joined()` joins them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from mdistill.errors import BadInput, Interrupted, MdistillError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_TIMEOUT = timedelta(minutes=10)
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""What torchrun sets, and no other launcher."""
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process by its environment."""


class LostRank(MdistillError):
    """Another rank ended or does not answer; `reported`: it told why, and reports it itself."""

    def __init__(self, message: str, *, reported: bool) -> None:
        self.reported = reported
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Number of this process among all that train together."""

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def owns(self, place: int) -> bool:
        """Whether the item at this place of a batch is in the share of this rank."""
        return place % self.count == self.rank

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """The items of a batch that this rank evaluates; none where the batch is small."""
        return batch if self.alone else batch[self.rank :: self.count]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks, which takes the place of the values."""
        if self.alone:
            return values
        import torch.distributed as dist

        with _together():
            dist.all_reduce(values)
        return values

    def add(self, tensors: Sequence[Tensor], *numbers: float) -> list[float]:
        """Replace tensors by their sums over all ranks, and return those of the numbers: one message."""
        if self.alone:
            return list(numbers)
        import torch

        flat = self.total(torch.cat([*(t.flatten() for t in tensors), tensors[0].new_tensor(numbers)]))
        *sums, last = flat.split([*(t.numel() for t in tensors), len(numbers)])
        for tensor, summed in zip(tensors, sums, strict=True):
            tensor.copy_(summed.view_as(tensor))
        return [float(number) for number in last]

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of rank 0."""
        if self.alone:
            return
        import torch.distributed as dist

        with _together():
            for tensor in tensors:
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, 0)
                tensor.detach().copy_(sent)

    def told(self, value: T) -> T:
        """The value (JSON) of rank 0."""
        if self.alone:
            return value
        import torch

        text = json.dumps(value).encode()
        length = torch.tensor([len(text)])
        self.copy([length])
        held = torch.frombuffer(bytearray(text.ljust(int(length))[: int(length)]), dtype=torch.uint8)
        self.copy([held])
        told: T = json.loads(bytes(held.tolist()))
        return told

    def differing(self, content: bytes) -> list[int]:
        """Ranks whose content is not that of rank 0; the same answer on all."""
        if self.alone:
            return []
        import torch

        digests = torch.zeros(self.count, dtype=torch.int64)
        digests[self.rank] = int.from_bytes(hashlib.sha256(content).digest()[:7], "little")
        return [rank for rank, digest in enumerate(self.total(digests).tolist()) if digest != int(digests[0])]


ALONE = Ranks()
_HERE: list[Ranks] = [ALONE]
_STORE: list[Any] = []
"""Messages between ranks that outlive them: why one ended, and which message was printed."""


def here() -> Ranks:
    """This process among those that it joined; `ALONE` outside of `joined`."""
    return _HERE[-1]


def launched() -> Ranks:
    """This process by its environment."""
    if any(not os.environ.get(name) for name in _LAUNCHED):
        return ALONE
    rank, count = (os.environ[name] for name in _LAUNCHED[:2])
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        fix = "start with torchrun, or without these variables"
        raise BadInput("RANK, WORLD_SIZE", f"{rank}, {count}", allowed="whole numbers, 0 ≤ RANK < WORLD_SIZE", fix=fix)
    return Ranks(int(rank), int(count))


def refuse_torchrun(command: str) -> None:
    """Refuse to run a command of one process in several. Variables that a cluster sets in every job mean nothing here.

    Raises:
        BadInput: torchrun started it in several processes; rank 0 alone says so.
    """
    ranks = launched() if TORCHRUN in os.environ else ALONE
    if not ranks.first:
        raise SystemExit(2)
    if not ranks.alone:
        allowed, fix = "mdistill train", f"mdistill {command} without torchrun"
        raise BadInput("torchrun", f"{ranks.count} processes for mdistill {command}", allowed=allowed, fix=fix)


@contextmanager
def joined(timeout: timedelta = _TIMEOUT) -> Iterator[Ranks]:
    """Within the block this process is one of those that the launcher started; one that is alone is left as it is.

    Ranks other than 0 print nothing. Of an error that all meet one speaks; an error of one rank ends all.

    Raises:
        MdistillError: The others cannot be reached, or one ended.
    """
    ranks = launched()
    if ranks.alone:
        yield ALONE
        return
    import torch.distributed as dist

    _join(ranks, timeout)
    try:
        if ranks.first:
            yield ranks
        else:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                yield ranks
    except BaseException as error:
        if isinstance(error, SystemExit) or _speaks(ranks, error):
            raise
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 1)) from error
    finally:
        _HERE.pop()
        _STORE.clear()
        dist.destroy_process_group()


def _join(ranks: Ranks, timeout: timedelta) -> None:
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        _STORE.append(dist.PrefixStore("mdistill", store))
        dist.init_process_group("gloo", store=store, rank=ranks.rank, world_size=ranks.count, timeout=timeout)
    except RuntimeError as error:
        place = ":".join(os.environ[name] for name in _LAUNCHED[2:])
        raise MdistillError(
            f"rank {ranks.rank} of {ranks.count} cannot reach the others at {place}: {_first_line(error)}\n"
            "  fix: check the address that the launcher was given; GLOO_SOCKET_IFNAME names the network interface"
        ) from error
    _HERE.append(ranks)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> LostRank:
    """Which ranks ended with which error, as far as they told."""
    told = []
    with suppress(Exception):  # the store may have ended with its rank
        for rank in range(here().count):
            if _STORE[0].check([f"ended {rank}"]):
                told.append(f"rank {rank} ended: {_STORE[0].get(f'ended {rank}').decode()}")
    if told:
        return LostRank("\n".join(told), reported=True)
    return LostRank(
        f"another process of the training has ended or does not answer (rank {here().rank} noticed: {_first_line(error)}).\n"
        "  cause: killed, out of memory, or its machine or network was lost; the launcher tells which rank\n"
        "  fix: run the same command again, it resumes; also with another number of processes",
        reported=False,
    )


def _speaks(ranks: Ranks, error: BaseException) -> bool:
    """Whether this rank is the one that reports the error. It tells the others of it."""
    if isinstance(error, Interrupted):
        return ranks.first
    text, subject = str(error) or type(error).__name__, "lost"
    try:
        if not isinstance(error, LostRank):
            _STORE[0].set(f"ended {ranks.rank}", text)
            subject = hashlib.sha256(text.encode()).hexdigest()
        elif error.reported:
            return False
        first: bool = _STORE[0].add(f"printed {subject}", 1) == 1
        return first
    except RuntimeError:  # the store ended with rank 0, which reported an error that all met
        return ranks.first or isinstance(error, LostRank)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

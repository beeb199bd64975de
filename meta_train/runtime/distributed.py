"""The processes of one meta-training run: which runs are whose, and how results come together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from meta_train.runtime.device import choose_device

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long processes wait for the first one's validation; a lost one is noticed without it."""


class ProcessLost(RuntimeError):
    """Another process of the run has ended in the middle of it."""


class FailedOnOtherRank(RuntimeError):
    """The run has ended with an error that another process reports; the cause is this one's."""


@dataclass(frozen=True)
class DistributedContext:
    """This process among all processes (alone by default).

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """This process's part of `total` runs.

        Raises:
            ValueError: fewer runs than processes.
        """
        if total < self.size:
            raise ValueError(f"runs={total} cannot be shared by {self.size} processes: give more")
        return range(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum over processes, in one message.

        Raises:
            ProcessLost: another process has ended.
        """
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _noticing_loss():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def gather(self, thing: Any) -> list[Any]:
        """Everyone's `thing`, in the order of ranks, for the first process; others get nothing.

        Raises:
            ProcessLost: another process has ended.
        """
        if self.size == 1:
            return [thing]
        everyones: list[Any] | None = [None] * self.size if self.first else None
        with _noticing_loss():
            dist.gather_object(thing, everyones, dst=0)
        return everyones or []

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in every process.

        Raises:
            Exception: in every process, what `make` raises in the first.
            ProcessLost: another process has ended.
        """
        if self.size == 1:
            return make()
        made: T | None = None
        failure: Exception | None = None
        if self.first:
            try:
                made = make()
            except Exception as error:
                failure = error
        message: list[Any] = [made, failure]
        with _noticing_loss():
            dist.broadcast_object_list(message, src=0)
        if message[1] is not None:
            raise message[1]
        result: T = message[0]
        return result


def started_first() -> bool:
    """Whether this is the first process, asked before it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: torch.device | str) -> Iterator[tuple[DistributedContext, torch.device]]:
    """Join the other processes that `torchrun` started; alone without it.

    An error in any process ends all of them, and one of them alone raises it as it is.

    Args:
        device: where to train; of several GPUs each process takes its own.

    Yields:
        This process among all, and its device.

    Raises:
        ValueError: no such device, or fewer GPUs than processes.
        FailedOnOtherRank: another process has failed first, and reports it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield DistributedContext(), choose_device(device)
        return
    store, rank, size = next(iter(rendezvous("env://", timeout=PATIENCE)))
    try:
        chosen = _own_device(choose_device(device))
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
        yield DistributedContext(rank, size), chosen
    except BaseException as error:
        # `torchrun` ends the others at once when a process dies: not before they have said so.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # The connections break when this process leaves: say whose error it is before that.
        if _is_first_to_fail(store, rank):
            raise
        raise FailedOnOtherRank("another process has reported why") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_device(device: torch.device) -> torch.device:
    """Of several GPUs the one of this process.

    Raises:
        ValueError: there is none for it.
    """
    if device.type != "cuda" or device.index is not None:
        return device
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"process {local} of this machine has no GPU of its own, there are {count}: start as "
            "many processes as GPUs"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _is_first_to_fail(store: Store, rank: int) -> bool:
    try:
        return bool(store.compare_set("first to fail", "", str(rank)) == str(rank).encode())
    except RuntimeError:  # the store went with its process: better twice than never
        return True


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            f"another process of this run has ended ({str(error).splitlines()[0]})"
        ) from error

"""The processes of one meta-training: their share of the inner runs, and their messages."""

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
"""How long processes wait for the validation in the first one; a lost process is noticed sooner."""


class ProcessLost(RuntimeError):
    """Another process of this meta-training ended unexpectedly."""


class FailedOnOtherRank(RuntimeError):
    """Another process failed first and reports the error; `__cause__` is this process's error."""


@dataclass(frozen=True)
class DistributedContext:
    """This process and the number of all processes; by default it is alone.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """This process's share of `total` inner runs.

        Raises:
            ValueError: fewer runs than processes.
        """
        if total < self.size:
            raise ValueError(
                f"runs={total} cannot be shared by {self.size} processes: increase runs"
            )
        return range(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum tensors over processes, in one message.

        Raises:
            ProcessLost: another process ended.
        """
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _noticing_loss():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def gather(self, thing: Any) -> list[Any]:
        """Collect each process's `thing` in the first process.

        Returns:
            The things in the order of ranks; an empty list in the other processes.

        Raises:
            ProcessLost: another process ended.
        """
        if self.size == 1:
            return [thing]
        everyones: list[Any] | None = [None] * self.size if self.first else None
        with _noticing_loss():
            dist.gather_object(thing, everyones, dst=0)
        return everyones or []

    def from_first(self, make: Callable[[], T]) -> T:
        """Call `make` in the first process, and return its result in every process.

        Raises:
            Exception: raised by `make` in the first process, in every process.
            ProcessLost: another process ended.
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
    """Whether this is the first process; works before `joined`."""
    return os.environ.get("RANK", "0") == "0"


def started_alone() -> DistributedContext:
    """The context of a process that is alone.

    Raises:
        ValueError: `torchrun` started several processes; the message says how to join them.
    """
    if (size := started_processes()) > 1:
        raise ValueError(
            f"torchrun started {size} processes, and each would do all the work: write `with "
            "meta_train.runtime.distributed.joined(device) as (distributed, device):` around "
            "MetaTrainer(..., device=device, distributed=distributed)"
        )
    return DistributedContext()


def started_processes() -> int:
    """Number of processes that `torchrun` started; 1 without it."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


@contextmanager
def joined(device: torch.device | str) -> Iterator[tuple[DistributedContext, torch.device]]:
    """Join the processes that `torchrun` started; without `torchrun` this process is alone.

    An error in any process ends all of them. Only the process that failed first raises its error.

    Examples:
        >>> with joined("auto") as (distributed, device):
        ...     trainer = MetaTrainer(
        ...         rule, task, settings, folder="run", device=device, distributed=distributed
        ...     )
        ...     rule = trainer.train()

    Args:
        device: device of training; with several GPUs each process takes its own.

    Yields:
        The context of this process, and its device.

    Raises:
        ValueError: no such device, or fewer GPUs than processes.
        FailedOnOtherRank: another process failed first and reports the error.
    """
    if started_processes() == 1:
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
        # When a process dies, `torchrun` terminates the others: let this one report first.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Others fail as soon as this process leaves: find out whose error it is before that.
        if _is_first_to_fail(store, rank):
            raise
        raise FailedOnOtherRank("another process has reported why") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_device(device: torch.device) -> torch.device:
    """The GPU of this process, if there are several.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    if device.type != "cuda" or device.index is not None:
        return device
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"process {local} has no GPU of its own, this machine has {count}: start one process "
            "per GPU"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _is_first_to_fail(store: Store, rank: int) -> bool:
    try:
        return bool(store.compare_set("first to fail", "", str(rank)) == str(rank).encode())
    except RuntimeError:  # the store is gone with its process: report rather twice than never
        return True


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            f"another process of this run ended ({str(error).splitlines()[0]})"
        ) from error

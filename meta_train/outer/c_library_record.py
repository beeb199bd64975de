"""Which C library a meta-training computes with: its last digits depend on it.

C takes part in float32 on the CPU: steps of populations of a rule, LSTM cells with their
derivative, convolutions and batch normalisation. A checkpoint records the library. A run may go on
with another one, as on another machine, and says so.
"""

from __future__ import annotations

from typing import Any

import torch

from learned_opt.c_library import library_level
from meta_train.runtime.distributed import DistributedContext

NONE = "none"
"""The record of a run without C."""


def libraries_in_use(
    device: torch.device, dtype: torch.dtype, distributed: DistributedContext
) -> str:
    """The C library of this meta-training: avx512, avx2, generic or none. All processes call it.

    Where processes differ, each kind once: "avx2, avx512".
    """
    fits = device.type == "cpu" and dtype == torch.float32
    own = (library_level() if fits else None) or NONE
    everyones = distributed.gather(own)
    return distributed.from_first(lambda: ", ".join(sorted(set(everyones))))


def library_changed(recorded: Any, now: str) -> str | None:
    """A line that says that a run goes on with another C library; None if it does not.

    Args:
        recorded: in the checkpoint; None in those of earlier versions, of which nothing is known.
        now: see `libraries_in_use`.
    """
    if recorded is None or recorded == now:
        return None
    return (
        f"C library: {recorded} in the checkpoint, {now} now. The last digits may differ from "
        "those of the unbroken run"
    )

"""How inner runs begin and end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from meta_train.inner.horizons import Horizons
from meta_train.inner.imitation import Teacher


@dataclass(frozen=True)
class RunPlan:
    """What is the same for all inner runs of a meta-training.

    Attributes:
        horizons: their lengths.
        truncation_length: inner steps per outer step, to which lengths are rounded up; None for
            whole runs.
        copies: runs that share each problem and its batches (2: an antithetic pair).
        restart: a new run goes on, with this probability, from where an earlier one ended (see
            `RestartBuffer`).
        dtype: of parameters and batches; None leaves them as the task made them.
        teacher: see `InnerLoop`.
        vectorize: see `choose_vectorize`.
    """

    horizons: Horizons
    truncation_length: int | None = None
    copies: int = 1
    restart: float = 0.0
    dtype: torch.dtype | None = None
    teacher: Teacher | None = None
    vectorize: str = "auto"

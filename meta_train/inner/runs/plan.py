"""Settings that say how inner runs begin and end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from meta_train.inner.imitation import Teacher
from meta_train.inner.runs.horizons import Horizons


@dataclass(frozen=True)
class RunPlan:
    """How all inner runs of a meta-training begin and end.

    Attributes:
        horizons: lengths of runs, in inner steps.
        truncation_length: inner steps per outer step, for runs that continue from one outer step to
            the next; lengths are rounded up to multiples of it. None takes whole runs.
        copies: runs that share each problem and its batches (2: an antithetic pair).
        restart: probability that a new run continues from the end of an earlier one (see
            `RestartBuffer`).
        dtype: floating-point type of parameters and batches; None keeps the task's.
        teacher: see `LoopSettings`; the state of the teacher's rule is part of each run.
        vectorize: "auto", "always" or "never"; see `choose_vectorize`.
    """

    horizons: Horizons
    truncation_length: int | None = None
    copies: int = 1
    restart: float = 0.0
    dtype: torch.dtype | None = None
    teacher: Teacher | None = None
    vectorize: str = "auto"

"""Meta-objectives: functions of the inner losses that meta-training minimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

TAIL = 0.1
"""Fraction of an inner run that counts as its end in `log-tail`."""
BODY_WEIGHT = 0.2
"""Weight of the mean logarithm over the whole run in `log-tail`."""
SMALLEST = 1e-12
"""Lower bound on losses before a logarithm or root."""


@dataclass(frozen=True)
class Objective:
    """A meta-objective.

    Attributes:
        name: registered name.
        doc: one line for users.
        terms: maps inner losses by step, `[steps, runs]`, to terms `[terms, runs]`. Their mean is
            minimised.
        reads_last_only: reads the last loss only.
        any_sign: takes negative losses; the others need losses of at least 0.
        needs_whole_runs: says nothing about a truncation window.
    """

    name: str
    doc: str
    terms: Callable[[Tensor], Tensor]
    reads_last_only: bool = False
    any_sign: bool = False
    needs_whole_runs: bool = False


def _log(losses: Tensor) -> Tensor:
    return losses.clamp_min(SMALLEST).log()


def _log_tail(losses: Tensor) -> Tensor:
    last = max(1, math.ceil(TAIL * len(losses)))
    end = _log(losses[-last:].mean(0, keepdim=True))
    return end + BODY_WEIGHT * _log(losses).mean(0, keepdim=True)


_OBJECTIVES = (
    Objective(
        "sum",
        "every loss counts as it is (Andrychowicz et al. 2016, arXiv 1606.04474, eq. 3)",
        lambda losses: losses,
        any_sign=True,
    ),
    Objective(
        "sqrt",
        "twice the square root of every loss: between sum and log",
        lambda losses: 2 * losses.clamp_min(SMALLEST).sqrt(),
    ),
    Objective(
        "log",
        "the logarithm of every loss, so that small late losses count as much as early ones "
        "(Wichrowska et al. 2017, arXiv 1703.04813)",
        _log,
    ),
    Objective(
        "last",
        "the loss after the last step (Lv et al. 2017, arXiv 1703.03633; MAML, Finn et al. 2017)",
        lambda losses: losses[-1:],
        reads_last_only=True,
        any_sign=True,
        needs_whole_runs=True,
    ),
    Objective(
        "log-last",
        "the logarithm of the loss after the last step",
        lambda losses: _log(losses[-1:]),
        reads_last_only=True,
        needs_whole_runs=True,
    ),
    Objective(
        "log-tail",
        "the logarithm of the mean over the last tenth, plus a fifth of the mean logarithm",
        _log_tail,
        needs_whole_runs=True,
    ),
)

OBJECTIVES: Mapping[str, Objective] = MappingProxyType({one.name: one for one in _OBJECTIVES})
"""All objectives by name."""


def meta_loss(losses: Tensor, alive: Tensor, objective: Objective) -> Tensor:
    """Return the mean objective of the runs that have not diverged.

    Args:
        losses: `[steps, runs]`.
        alive: runs to count, `[runs]` bool.
        objective: one of `OBJECTIVES`.

    Returns:
        0-dim; 0 without a gradient if every run has diverged.
    """
    # Mask before the objective: its derivative at a diverged loss may not be finite.
    terms = objective.terms(torch.where(alive, losses, torch.ones_like(losses)))
    return mean_over_alive(terms, alive)


def mean_over_alive(terms: Tensor, alive: Tensor) -> Tensor:
    """Return the mean of `[terms, runs]` over the runs that are alive, 0-dim; 0 if none is."""
    counted = torch.where(alive, terms, torch.zeros_like(terms))
    return counted.sum() / (len(terms) * alive.sum().clamp_min(1))


def objective_by_run(losses: Tensor, objective: Objective) -> Tensor:
    """Return the objective of each run, `[runs]`, from losses `[steps, runs]`."""
    return objective.terms(losses).mean(0)

"""Meta-objectives: what an outer gradient makes smaller, as a function of the inner losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""Inner losses by step, `[steps, runs]`, to terms `[terms, runs]` whose mean is made smaller."""

TAIL = 0.1
"""The share of an inner run that counts as its end."""
BODY_WEIGHT = 0.2
"""How much the way counts beside the end."""
SMALLEST = 1e-12


def _log(losses: Tensor) -> Tensor:
    return losses.clamp_min(SMALLEST).log()


def _log_tail(losses: Tensor) -> Tensor:
    last = max(1, math.ceil(TAIL * len(losses)))
    end = _log(losses[-last:].mean(0, keepdim=True))
    return end + BODY_WEIGHT * _log(losses).mean(0, keepdim=True)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "sum": lambda losses: losses,
        "sqrt": lambda losses: 2 * losses.clamp_min(SMALLEST).sqrt(),
        "log": _log,
        "last": lambda losses: losses[-1:],
        "log-last": lambda losses: _log(losses[-1:]),
        "log-tail": _log_tail,
    }
)
"""By name:

- sum: every loss counts as it is (Andrychowicz et al. 2016, arXiv 1606.04474, eq. 3);
- log: its logarithm, so that late, small losses count as much as early ones (Wichrowska et al.
  2017, arXiv 1703.04813);
- sqrt: in between;
- last: the loss after the last step (Lv et al. 2017, arXiv 1703.03633; MAML, Finn et al. 2017);
- log-last: its logarithm;
- log-tail: log of the mean over the last tenth, and a fifth of the mean logarithm.

Those with logarithms or roots need losses that are not negative."""

END_ONLY = frozenset({OBJECTIVES["last"], OBJECTIVES["log-last"]})
"""Objectives that read nothing but the last loss."""

ANY_SIGN = frozenset({"sum", "last"})
"""Objectives that take losses of any sign."""


def meta_loss(losses: Tensor, alive: Tensor, objective: Objective) -> Tensor:
    """The mean objective of the runs that have not diverged.

    Args:
        losses: `[steps, runs]`.
        alive: `[runs]`, bool: runs to count.
        objective: one of `OBJECTIVES`.

    Returns:
        0-dim; 0 without a gradient where every run has diverged.
    """
    # Mask before the objective: its derivative at a diverged loss may not be finite.
    terms = objective(torch.where(alive, losses, torch.ones_like(losses)))
    counted = torch.where(alive, terms, torch.zeros_like(terms))
    return counted.sum() / (len(terms) * alive.sum().clamp_min(1))


def objective_by_run(losses: Tensor, objective: Objective) -> Tensor:
    """The objective of each run alone, `[runs]`, from losses `[steps, runs]`."""
    return objective(losses).mean(0)

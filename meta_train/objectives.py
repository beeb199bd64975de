"""Meta-objectives: what an outer gradient makes smaller, as a function of the inner losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

OBJECTIVES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "sum": lambda losses: losses,
        "sqrt": lambda losses: 2 * losses.clamp_min(1e-12).sqrt(),
        "log": lambda losses: losses.clamp_min(1e-12).log(),
    }
)
"""Per inner loss: itself (Andrychowicz et al. 2016), its logarithm (Wichrowska et al. 2017, arXiv
1703.04813: late, small losses count as much as early ones), or the square root in between. The last
two need losses that are not negative."""


def meta_loss(losses: Tensor, alive: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean objective of the runs that have not diverged.

    Args:
        losses: `[steps, runs]`.
        alive: `[runs]`, bool: runs to count.
        objective: one of `OBJECTIVES`.

    Returns:
        0-dim; 0 without a gradient where every run has diverged.
    """
    # Mask before the objective: its derivative at a diverged loss may not be finite.
    masked = torch.where(alive, losses, torch.ones_like(losses))
    counted = torch.where(alive, objective(masked), torch.zeros_like(losses))
    return counted.sum() / (len(losses) * alive.sum().clamp_min(1))

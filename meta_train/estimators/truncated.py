"""Truncated backpropagation through the unroll (Werbos 1990; Andrychowicz et al. 2016)."""

from __future__ import annotations

from typing import final

from meta_train.estimators.backprop import Backprop


@final
class TruncatedBackprop(Backprop):
    """Differentiates through one window of every run; the next outer step continues the runs.

    States are carried over, but gradients do not reach earlier windows, which biases them (Metz et
    al. 2019, arXiv 1810.10180). The last step of a window is evaluated on a batch of its own.

    Args:
        checkpoint_steps: see `Backprop`.
    """

    continues = True

"""Backpropagation through whole inner runs, without second derivatives."""

from __future__ import annotations

from typing import final

from meta_train.estimators.backprop import Backprop


@final
class FirstOrder(Backprop):
    """Differentiates through every step with the inner gradients as constants.

    With a learned initialisation and SGD this is first-order MAML: the gradient at the adapted
    point (Finn et al. 2017, arXiv 1703.03400, section 5.2). Andrychowicz et al. 2016 (section 2.1)
    and Ravi & Larochelle 2017 train LSTM rules this way.

    Args:
        checkpoint_steps: see `Backprop`.
    """

    second_order = False
    has_memory_modes = True
    allows_zero_steps = True

"""Whole inner runs with second derivatives dropped."""

from __future__ import annotations

from meta_train.estimators.full import FullBackprop


class FirstOrder(FullBackprop):
    """Backpropagation through the unroll in which the inner gradients count as constants.

    With a learned initialisation and SGD this is first-order MAML: the gradient at the adapted
    point (Finn et al. 2017, arXiv 1703.03400, section 5.2). With an LSTM rule it is what
    Andrychowicz et al. 2016 (section 2.1) and Ravi & Larochelle 2017 train with.

    Args:
        segment: see `FullBackprop`.
    """

    second_order = False

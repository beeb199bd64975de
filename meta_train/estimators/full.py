"""Backpropagation through whole inner runs."""

from __future__ import annotations

from typing import final

from meta_train.estimators.backprop import Backprop


@final
class FullBackprop(Backprop):
    """Differentiates through every step of inner training: exact, at the memory of all steps.

    With a learned initialisation and SGD this is MAML (Finn et al. 2017, arXiv 1703.03400, eq. 1).

    Args:
        checkpoint_steps: see `Backprop`.
    """

    has_memory_modes = True
    allows_zero_steps = True

"""Persistent evolution strategies: truncation windows without truncation bias."""

from __future__ import annotations

from typing import final

from meta_train.estimators.antithetic_es import AntitheticES


@final
class PersistentES(AntitheticES):
    """Evolution strategies on windows (Vicol et al. 2021, arXiv 2112.13835, algorithm 2).

    Both runs of a pair continue from window to window, each time under a new perturbation. The
    difference of their losses in a window is multiplied by the sum of all perturbations since they
    began. Over an inner run this adds up to the gradient of the whole run's smoothed loss, at the
    time and memory of a window. For objectives that are sums over steps.

    Args:
        sigma: see `AntitheticES`.
        clip: see `AntitheticES`.
        penalty: see `AntitheticES`.
        soft_sign: see `AntitheticES`.
        floor: see `AntitheticES`.
        base_loss_weight: see `AntitheticES`.
    """

    continues = True

"""Evolution strategies over whole inner runs."""

from __future__ import annotations

from typing import final

from meta_train.estimators.antithetic_es import AntitheticES


@final
class EvolutionStrategies(AntitheticES):
    """Antithetic evolution strategies (Rechenberg 1973; Salimans et al. 2017, arXiv 1703.03864).

    g = mean over pairs of (F(theta + eps) - F(theta - eps)) / (2 sigma^2) eps, eps ~ N(0, sigma^2):
    an unbiased gradient of F smoothed by the noise. Long or chaotic inner training does not make it
    explode (Metz et al. 2019, arXiv 1810.10180). No graph is kept: memory is that of one step.

    Args:
        sigma: see `AntitheticES`.
        clip: see `AntitheticES`.
        penalty: see `AntitheticES`.
        soft_sign: see `AntitheticES`.
        floor: see `AntitheticES`.
        base_loss_weight: see `AntitheticES`.
    """

    allows_zero_steps = True

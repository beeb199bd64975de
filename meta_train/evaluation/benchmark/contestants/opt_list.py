"""The first ten of a list of optimizers that was learned on 1,024 tasks.

Metz et al. 2020, "Using a thousand optimization tasks to learn hyperparameter search strategies"
(arXiv 2002.11887): the list is to be tried from its start. Figures are those that the authors
published, to four digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from meta_train.evaluation.benchmark.contestants.peers import NesterovAdamW
from meta_train.evaluation.benchmark.contestants.schedules import warm_cosine


class Entry(NamedTuple):
    """Options of an optimizer of the list; see `NesterovAdamW` and `warm_cosine`."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    nesterov: bool
    weight_decay: float
    warm_up: float
    last: float
    constant: float


OPT_LIST = (
    Entry(1.195e-3, 0.9360, 0.9989, 5.876e-6, False, 0.01014, 0.0, 0.0, 0.7473),
    Entry(0.4060, 0.9972, 0.9868, 107.9, True, 0.01562, 2.289e-5, 0.0, 0.3241),
    Entry(2.119e-4, 0.6230, 0.9728, 1.540e-7, False, 0.05361, 1.140e-5, 1.386e-3, 0.2099),
    Entry(7.531e-3, 0.6919, 0.9843, 3.593e-8, False, 3.060e-4, 0.0, 9.554e-4, 0.4225),
    Entry(0.05570, 0.9742, 0.99998, 4.214, False, 2.233e-4, 0.0, 0.0, 0.5210),
    Entry(6.955e-3, 0.9941, 0.9930, 4.352e-7, False, 3.142e-5, 0.0, 0.0, 0.01362),
    Entry(0.02053, 0.3573, 0.8604, 8.874e-5, True, 0.07217, 0.0, 1.567e-5, 0.8852),
    Entry(5.951e-4, 0.8913, 0.9998, 1.483e-7, True, 0.04087, 8.213e-3, 0.0, 0.3776),
    Entry(5.329e-3, 0.9605, 0.9992, 8.665e-8, True, 5.563e-3, 0.0, 0.0, 0.1723),
    Entry(1.242e-3, 0.9467, 0.9407, 8.114e-8, False, 7.258e-5, 0.0, 1.008e-3, 0.4770),
)


def build_from_list(
    parameters: Iterable[nn.Parameter], place: int, times: float, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """The optimizer at a place of the list, from 0, its learning rate multiplied by `times`."""
    entry = OPT_LIST[place]
    optimizer = NesterovAdamW(
        parameters,
        times * entry.lr,
        (entry.beta1, entry.beta2),
        eps=entry.eps,
        weight_decay=entry.weight_decay,
        nesterov=entry.nesterov,
        eps_before=True,
    )
    schedule = warm_cosine(steps, warm_up=entry.warm_up, constant=entry.constant, last=entry.last)
    return optimizer, LambdaLR(optimizer, schedule)

"""The optimizers of the benchmark by name: how each is built, and its settings.

Defaults are what its authors, or its package, start from. Every optimizer is told the number of
steps where it has a schedule that needs it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from learned_opt import LearnedOptimizer
from learned_opt.optimizer.learned_optimizer import DEFAULT_RULE
from learned_opt.registry import look_up
from learned_opt.rules import list_rules
from learned_opt.weights import find_rule, list_pretrained
from meta_train.evaluation.baselines import SCHEDULES
from meta_train.evaluation.benchmark.contestants.contestant import Built, Contestant, Setting
from meta_train.evaluation.benchmark.contestants.opt_list import OPT_LIST, build_from_list
from meta_train.evaluation.benchmark.contestants.peers import Muon, NesterovAdamW
from meta_train.evaluation.benchmark.contestants.schedules import warm_cosine
from meta_train.evaluation.benchmark.contestants.user_function import from_function
from meta_train.evaluation.benchmark.workload import Workload

MIDDLE_FIRST = (7, 5, 8, 6, 9, 4, 10, 3, 11, 2, 12, 1, 0, 13)
"""Places of the fourteen settings of a grid, in the order in which they are worth a trial."""

REFERENCE = "adamw-cosine"
"""The optimizer whose tuned results all others are compared with."""


def doublings(first: float) -> tuple[Setting, ...]:
    """Fourteen learning rates, `first * 2^k`, almost four decades; those in the middle first."""
    return tuple({"lr": first * 2.0**k} for k in MIDDLE_FIRST)


def _cosine(optimizer: Optimizer, steps: int) -> Built:
    """With a warm-up over 3% of the steps and a cosine to zero."""
    schedule = SCHEDULES["cosine"]
    return optimizer, LambdaLR(optimizer, lambda done: schedule(min(done + 1, steps), steps))


def _adamw(workload: Workload, setting: Setting, steps: int) -> Built:
    return AdamW(workload.model.parameters(), lr=setting["lr"], weight_decay=0.01), None


def _adamw_cosine(workload: Workload, setting: Setting, steps: int) -> Built:
    return _cosine(_adamw(workload, setting, steps)[0], steps)


def _sgd(workload: Workload, setting: Setting, steps: int) -> Built:
    return _cosine(SGD(workload.model.parameters(), lr=setting["lr"], momentum=0.9), steps)


def _nadamw(workload: Workload, setting: Setting, steps: int) -> Built:
    optimizer = NesterovAdamW(
        workload.model.parameters(), setting["lr"], (0.9091, 0.9989), weight_decay=0.0811
    )
    return optimizer, LambdaLR(optimizer, warm_cosine(steps, warm_up=0.1))


def _muon(workload: Workload, setting: Setting, steps: int) -> Built:
    hidden = workload.hidden()
    chosen = {id(parameter) for parameter in hidden}
    rest = [p for p in workload.model.parameters() if id(p) not in chosen]
    return _cosine(Muon(hidden, rest, setting["lr"], setting["adam_lr"]), steps)


def _schedule_free(workload: Workload, setting: Setting, steps: int) -> Built:
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree(workload.model.parameters(), lr=setting["lr"]), None


def _prodigy(workload: Workload, setting: Setting, steps: int) -> Built:
    from prodigyopt import Prodigy

    optimizer = Prodigy(workload.model.parameters(), lr=1.0, d_coef=setting["d_coef"])
    return optimizer, LambdaLR(optimizer, warm_cosine(steps, warm_up=0.0))


def _opt_list(workload: Workload, setting: Setting, steps: int) -> Built:
    return build_from_list(
        workload.model.parameters(), int(setting["place"]), setting["times"], steps
    )


_ALL = (
    Contestant(REFERENCE, "AdamW, cosine", _adamw_cosine, {"lr": 1e-3}, doublings(1e-4)),
    Contestant(
        "muon",
        "Muon",
        _muon,
        {"lr": 0.02, "adam_lr": 3e-4},
        tuple(
            {"lr": 0.02 * 2.0**k, "adam_lr": adam_lr}
            for ks, adam_lr in (
                ((0, 1, 2), 3e-3),
                ((0,), 3e-4),
                ((-1, 3, -2, -3), 3e-3),
                ((1, 2, -1, 3, -2, -3), 3e-4),
            )
            for k in ks
        ),
        rates=("lr", "adam_lr"),
    ),
    Contestant("adamw", "AdamW, constant", _adamw, {"lr": 1e-3}, doublings(1e-4), told_steps=False),
    Contestant(
        "schedule-free",
        "Schedule-Free AdamW",
        _schedule_free,
        {"lr": 2.5e-3},
        doublings(2.5e-4),
        told_steps=False,
        package="schedulefree",
    ),
    Contestant("nadamw", "NAdamW", _nadamw, {"lr": 1.9e-3}, doublings(1e-4)),
    Contestant(
        "prodigy",
        "Prodigy",
        _prodigy,
        {"d_coef": 1.0},
        tuple({"d_coef": float(f"{10 ** (k / 6 - 1):.4g}")} for k in MIDDLE_FIRST),
        rates=("d_coef",),
        package="prodigyopt",
    ),
    Contestant("sgd", "SGD + momentum", _sgd, {"lr": 0.1}, doublings(1e-3)),
    Contestant(
        "opt-list",
        "OptList",
        _opt_list,
        {"place": 0, "times": 1.0},
        tuple({"place": k, "times": 1.0} for k in range(len(OPT_LIST))),
        rates=("times",),
    ),
)

CONTESTANTS: Mapping[str, Contestant] = MappingProxyType({one.name: one for one in _ALL})
"""The peers by name."""


def learned(rule: str = DEFAULT_RULE) -> Contestant:
    """One of this package's rules at its default, by name.

    It is told the number of steps if it needs it: not if it evaluates at an average.

    Raises:
        ValueError: an unknown name.
    """
    found = find_rule(rule)
    told = "total_steps" in found.read_context() and not found.averages

    def build(workload: Workload, setting: Setting, steps: int) -> Built:
        # The default is built as a user would: without any option.
        options: dict[str, Any] = {} if rule == DEFAULT_RULE else {"rule": rule}
        if setting["lr"] != 1:
            options["lr"] = setting["lr"] * found.default_lr
        if told:
            options["total_steps"] = steps
        return LearnedOptimizer(workload.model.parameters(), **options), None

    return Contestant(rule, rule, build, {"lr": 1.0}, told_steps=told)


def missing_package(contestant: Contestant) -> str | None:
    """The package that the optimizer needs and that is not installed."""
    if contestant.package is None or importlib.util.find_spec(contestant.package):
        return None
    return contestant.package


def find_contestant(name: str) -> Contestant:
    """A peer or a rule of this package by its name, or `module:function`.

    Raises:
        ValueError: an unknown name.
    """
    if ":" in name:
        return from_function(name)
    if name in CONTESTANTS:
        return CONTESTANTS[name]
    known = dict.fromkeys([*CONTESTANTS, *list_pretrained(), *list_rules()])
    look_up("optimizer", name, known)
    return learned(name)

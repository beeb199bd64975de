"""Optimizers of the user's own, from `module:function` on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from learned_opt.files import one_line
from meta_train.evaluation.benchmark.contestant import Built, Contestant, Setting
from meta_train.evaluation.benchmark.workload import Batch, Workload


def from_function(path: str) -> Contestant:
    """A contestant of the user's own, from `module:function`.

    The function takes the model and the number of steps. It returns an optimizer, or an optimizer
    and a scheduler that is stepped after it.

    Raises:
        ValueError: there is no such function, or it returns something else.
    """
    make = _import_function(path)

    def build(workload: Workload, setting: Setting, steps: int) -> Built:
        made = make(workload.model, steps)
        optimizer, scheduler = made if isinstance(made, tuple) else (made, None)
        if not isinstance(optimizer, Optimizer):
            raise ValueError(
                f"{path} must return an optimizer, or an optimizer and a scheduler; it returned "
                f"{type(optimizer).__name__}"
            )
        _multiply_rates(optimizer, scheduler, setting["lr"])
        return optimizer, scheduler

    contestant = Contestant(path, path, build, {"lr": 1.0})
    probe = Workload(nn.Linear(2, 2), (), (), _no_loss, _no_loss)
    try:
        build(probe, contestant.default, 10)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        name = type(error).__name__
        raise ValueError(f"{path}(model, steps) fails: {name}: {one_line(error)}") from error
    return contestant


def _multiply_rates(optimizer: Optimizer, scheduler: LRScheduler | None, factor: float) -> None:
    """Multiply the learning rates of an optimizer whose scheduler may have noted them."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] *= factor
    if scheduler is not None:
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]


def _import_function(path: str) -> Callable[[nn.Module, int], Any]:
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"--optimizer takes module:function, got {path!r}")
    try:
        found = vars(importlib.import_module(module)).get(name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(
            f"cannot import {module!r} for --optimizer {path}: {one_line(error)}"
        ) from error
    if not callable(found):
        raise ValueError(f"module {module!r} has no function {name!r} (--optimizer {path})")
    made: Callable[[nn.Module, int], Any] = found
    return made


def _no_loss(model: nn.Module, batch: Batch) -> Tensor:
    raise NotImplementedError

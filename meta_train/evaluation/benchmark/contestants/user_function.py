"""Optimizers of the user's own, from `module:function` on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from learned_opt.files import one_line
from meta_train.evaluation.benchmark.contestants.contestant import Built, Contestant, Setting
from meta_train.evaluation.benchmark.workload import Workload


def from_function(path: str) -> Contestant:
    """A contestant of the user's own, from `module:function`.

    The function takes the model and the number of steps. It returns an optimizer, or an optimizer
    and a scheduler that is stepped after it. To build it raises ValueError if the function fails or
    returns something else.

    Raises:
        ValueError: there is no such function.
    """
    make = _import_function(path)

    def build(workload: Workload, setting: Setting, steps: int) -> Built:
        try:
            made = make(workload.model, steps)
        except Exception as error:  # whatever the user's function raises
            name = type(error).__name__
            raise ValueError(f"{path}(model, steps) fails: {name}: {one_line(error)}") from error
        optimizer, scheduler = _checked(path, made, workload.model)
        if setting["lr"] != 1:
            _multiply_rates(optimizer, setting["lr"])
        return optimizer, scheduler

    return Contestant(path, path, build, {"lr": 1.0})


def _checked(path: str, made: object, model: nn.Module) -> Built:
    """The optimizer that a function returned, and its scheduler or None.

    Raises:
        ValueError: it returned something else, the optimizer has parameters that are not the
            model's, or the scheduler needs a loss in every step or belongs to another optimizer.
    """
    optimizer, scheduler = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"{path} must return an optimizer, or an optimizer and a scheduler; it returned "
            f"{type(optimizer).__name__}"
        )
    own = set(map(id, model.parameters()))
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = sum(id(parameter) not in own for parameter in given)
    if foreign:
        raise ValueError(
            f"{path} returned an optimizer of other parameters than the model's: {foreign} of "
            f"{len(given)}"
        )
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise ValueError(
            f"{path} must return a torch scheduler after the optimizer; it returned "
            f"{type(scheduler).__name__}"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(f"{path} returned a ReduceLROnPlateau, which needs a loss in every step")
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError(f"{path} returned a scheduler of another optimizer")
    return optimizer, scheduler


def _multiply_rates(optimizer: Optimizer, factor: float) -> None:
    """Multiply the learning rates of every step, whatever a scheduler sets them to.

    A scheduler may have noted rates in many places (`base_lrs`, `max_lr`, schedulers in it), so
    the rates are multiplied while the optimizer steps only.
    """

    def multiply(times: float) -> Callable[..., None]:
        def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            for group in optimizer.param_groups:
                if "lr" in group:
                    group["lr"] = group["lr"] * times

        return hook

    optimizer.register_step_pre_hook(multiply(factor))
    optimizer.register_step_post_hook(multiply(1 / factor))


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

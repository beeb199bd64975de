"""Tasks by name. A new task is one file beside this one and one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from learned_opt.names import create
from meta_train.tasks.base import Batch, Loss, Problem, Task, Tensors
from meta_train.tasks.digits import DigitsMLP
from meta_train.tasks.module_task import ModuleTask
from meta_train.tasks.quadratic import Quadratic

__all__ = [
    "Batch",
    "Loss",
    "ModuleTask",
    "Problem",
    "Task",
    "Tensors",
    "create_task",
    "list_tasks",
]

TASKS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {"digits-mlp": DigitsMLP, "quadratic": Quadratic}
)


def list_tasks() -> list[str]:
    """Names of all tasks that need no data of the user's."""
    return list(TASKS)


def create_task(name: str, **settings: Any) -> Task:
    """Build a task.

    Args:
        name: one of `list_tasks()`.
        **settings: the keyword arguments of the task's class.

    Raises:
        ValueError: an unknown name or setting, or a value that the task refuses.
    """
    return create("task", name, TASKS, settings)

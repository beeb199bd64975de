"""Refuses arguments that are not a family of tasks, and names the right one."""

from __future__ import annotations

from torch import nn

from learned_opt.checks.arguments import shown
from meta_train.tasks.base import TaskFamily


def check_family(family: object, name: str = "family") -> None:
    """Check that an argument is a family of tasks.

    Args:
        family: the argument.
        name: of the argument, for the message.

    Raises:
        ValueError: it is a name, a module or something else; the message says what to give.

    Examples:
        >>> check_family("digits-mlp")
        Traceback (most recent call last):
        ValueError: family must be a TaskFamily, got 'digits-mlp': give create_task('digits-mlp')
    """
    if not isinstance(family, TaskFamily):
        raise ValueError(f"{name} must be a TaskFamily, got {shown(family)}: {_advice(family)}")


def _advice(value: object) -> str:
    if isinstance(value, str):
        return f"give create_task({value!r})"
    if isinstance(value, nn.Module):
        return "ModuleTask makes one of a function that makes modules, a loss and data"
    return "create_task makes one of a name of list_tasks(), ModuleTask of a module, loss and data"

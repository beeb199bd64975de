"""Marks functions that `torch.compile` is not to trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def not_compiled(function: F) -> F:
    """Leave a function, and all that it calls, out of compiled code."""
    return cast(F, _disable(function))


try:  # As torch's own optimizers are marked: torch._dynamo is imported at the first call.
    from torch._compile import _disable_dynamo as _disable
except ImportError:  # Another torch: it is imported here, which takes as long as torch itself.
    _disable = torch.compiler.disable

"""Second derivatives: kernels that have them, and a clear error for operations that do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """A context in which attention and weight norm have a second derivative.

    Attention takes the math kernel: fused ones have none. Weight norm takes plain operations: the
    second derivative of torch's own kernel is wrong (torch 2.13, CPU).
    """
    with sdpa_kernel(SDPBackend.MATH), _PlainWeightNorm():
        yield


class _PlainWeightNorm(TorchFunctionMode):
    """Computes `torch._weight_norm`, as both weight norms of torch.nn call it, by its equation."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    if dim == -1:  # As torch means it: the norm of the whole tensor.
        norm: Tensor = torch.linalg.vector_norm(v)
        return v * (g / norm)
    # Not torch.norm_except_dim, which vmap takes one run at a time. A vector has no other axis.
    others = [k for k in range(v.dim() + 1) if k != dim]
    norm = torch.linalg.vector_norm(v.unsqueeze(-1), dim=others, keepdim=True).squeeze(-1)
    return v * (g / norm)


@contextmanager
def naming_the_operation(remedy: str) -> Iterator[None]:
    """A context that says which operation has no second derivative, and what to do.

    Args:
        remedy: completes "embedding_bag has no second derivative: ...".

    Raises:
        RuntimeError: torch reports a derivative that is not implemented.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"derivative for '?(?:aten::)?_*(\w+)'? is not implemented", str(error))
        if found is None:
            raise
        name = found[1].removesuffix("_backward").removesuffix("_dense")
        raise RuntimeError(f"{name} has no second derivative: {remedy}") from error

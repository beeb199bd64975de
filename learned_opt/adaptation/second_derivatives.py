"""Second derivatives: kernels that have them, and a clear error for operations that do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


def twice_differentiable() -> AbstractContextManager[None]:
    """A context in which attention takes the math kernel: fused ones have no second derivative."""
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


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

"""Tensors with values, whatever the caller's modes, and those without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily


@contextmanager
def real_tensors() -> Iterator[None]:
    """Make ordinary tensors, also inside of `torch.inference_mode` and `FakeTensorMode`.

    What is made here may be shared with callers outside of those modes.
    """
    with torch.inference_mode(False), unset_fake_temporarily():
        yield


def has_no_values(tensor: Tensor) -> bool:
    """Whether a tensor has a shape alone: on the meta device, or made under `FakeTensorMode`."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)

"""Dtypes of parameters and gradients, as Triton names them."""

from __future__ import annotations

import torch
import triton.language as tl

TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}

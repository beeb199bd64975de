"""Small causal transformers that predict the next character (Vaswani et al. 2017).

Layer normalisation comes first in each block (Xiong et al. 2020).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meta_train.tasks.base import Task
from meta_train.tasks.data import LabelledData
from meta_train.tasks.families.char_family import CharFamily, NextSymbol
from meta_train.tasks.families.networks import make_mlp, rescale
from meta_train.tasks.families.sampling import check_range, sample_int


@dataclass(frozen=True, kw_only=True)
class CharTransformer(CharFamily):
    """Transformer language models.

    Attributes:
        depth: range of the number of blocks.
        heads: attention heads. Widths are rounded down to a multiple of it.
        init_std: standard deviation of all initial weights but those of normalisations; None takes
            torch's. GPT-2's is 0.02.
        tied: the output layer has the embedding's weights.
    """

    depth: Sequence[int] = (1, 2)
    heads: int = 2
    init_std: float | None = None
    tied: bool = False

    def __post_init__(self) -> None:
        """See `CharFamily`."""
        super().__post_init__()
        check_range("depth", self.depth)
        if not 1 <= self.heads <= self.width[0]:
            raise ValueError(f"heads must be from 1 to the width {self.width}, got {self.heads}")
        if self.init_std is not None and not 0 < self.init_std < float("inf"):
            raise ValueError(f"init_std must be positive and finite, got {self.init_std}")

    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the width and the depth."""
        width = sample_int(generator, self.width) // self.heads * self.heads
        depth = sample_int(generator, self.depth)
        return functools.partial(
            _make,
            width,
            depth,
            self.heads,
            data.shape[0],
            self.scale_spread,
            init_std=self.init_std,
            tied=self.tied,
        )

    def held_out(self) -> dict[str, Task]:
        """The largest network of the family, and one twice as wide."""
        width, length, depth = self.width[1], self.length[1], self.depth[1]
        fixed: dict[str, Any] = {"length": (length, length), "depth": (depth, depth)}
        return {
            f"transformer {depth} x {width}, held-out text": self.fixed_task(
                width=(width, width), **fixed
            ),
            f"wider: transformer {depth} x {2 * width}": self.fixed_task(
                width=(2 * width, 2 * width), **fixed
            ),
        }


class Block(nn.Module):
    """Causal self-attention and an MLP, each with a residual connection.

    Attention is written out because torch's fused attention has no second derivatives.

    Args:
        width: size of inputs and outputs.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = make_mlp((width, 2 * width, width), nn.GELU)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, T, width] -> [B, T, width]`."""
        hidden = inputs + self.project(self._attend(self.norm_attention(inputs)))
        outputs: Tensor = hidden + self.mlp(self.norm_mlp(hidden))
        return outputs

    def _attend(self, inputs: Tensor) -> Tensor:
        batch, length, width = inputs.shape
        joint = self.queries_keys_values(inputs).reshape(batch, length, 3, self.heads, -1)
        queries, keys, values = joint.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, size]
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        later = torch.ones(length, length, dtype=torch.bool, device=inputs.device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        attended: Tensor = weights @ values
        return attended.transpose(1, 2).reshape(batch, length, width)


class Transformer(nn.Module):
    """Learned position embeddings, blocks, and a final layer normalisation.

    Args:
        width: size of inputs and outputs.
        depth: number of blocks.
        heads: attention heads.
        length: symbols in a window.
    """

    def __init__(self, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, T, width] -> [B, T, width]`."""
        outputs: Tensor = self.norm(self.blocks(inputs + self.positions))
        return outputs


def _make(
    width: int,
    depth: int,
    heads: int,
    length: int,
    scale_spread: float,
    *,
    init_std: float | None,
    tied: bool,
) -> nn.Module:
    model = NextSymbol(Transformer(width, depth, heads, length), width)
    if tied:
        model.head.weight = model.embedding.weight
    if init_std is not None:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "norm" not in name:
                    weight.normal_(std=init_std) if weight.dim() > 1 else weight.zero_()
    return rescale(model, scale_spread)

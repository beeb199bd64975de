"""The networks of the benchmark, with PyTorch's own initial weights unless they say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]


def mlp(sizes: Sequence[int], activation: Activation = nn.ReLU) -> nn.Sequential:
    """A perceptron with layers of these sizes, from the inputs to the outputs."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def conv1d(classes: int) -> nn.Module:
    """The small conv net of MNIST-1D: three layers of 25 channels with stride 2."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 40)),
        nn.Conv1d(1, 25, 5, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv1d(25, 25, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv1d(25, 25, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(125, classes),
    )


def conv2d(classes: int, *, batch_norm: bool) -> nn.Module:
    """Three 3 x 3 convolutions, the last two with stride 2, and a mean over all places."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 2)):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1))
        layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
        layers.append(nn.ReLU())
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)]
    return nn.Sequential(*layers, *pooled)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels, H, W]` to the same shape."""
        change: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + change


def residual(classes: int) -> nn.Module:
    """A convolution with stride 2, four residual blocks of 16 channels, and a mean over places."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        *(ResidualBlock(16) for _ in range(4)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each after layer normalisation and beside a residual path."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, width]` to the same shape."""
        parts = self.queries_keys_values(self.norm_1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        change: Tensor = self.narrow(F.gelu(self.widen(self.norm_2(x))))
        return x + change


class GPT(nn.Module):
    """A language model as GPT-2 (Radford et al. 2019): weights of std .02, tied embeddings.

    The projections into the residual path have std .02 / sqrt(2 layers).
    """

    def __init__(self, symbols: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, causal=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                into_residual = name.endswith(("projection.weight", "narrow.weight"))
                std = 0.02 / (2 * layers) ** 0.5 if into_residual else 0.02
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, symbols: Tensor) -> Tensor:
        """`[B, T]` to logits `[B, T, symbols]`."""
        x = self.symbols(symbols) + self.places.weight[: symbols.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.symbols.weight)


class VisionTransformer(nn.Module):
    """A vision transformer: patches of 4 x 4 pixels, learned places, a mean over patches."""

    def __init__(self, classes: int, size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.places = nn.Embedding((size // 4) ** 2, width)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, causal=False) for _ in range(layers))
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, size, size]` to logits `[B, classes]`."""
        x = self.patches(images).flatten(2).mT + self.places.weight
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


class CharGRU(nn.Module):
    """Embedding, one GRU, and a linear output for every symbol."""

    def __init__(self, symbols: int, width: int, hidden: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.cell = nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """`[B, T]` to logits `[B, T, symbols]`."""
        logits: Tensor = self.head(self.cell(self.symbols(symbols))[0])
        return logits


class CharMLP(nn.Module):
    """The next symbol from the embeddings of those before it (Bengio et al. 2003)."""

    def __init__(self, symbols: int, length: int, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.layers = mlp((length * width, *hidden, symbols))

    def forward(self, symbols: Tensor) -> Tensor:
        """`[B, T]` to logits `[B, symbols]`."""
        logits: Tensor = self.layers(self.symbols(symbols).flatten(1))
        return logits


class Factors(nn.Module):
    """The product of the embeddings of a row and a column, and a bias of each."""

    def __init__(self, rows: int, columns: int, width: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, width), nn.Embedding(columns, width)
        self.row_bias, self.column_bias = nn.Embedding(rows, 1), nn.Embedding(columns, 1)
        for table in (self.rows, self.columns):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.row_bias, self.column_bias):
            nn.init.zeros_(table.weight)

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs of row and column `[B, 2]` to numbers `[B]`."""
        row, column = pairs.unbind(1)
        product: Tensor = (self.rows(row) * self.columns(column)).sum(-1)
        biases: Tensor = (self.row_bias(row) + self.column_bias(column)).squeeze(-1)
        return product + biases


class Rescaled(nn.Module):
    """A linear layer that keeps its tensors at another scale: W = scale * weight, and so b."""

    def __init__(self, inputs: int, outputs: int, scale: float) -> None:
        super().__init__()
        inner = nn.Linear(inputs, outputs)
        self.scale = scale
        self.weight = nn.Parameter(inner.weight.detach() / scale)
        self.bias = nn.Parameter(inner.bias.detach() / scale)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs]` to `[B, outputs]`."""
        return F.linear(x, self.scale * self.weight, self.scale * self.bias)


class Waves(nn.Module):
    """Sines and cosines of random projections of the coordinates (Tancik et al. 2020)."""

    frequencies: Tensor

    def __init__(self, inputs: int, count: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(inputs, count))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs]` to `[B, 2 count]`."""
        angles = x @ self.frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)


class Point(nn.Module):
    """A vector of parameters, for functions without a network."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(size))

    def forward(self, examples: Tensor) -> Tensor:
        """The vector for each of `[B, ...]` examples, `[B, size]`."""
        return self.value.expand(len(examples), -1)

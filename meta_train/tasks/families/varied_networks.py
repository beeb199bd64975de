"""Networks of the tasks in `varied.py`: kinds that no other family of this package trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Mixer(nn.Module):
    """MLPs over patches and over channels in turn (Tolstikhin et al. 2021, arXiv 2105.01601).

    Args:
        patches: number of patches of an image.
        size: pixels of a patch.
        width: channels.
        classes: outputs.
    """

    def __init__(self, patches: int, size: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(size, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.tokens = nn.ModuleList(_two_layers(patches, patches, nn.GELU()) for _ in range(2))
        self.channels = nn.ModuleList(_two_layers(width, 2 * width, nn.GELU()) for _ in range(2))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, patches, size] -> [B, classes]`."""
        x = self.embed(images)
        for k, (tokens, channels) in enumerate(zip(self.tokens, self.channels, strict=True)):
            x = x + tokens(self.norms[2 * k](x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(self.norms[2 * k + 1](x))
        scores: Tensor = self.head(x.mean(1))
        return scores


class GatedMLP(nn.Module):
    """Residual gated units with root-mean-square normalisation (Shazeer 2020, arXiv 2002.05202).

    Args:
        inputs: size of inputs.
        width: size of the stream.
        outputs: size of outputs.
        blocks: number of gated blocks.
    """

    def __init__(self, inputs: int, width: int, outputs: int, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width, bias=False)
        self.gain = nn.ParameterList(torch.ones(width) for _ in range(blocks))
        self.gate = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(blocks))
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, inputs] -> [B, outputs]`."""
        x = self.embed(inputs)
        for gain, gate, up, down in zip(self.gain, self.gate, self.up, self.down, strict=True):
            normal = gain * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
            x = x + down(nn.functional.silu(gate(normal)) * up(normal))
        scores: Tensor = self.head(x)
        return scores


class Highway(nn.Module):
    """A deep tanh network with carry gates (Srivastava et al. 2015, arXiv 1505.00387).

    Args:
        inputs: size of inputs.
        width: size of the stream.
        outputs: size of outputs.
        depth: number of layers.
    """

    def __init__(self, inputs: int, width: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        carry = [nn.Linear(width, width) for _ in range(depth)]
        for layer in carry:
            nn.init.constant_(layer.bias, -1.0)
        self.carry = nn.ModuleList(carry)
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, inputs] -> [B, outputs]`."""
        x = self.embed(inputs)
        for hidden, carry in zip(self.hidden, self.carry, strict=True):
            x = torch.lerp(x, torch.tanh(hidden(x)), torch.sigmoid(carry(x)))
        outputs: Tensor = self.head(x)
        return outputs


class DilatedConvolutions(nn.Module):
    """Causal gated 1-d convolutions that score the next symbol (van den Oord et al. 2016).

    Args:
        symbols: size of the alphabet.
        width: channels.
    """

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=d) for d in (1, 2, 4))
        self.head = nn.Conv1d(width, symbols, 1)

    def forward(self, words: Tensor) -> Tensor:
        """`[B, T] -> [B, symbols, T]`."""
        x = self.embedding(words).transpose(1, 2)
        for k, layer in enumerate(self.layers):
            filtered, gate = layer(nn.functional.pad(x, (2**k, 0))).chunk(2, dim=1)
            x = x + torch.tanh(filtered) * torch.sigmoid(gate)
        scores: Tensor = self.head(x)
        return scores


class DeepSet(nn.Module):
    """A function of a set, through a mean over its members (Zaheer et al. 2017, arXiv 1703.06114).

    Args:
        inputs: size of a member.
        width: hidden units.
        outputs: size of outputs.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.member = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.whole = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, members: Tensor) -> Tensor:
        """`[B, members, inputs] -> [B, outputs]`."""
        outputs: Tensor = self.whole(self.member(members).mean(1))
        return outputs


class RadialBasis(nn.Module):
    """A sum of Gaussian bumps with learned centres and widths (Broomhead & Lowe 1988).

    Args:
        inputs: size of inputs.
        bumps: number of bumps.
        outputs: size of outputs.
    """

    def __init__(self, inputs: int, bumps: int, outputs: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(bumps, inputs))
        self.log_width = nn.Parameter(torch.zeros(bumps))
        self.head = nn.Linear(bumps, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, inputs] -> [B, outputs]`."""
        square = (inputs.unsqueeze(1) - self.centres).square().sum(-1)
        outputs: Tensor = self.head(torch.exp(-square * torch.exp(-2 * self.log_width)))
        return outputs


class EulerFlow(nn.Module):
    """Eight Euler steps of one learned vector field (Chen et al. 2018, arXiv 1806.07366).

    Args:
        inputs: size of inputs.
        width: size of the state and hidden units of the field.
        outputs: size of outputs.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.field = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, inputs] -> [B, outputs]`."""
        x = self.embed(inputs)
        for _ in range(8):
            x = x + 0.25 * self.field(x)
        outputs: Tensor = self.head(x)
        return outputs


class GraphConvolutions(nn.Module):
    """Two rounds of averaging over neighbours, each with a linear layer (Kipf & Welling 2017).

    Args:
        adjacency: normalised, with loops, `[nodes, nodes]`.
        width: hidden units.
        classes: outputs.
    """

    def __init__(self, adjacency: Tensor, width: int, classes: int) -> None:
        super().__init__()
        self.adjacency: Tensor
        self.register_buffer("adjacency", adjacency)
        self.first = nn.Linear(len(adjacency), width)
        self.second = nn.Linear(width, classes)

    def forward(self, nodes: Tensor) -> Tensor:
        """Indices of nodes `[B]` to scores `[B, classes]`; a node is known by its index alone."""
        hidden = torch.relu(self.adjacency @ self.first.weight.T + self.first.bias)
        scores: Tensor = (self.adjacency @ self.second(hidden))[nodes]
        return scores


class FactorizationMachine(nn.Module):
    """Pairwise products of the embeddings of categories (Rendle 2010).

    Args:
        categories: number of values of each field.
        width: size of an embedding.
    """

    def __init__(self, categories: int, fields: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(0.1 * torch.randn(fields * categories, width))
        self.linear = nn.Parameter(torch.zeros(fields * categories))
        self.bias = nn.Parameter(torch.zeros(()))
        self.offsets: Tensor
        self.register_buffer("offsets", categories * torch.arange(fields))

    def forward(self, values: Tensor) -> Tensor:
        """`[B, fields] -> [B]`."""
        index = values + self.offsets
        rows = self.embeddings[index]
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(-1)
        scores: Tensor = self.bias + self.linear[index].sum(-1) + pairs
        return scores


class SharedEncoder(nn.Module):
    """Distances of an anchor to two others in a learned space (Schroff et al. 2015).

    Args:
        inputs: size of inputs.
        width: hidden units.
        outputs: size of the space.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, triplets: Tensor) -> Tensor:
        """`[B, 3, inputs] -> [B]`: squared distance to the second less that to the third."""
        anchor, near, far = self.encode(triplets).unbind(1)
        nearer: Tensor = (anchor - near).square().sum(-1) - (anchor - far).square().sum(-1)
        return nearer


def deep_linear(inputs: int, width: int, outputs: int, depth: int) -> nn.Module:
    """A product of matrices: no nonlinearity, and a hard loss surface all the same."""
    sizes = [inputs, *[width] * depth, outputs]
    return nn.Sequential(
        *(nn.Linear(a, b, bias=False) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    )


def denoiser(width: int) -> nn.Module:
    """An MLP from a noisy point and its noise level to the noise, `[B, 3] -> [B, 2]`."""
    return nn.Sequential(
        nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
    )


def fourier_net(inputs: int, width: int, outputs: int) -> nn.Module:
    """A ReLU network on learned waves (Tancik et al. 2020, arXiv 2006.10739)."""
    return nn.Sequential(
        _Waves(inputs, width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class _Waves(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(2 * torch.randn(inputs, width))
        self.phases = nn.Parameter(2 * math.pi * torch.rand(width))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(inputs @ self.frequencies + self.phases)


def _two_layers(size: int, hidden: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(size, hidden), activation, nn.Linear(hidden, size))

"""The outputs of many convolutional networks at once, each with its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from learned_opt.adaptation.plain_modules import is_plain
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes.conv_block import conv_block
from meta_train.tasks.episodes.convolution import Geometry, fits
from meta_train.tasks.episodes.networks import FewShotNetwork, MeanPool

LARGEST = 4 * 1024 * 1024
"""Most bytes of the first block's maps of all runs that are computed together.

Passes over larger maps leave the cache. Measured on 8 episodes of conv4 with 75 query images: a
meta-gradient takes 1.15 times as long at 16 MiB and 1.4 times at 256 KiB, where each run goes
alone."""


@dataclass(frozen=True)
class _Block:
    """Names of a block's parts, and what its convolution and its normalisation do."""

    conv: str
    norm: str
    geometry: Geometry
    channels: int
    eps: float


@final
@dataclass(frozen=True)
class ConvNetworks:
    """Blocks of convolution, batch normalisation and ReLU, their mean or flat maps, and a head.

    `networks_of` makes it of a module, which stays the definition of the network.

    Examples:
        Two networks on their own images ``[2, n, 1, 28, 28]``::

            networks = networks_of(make_network("conv4", 5))
            if networks.fits(parameters, images):
                scores = networks(parameters, images)  # [2, n, 5]

    Attributes:
        blocks: the blocks in order.
        mean: take the mean over the last maps; otherwise they are flattened.
        head: name of the linear layer, or None.
    """

    blocks: tuple[_Block, ...]
    mean: bool
    head: str | None

    def __call__(self, parameters: Tensors, images: Tensor) -> Tensor:
        """Outputs of all runs.

        Args:
            parameters: `[runs, *parameter]` by name.
            images: `[runs, images, channels, H, W]`.

        Returns:
            `[runs, images, outputs]`, or features without a head.
        """
        runs, at_once = len(images), self._at_once(images)
        if at_once >= runs:
            return self._outputs(parameters, images)
        some = [slice(first, first + at_once) for first in range(0, runs, at_once)]
        return torch.cat(
            [self._outputs({k: v[own] for k, v in parameters.items()}, images[own]) for own in some]
        )

    def fits(self, parameters: Tensors, images: Tensor) -> bool:
        """Whether C computes the convolutions; otherwise `torch.func.vmap` is faster.

        That is in float32 in the CPU's memory, for channels in multiples of 64, and outside of
        `torch.func` and `torch.compile`. Images that the module refuses, such as those of
        other channels, are left to it.
        """
        if torch.compiler.is_compiling() or images.dim() != 5:
            return False
        tensors = [images, *parameters.values()]
        # Tensors under vmap look plain and have no memory.
        if any(torch._C._functorch.is_functorch_wrapped_tensor(value) for value in tensors):
            return False
        plain = all(value.dtype is images.dtype and value.is_cpu for value in tensors)
        if not plain or not all(fits(images, block.channels) for block in self.blocks):
            return False
        return self._accepts(parameters, images)

    def _accepts(self, parameters: Tensors, images: Tensor) -> bool:
        """Whether the modules take such images, and the parameters have their shapes."""
        runs, count, channels, *size = images.shape
        for block in self.blocks:
            wanted = {
                f"{block.conv}.weight": (runs, block.channels, channels, *block.geometry.kernel),
                f"{block.norm}.weight": (runs, block.channels),
                f"{block.norm}.bias": (runs, block.channels),
            }
            if any(k not in parameters or parameters[k].shape != v for k, v in wanted.items()):
                return False
            channels, size = block.channels, list(block.geometry.places(*size))
            # Smaller than the kernel, or one value for each channel: it has no variance.
            if min(size) < 1 or count * size[0] * size[1] < 2:
                return False
        return True

    def _at_once(self, images: Tensor) -> int:
        """Runs whose first maps are at most `LARGEST` bytes together."""
        down, across = self.blocks[0].geometry.places(*images.shape[3:])
        numbers = images.shape[1] * down * across * self.blocks[0].channels
        return max(1, LARGEST // (numbers * images.element_size()))

    def _outputs(self, parameters: Tensors, images: Tensor) -> Tensor:
        x = images.permute(0, 1, 3, 4, 2)
        for block in self.blocks:
            weight = parameters[f"{block.conv}.weight"]
            scale, shift = (parameters[f"{block.norm}.{name}"] for name in ("weight", "bias"))
            x = conv_block(x, weight, scale, shift, block.geometry, block.eps)
        features = x.mean((2, 3)) if self.mean else x.permute(0, 1, 4, 2, 3).flatten(2)
        if self.head is None:
            return features
        bias = parameters[f"{self.head}.bias"].unsqueeze(1)
        return torch.baddbmm(bias, features, parameters[f"{self.head}.weight"].transpose(1, 2))


def networks_of(module: nn.Module) -> ConvNetworks | None:
    """Make the function that computes many copies of a module at once.

    Args:
        module: a `FewShotNetwork`, its body, or an `nn.Sequential` of the same layers.

    Returns:
        None for another kind of module, and for one with hooks, tied parameters, or batch
        normalisation that keeps statistics.
    """
    if type(module) is FewShotNetwork:
        if not _is_untouched(module):
            return None
        return _read([*_named(module.body, "body."), ("head", module.head)])
    return _read(_named(module, ""))


def _named(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential or not _is_untouched(module):
        return []
    return [(prefix + name, part) for name, part in module.named_children()]


def _is_untouched(module: nn.Module) -> bool:
    """Whether calling the module runs its class's own code alone."""
    attributes = vars(module)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" not in attributes and not any(attributes[name] for name in hooks)


def _read(layers: Sequence[tuple[str, nn.Module]]) -> ConvNetworks | None:
    """The network of these layers, or None."""
    parameters = [value for _, part in layers for value in part.parameters()]
    if len({id(value) for value in parameters}) < len(parameters):  # tied
        return None
    blocks = []
    rest = list(layers)
    while len(rest) > 2 and (block := _read_block(rest[:3])) is not None:
        blocks.append(block)
        rest = rest[3:]
    if not blocks or not rest:
        return None
    pool = rest[0][1]
    mean = type(pool) is MeanPool and _is_untouched(pool)
    flat = type(pool) is nn.Flatten and is_plain(pool) and (pool.start_dim, pool.end_dim) == (1, -1)
    if not (mean or flat) or len(rest) > 2:
        return None
    if len(rest) == 1:
        return ConvNetworks(tuple(blocks), mean, None)
    name, head = rest[1]
    if type(head) is not nn.Linear or not is_plain(head) or head.bias is None:
        return None
    return ConvNetworks(tuple(blocks), mean, name)


def _read_block(layers: Sequence[tuple[str, nn.Module]]) -> _Block | None:
    (conv_name, conv), (norm_name, norm), (_, relu) = layers
    if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or type(relu) is not nn.ReLU:
        return None
    if not all(is_plain(part) for part in (conv, norm, relu)):
        return None
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return None
    if conv.groups != 1 or conv.dilation != (1, 1):
        return None
    if norm.track_running_stats or not norm.affine:
        return None
    kernel, stride, padding = (
        (pair[0], pair[1]) for pair in (conv.kernel_size, conv.stride, conv.padding)
    )
    return _Block(
        conv_name, norm_name, Geometry(kernel, stride, padding), conv.out_channels, norm.eps
    )

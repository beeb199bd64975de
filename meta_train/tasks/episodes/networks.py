"""The standard networks of few-shot classification: a body that embeds and a linear head."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learned_opt.registry import look_up
from meta_train.runtime.checks import check_at_least

ARCHITECTURES: Mapping[str, None] = dict.fromkeys(("conv4", "dense"))
BLOCKS = 4
DENSE_SIZES = (256, 128, 64, 64)
BATCH_NORMS = ("batch", "support")
POOLS = ("mean", "flatten")
HALVINGS = ("stride", "max-pool")


class FewShotNetwork(nn.Module):
    """A body and a linear head, `[images, channels, H, W] -> [images, outputs]`.

    Args:
        body: `[images, channels, H, W] -> [images, features]`.
        features: number of features of the body.
        outputs: number of outputs of the head.
        places: positions of the last map of a convolutional body, before it is pooled.
    """

    def __init__(self, body: nn.Module, features: int, outputs: int, places: int = 4) -> None:
        super().__init__()
        self.body = body
        self.places = places
        self.head = nn.Linear(features, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Score each output."""
        scores: Tensor = self.head(self.body(images))
        return scores


class MeanPool(nn.Module):
    """Mean over height and width, `[images, channels, H, W] -> [images, channels]`."""

    def forward(self, maps: Tensor) -> Tensor:
        """Take the mean."""
        return maps.mean((2, 3))


class LastBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation that evaluates with the statistics of the last training batch."""

    def forward(self, x: Tensor) -> Tensor:
        """`[images, features] -> [images, features]`."""
        return _by_last_batch(self, x)


class LastBatchNorm2d(nn.BatchNorm2d):
    """The same for feature maps."""

    def forward(self, x: Tensor) -> Tensor:
        """`[images, features, H, W] -> [images, features, H, W]`."""
        return _by_last_batch(self, x)


def _by_last_batch(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    if norm.training:
        # torch would store the unbiased variance, but normalises with the biased one.
        places = [dim for dim in range(x.dim()) if dim != 1]
        seen = torch.var_mean(x.detach(), places, correction=0)
        variance.copy_(seen[0])
        mean.copy_(seen[1])
        mean = variance = None
    return nn.functional.batch_norm(
        x, mean, variance, norm.weight, norm.bias, training=norm.training, eps=norm.eps
    )


def make_network(
    name: str, outputs: int, *, hidden: int = 64, pool: str = "mean", batch_norm: str = "batch"
) -> FewShotNetwork:
    """Build a network for characters, `[images, 1, 28, 28]`; see `make_shaped_network`.

    Args:
        name: "conv4" or "dense".
        outputs: number of outputs of the head.
        hidden: channels of conv4.
        pool: "mean" or "flatten" of the last 2 x 2 map of conv4.
        batch_norm: "batch" always normalises with the statistics of the current batch. Testing is
            then transductive: the prediction for a query image depends on the other query images.
            "support" stores the statistics of the last training batch and evaluates with them, so
            that query images are normalised like the support set and episodes stay independent.
            (Ravi & Larochelle 2017 average over the steps of an episode. Here the last step counts
            alone, because earlier statistics belong to earlier weights.)

    Raises:
        ValueError: an unknown name, or hidden < 1.
    """
    return make_shaped_network(
        name, (1, 28, 28), outputs, hidden=hidden, pool=pool, batch_norm=batch_norm
    )


def make_shaped_network(
    name: str,
    shape: tuple[int, int, int],
    outputs: int,
    *,
    hidden: int = 64,
    pool: str = "flatten",
    batch_norm: str = "batch",
    halve: str = "stride",
) -> FewShotNetwork:
    """Build a network for images of a shape.

    "conv4" has four blocks of 3 x 3 convolution, batch normalisation and ReLU, each of which halves
    height and width: by a stride of 2, rounded up (in the code that Finn et al. 2017, arXiv
    1703.03400, released for Omniglot: 28, 14, 7, 4, 2), or by 2 x 2 max-pooling, rounded down (on
    miniImageNet: 84, 42, 21, 10, 5). "dense" (section 5.2 there) has layers of 256, 128, 64 and 64
    units, each with batch normalisation and ReLU, and ignores `hidden`, `pool` and `halve`.

    Args:
        name: "conv4" or "dense".
        shape: channels, height and width of an image.
        outputs: number of outputs of the head.
        hidden: channels of conv4.
        pool: "mean" over the last map, or "flatten".
        batch_norm: "batch" or "support"; see `make_network`.
        halve: "stride" or "max-pool".

    Raises:
        ValueError: an unknown name, hidden < 1, or images too small for four halvings.
    """
    look_up("network", name, ARCHITECTURES)
    look_up("pool", pool, dict.fromkeys(POOLS))
    look_up("batch_norm", batch_norm, dict.fromkeys(BATCH_NORMS))
    look_up("way to halve", halve, dict.fromkeys(HALVINGS))
    check_at_least(1, hidden=hidden)
    if name == "dense":
        return FewShotNetwork(_dense(math.prod(shape), batch_norm), DENSE_SIZES[-1], outputs)
    layers = _blocks(shape[0], hidden, batch_norm, halve)
    places = math.prod(_side_after(side, halve) for side in shape[1:])
    if not places:
        raise ValueError(f"images of {shape[1]} x {shape[2]} are too small to pool four times")
    if pool == "mean":
        return FewShotNetwork(nn.Sequential(*layers, MeanPool()), hidden, outputs, places)
    body = nn.Sequential(*layers, nn.Flatten())
    return FewShotNetwork(body, places * hidden, outputs, places)


def _blocks(channels: int, hidden: int, batch_norm: str, halve: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    stride = 2 if halve == "stride" else 1
    for inputs in (channels, *[hidden] * (BLOCKS - 1)):
        layers += [
            nn.Conv2d(inputs, hidden, 3, stride=stride, padding=1),
            LastBatchNorm2d(hidden)
            if batch_norm == "support"
            else nn.BatchNorm2d(hidden, track_running_stats=False),
            nn.ReLU(),
        ]
        if halve == "max-pool":
            layers.append(nn.MaxPool2d(2))
    return layers


def _side_after(side: int, halve: str) -> int:
    for _ in range(BLOCKS):
        side = side // 2 if halve == "max-pool" else -(-side // 2)
    return side


def _dense(pixels: int, batch_norm: str) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, units in zip((pixels, *DENSE_SIZES), DENSE_SIZES, strict=False):
        layers += [
            nn.Linear(inputs, units),
            LastBatchNorm1d(units)
            if batch_norm == "support"
            else nn.BatchNorm1d(units, track_running_stats=False),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)

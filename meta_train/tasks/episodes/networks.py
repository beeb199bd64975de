"""The standard networks of few-shot classification: a body that embeds and a linear head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from learned_opt.registry import look_up
from meta_train.runtime.checks import check_at_least

DENSE_SIZES = (256, 128, 64, 64)
BATCH_NORMS = ("batch", "support")
POOLS = ("mean", "flatten")


class FewShotNetwork(nn.Module):
    """A body and a linear head, `[images, 1, 28, 28] -> [images, outputs]`.

    Args:
        body: `[images, 1, 28, 28] -> [images, features]`.
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


def conv4(hidden: int, pool: str, batch_norm: str) -> tuple[nn.Module, int]:
    """Four blocks of 3 x 3 convolution with stride 2, batch normalisation and ReLU.

    The blocks reduce 28 x 28 pixels to 2 x 2, as in the code that Finn et al. 2017 (arXiv
    1703.03400) released for Omniglot.

    Args:
        hidden: channels.
        pool: "mean" over the 2 x 2 map (`hidden` features) or "flatten" (four times as many).
        batch_norm: "batch" or "support"; see `make_network`.

    Returns:
        The body and its number of features.
    """
    layers: list[nn.Module] = []
    for inputs in (1, hidden, hidden, hidden):
        layers += [
            nn.Conv2d(inputs, hidden, 3, stride=2, padding=1),
            LastBatchNorm2d(hidden)
            if batch_norm == "support"
            else nn.BatchNorm2d(hidden, track_running_stats=False),
            nn.ReLU(),
        ]
    if pool == "mean":
        return nn.Sequential(*layers, MeanPool()), hidden
    return nn.Sequential(*layers, nn.Flatten()), 4 * hidden


def dense(hidden: int, pool: str, batch_norm: str) -> tuple[nn.Module, int]:
    """Four layers of 256, 128, 64 and 64 units, each with batch normalisation and ReLU.

    The network without convolutions of Finn et al. 2017, section 5.2. It ignores `hidden` and
    `pool`.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 28 * 28
    for units in DENSE_SIZES:
        layers += [
            nn.Linear(inputs, units),
            LastBatchNorm1d(units)
            if batch_norm == "support"
            else nn.BatchNorm1d(units, track_running_stats=False),
            nn.ReLU(),
        ]
        inputs = units
    return nn.Sequential(*layers), inputs


BODIES: Mapping[str, Callable[[int, str, str], tuple[nn.Module, int]]] = {
    "conv4": conv4,
    "dense": dense,
}


def make_network(
    name: str, outputs: int, *, hidden: int = 64, pool: str = "mean", batch_norm: str = "batch"
) -> FewShotNetwork:
    """Build a network.

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
    make = look_up("network", name, BODIES)
    look_up("pool", pool, dict.fromkeys(POOLS))
    look_up("batch_norm", batch_norm, dict.fromkeys(BATCH_NORMS))
    check_at_least(1, hidden=hidden)
    body, features = make(hidden, pool, batch_norm)
    return FewShotNetwork(body, features, outputs)

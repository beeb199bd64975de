"""Tasks on MNIST-1D, drawn textures, and a photograph."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from meta_train.evaluation.benchmark.tasks import mnist1d, models, textures
from meta_train.evaluation.benchmark.workload import (
    Workload,
    classification,
    regression,
    split,
)

PATCH = 12
"""Side of the photograph's patches in pixels."""


def _mnist1d(model: nn.Module) -> Workload:
    train, test = split(mnist1d.read_mnist1d(), mnist1d.TEST)
    return classification(model, (train[0], train[1]), (test[0], test[1]))


def _textures(model: nn.Module) -> Workload:
    train, test = split(textures.read_textures(), textures.TEST)
    return classification(model, (train[0], train[1]), (test[0], test[1]))


def mnist1d_mlp() -> Workload:
    """A ReLU perceptron with two hidden layers of 100, as in the paper of MNIST-1D."""
    return _mnist1d(models.mlp((40, 100, 100, 10)))


def mnist1d_conv() -> Workload:
    """The conv net of the paper of MNIST-1D."""
    return _mnist1d(models.conv1d(10))


def mnist1d_tanh() -> Workload:
    """A tanh perceptron with two hidden layers of 64."""
    return _mnist1d(models.mlp((40, 64, 64, 10), nn.Tanh))


def deep_tanh_times_4() -> Workload:
    """A tanh perceptron with four hidden layers of 48, at four times its usual initial scale."""
    model = models.mlp((40, 48, 48, 48, 48, 10), nn.Tanh)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return _mnist1d(model)


def rescaled_mlp() -> Workload:
    """A ReLU perceptron whose layers are kept 10 times too small, too large, and too small."""
    return _mnist1d(
        nn.Sequential(
            models.Rescaled(40, 64, 10.0),
            nn.ReLU(),
            models.Rescaled(64, 64, 0.1),
            nn.ReLU(),
            models.Rescaled(64, 10, 10.0),
        )
    )


def textures_conv() -> Workload:
    """A conv net without normalisation."""
    return _textures(models.conv2d(textures.CLASSES, batch_norm=False))


def textures_batch_norm() -> Workload:
    """A conv net with batch normalisation."""
    return _textures(models.conv2d(textures.CLASSES, batch_norm=True))


def textures_residual() -> Workload:
    """A residual net without normalisation."""
    return _textures(models.residual(textures.CLASSES))


def textures_vit() -> Workload:
    """A vision transformer of width 48 with three blocks."""
    return _textures(models.VisionTransformer(textures.CLASSES, textures.SIZE, 48, 3, 4))


@functools.cache
def _photo() -> Tensor:
    """scikit-learn's flower.jpg in grey, mean 0 and variance 1, `[427, 640]`."""
    from sklearn.datasets import load_sample_image

    grey = torch.tensor(load_sample_image("flower.jpg")).float().mean(2)
    return (grey - grey.mean()) / grey.std()


@functools.cache
def _patches() -> Tensor:
    patches = _photo().unfold(0, PATCH, 8).unfold(1, PATCH, 8).reshape(-1, PATCH * PATCH)
    return patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))]


def photo_autoencoder() -> Workload:
    """An autoencoder 144-96-12-96-144 of patches of 12 x 12 pixels."""
    train, test = split((_patches(), _patches()), 500)
    sizes = (PATCH * PATCH, 96, 12, 96, PATCH * PATCH)
    return regression(models.mlp(sizes, nn.GELU), (train[0], train[1]), (test[0], test[1]))


def implicit_image() -> Workload:
    """A part of the photograph as a function of the place: train on 1024 random pixels of 48 x 48.

    Waves of random frequencies, then two hidden layers of 64.
    """
    pixels = _photo()[180:228, 270:318]
    line = torch.linspace(-1, 1, 48)
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    values = pixels.reshape(-1, 1)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    train, test = split((places[order], values[order]), 48 * 48 - 1024)
    model = nn.Sequential(models.Waves(2, 32, 4.0), models.mlp((64, 64, 64, 1)))
    return regression(model, (train[0], train[1]), (test[0], test[1]))

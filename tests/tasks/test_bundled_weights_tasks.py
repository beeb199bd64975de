"""The tasks that the bundled weights were meta-trained on draw the same numbers as then."""

import pytest
import torch

from meta_train.runtime.seeding import generator
from meta_train.tasks import DigitsMLP, Quadratic

CPU = torch.device("cpu")


def sample(task, seed=0):
    return task.sample(generator("problem", seed), CPU)


DRAWN = [
    80.80120384693146,
    1.6768000274896622,
    22.72446833809954,
    0.9917321892571636,
    2488.375,
    76.67089280672371,
    10.016489863395691,
]


def test_draws_are_those_of_the_first_release():
    """Otherwise the record of how the bundled weights were trained would be wrong."""
    digits, quadratic = sample(DigitsMLP()), sample(Quadratic())
    images, _ = digits.draw(generator("batch"))
    sums = [
        *(float(value.double().abs().sum()) for value in digits.parameters.values()),
        float(images.double().sum()),
        float(quadratic.full()[0].double().abs().sum()),
        float(quadratic.parameters["theta"].double().abs().sum()),
    ]
    assert sums == pytest.approx(DRAWN, rel=1e-6)

"""Six small trainings of networks, to see a rule at work: synthetic images, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learned_opt.explanation.measurements.probe import make_context
from learned_opt.functional import apply_update, compute_updates
from learned_opt.rules.base import Context, State, UpdateRule

SIDE = 8
CLASSES = 10
EXAMPLES = 4096
BATCH = 32


@dataclass(frozen=True)
class TrainingStep:
    """One step of a training, for the tensors of the network in order.

    Attributes:
        names: of the tensors.
        gradients: `[*param]` each.
        parameters: before the step.
        states: before the step.
        updates: added to the parameters, `[*param]` each.
        new_states: after the step.
        context: given to the rule.
        loss: of the batch.
    """

    names: list[str]
    gradients: list[Tensor]
    parameters: list[Tensor]
    states: list[State]
    updates: list[Tensor]
    new_states: list[State]
    context: Context
    loss: float


def perceptron(width: int, depth: int) -> nn.Module:
    """Hidden layers of one width, with ReLU."""
    sizes = [SIDE * SIDE, *[width] * depth]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES))


def conv_net() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def autoencoder() -> nn.Module:
    """Images through 8 numbers and back."""
    pixels = SIDE * SIDE
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 32),
        nn.Tanh(),
        nn.Linear(32, 8),
        nn.Tanh(),
        nn.Linear(8, 32),
        nn.Tanh(),
        nn.Linear(32, pixels),
    )


TRAININGS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "softmax": lambda: perceptron(0, 0),
        "narrow": lambda: perceptron(8, 2),
        "wide": lambda: perceptron(128, 2),
        "deep": lambda: perceptron(32, 6),
        "conv": conv_net,
        "autoencoder": autoencoder,
    }
)
"""Networks by name: a softmax regression; perceptrons with two hidden layers of 8 and of 128
units, and with six of 32; a small conv net; an autoencoder."""


def images(seed: int) -> tuple[Tensor, Tensor]:
    """Images `[EXAMPLES, 1, 8, 8]`, a smooth pattern a class plus noise, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(CLASSES, 1, 3, 3, generator=generator)
    patterns = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    noise = torch.randn(EXAMPLES, 1, SIDE, SIDE, generator=generator)
    return 0.25 * (patterns[labels] + 2 * noise), labels


def train(rule: UpdateRule, name: str, steps: int, seed: int) -> Iterator[TrainingStep]:
    """Train a network of `TRAININGS`, at the rule's default learning rate.

    Yields:
        Each step. Where loss or update is not finite, the training ends.
    """
    inputs, labels = images(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TRAININGS[name]()
    generator = torch.Generator().manual_seed(seed)
    names = [key for key, _ in module.named_parameters()]
    parameters = [value.detach() for value in module.parameters()]
    states = [rule.init_state(value) for value in parameters]
    for _ in range(steps):
        rows = torch.randint(EXAMPLES, (BATCH,), generator=generator)
        leaves = [value.detach().requires_grad_() for value in parameters]
        with torch.enable_grad():
            output = functional_call(module, dict(zip(names, leaves, strict=True)), (inputs[rows],))
            if name == "autoencoder":
                loss = nn.functional.mse_loss(output, inputs[rows].flatten(1))
            else:
                loss = nn.functional.cross_entropy(output, labels[rows])
            gradients = list(torch.autograd.grad(loss, leaves))
        needs = "total_steps" in rule.required_context()
        context = make_context(rule, steps if needs else None, loss.detach())
        with torch.no_grad():
            deltas, after = compute_updates(rule, gradients, parameters, states, context)
            updates = [rule.default_lr * delta for delta in deltas]
            moved = [
                apply_update(parameter, delta, rule.default_lr)
                for parameter, delta in zip(parameters, deltas, strict=True)
            ]
        if not all(torch.isfinite(value).all() for value in (loss, *moved)):
            return
        yield TrainingStep(
            names, gradients, parameters, states, updates, after, context, loss.item()
        )
        parameters, states = moved, after

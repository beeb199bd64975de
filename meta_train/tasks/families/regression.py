"""Small regression problems: well and ill conditioned, with and without noise of any kind.

Their loss can fall without end where neither targets nor batches are noisy. The step must shrink
there though no noise asks for it, as in physics-informed networks and implicit images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from meta_train.runtime.checks import check_fraction, check_not_negative
from meta_train.tasks.base import Problem, SampledTask, Task, TaskFamily
from meta_train.tasks.families.networks import ACTIVATIONS, make_mlp
from meta_train.tasks.families.sampling import (
    check_names,
    check_range,
    sample_bool,
    sample_choice,
    sample_int,
)
from meta_train.tasks.module_task import ModuleTask


@dataclass(frozen=True, kw_only=True)
class Regression(TaskFamily):
    """Fit a random smooth function of random inputs with an MLP or a linear model.

    The function is a random network with one hidden layer of sines, or linear.

    Attributes:
        inputs: range of the number of inputs.
        outputs: range of the number of outputs.
        depth: range of the hidden layers; 0 is a linear model.
        width: range of the units of a hidden layer.
        activations: names of activations; each task draws one.
        examples: range of the number of examples of a problem.
        batch_size: range of examples per inner step.
        whole_probability: probability that every batch holds all examples, so that gradients have
            no noise.
        noise_probability: probability that the targets are noisy, with a standard deviation of up
            to 1, which is that of the function.
        log_condition: the inputs' covariance has a condition number of exp(U(0, log_condition)).
        scale_spread: the initial weights are multiplied by exp(U(-s, s)), with s this value.

    Raises:
        ValueError: numbers out of range or unknown names.
    """

    inputs: Sequence[int] = (1, 16)
    outputs: Sequence[int] = (1, 4)
    depth: Sequence[int] = (0, 3)
    width: Sequence[int] = (8, 48)
    activations: Sequence[str] = ("tanh", "relu", "gelu", "silu")
    examples: Sequence[int] = (64, 256)
    batch_size: Sequence[int] = (4, 64)
    whole_probability: float = 0.5
    noise_probability: float = 0.5
    log_condition: float = 7.0
    scale_spread: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        check_range("inputs", self.inputs)
        check_range("outputs", self.outputs)
        check_range("width", self.width)
        check_range("examples", self.examples)
        check_range("batch_size", self.batch_size)
        check_range("depth", self.depth, least=0)
        check_names("activation", self.activations, tuple(ACTIVATIONS))
        check_fraction(
            whole_probability=self.whole_probability, noise_probability=self.noise_probability
        )
        check_not_negative(log_condition=self.log_condition, scale_spread=self.scale_spread)

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a function, its examples, a model and a batch size."""
        features, outputs = sample_int(generator, self.inputs), sample_int(generator, self.outputs)
        depth, width = sample_int(generator, self.depth), sample_int(generator, self.width)
        activation = sample_choice(generator, self.activations)
        examples = sample_int(generator, self.examples)
        batch_size = min(sample_int(generator, self.batch_size), examples)
        whole = sample_bool(generator, self.whole_probability)
        noise = 0.0
        if sample_bool(generator, self.noise_probability):
            noise = float(torch.rand((), generator=generator))
        log_condition = self.log_condition * float(torch.rand((), generator=generator))
        x = _correlated(
            torch.randn(2 * examples, features, generator=generator), log_condition, generator
        )
        y = _targets(x, outputs, linear=depth == 0, generator=generator)
        y = y + noise * torch.randn(y.shape, generator=generator)
        make_module = functools.partial(
            make_mlp,
            (features, *[width] * depth, outputs),
            ACTIVATIONS[activation],
            self.scale_spread,
        )
        task: Task = ModuleTask(
            make_module, nn.functional.mse_loss, (x, y), batch_size, examples=examples
        )
        return SampledTask("regression", WholeBatches(task) if whole else task)

    def held_out(self) -> dict[str, Task]:
        """One task without and one with noise, both with two hidden layers."""
        fixed = replace(self, depth=(2, 2), width=(32, 32), inputs=(4, 4), scale_spread=0.0)
        quiet = replace(fixed, whole_probability=1.0, noise_probability=0.0)
        noisy = replace(fixed, whole_probability=0.0, noise_probability=1.0)
        return {
            title: family.sample_task(torch.Generator().manual_seed(12345)).task
            for title, family in {"without noise": quiet, "with noise": noisy}.items()
        }


class WholeBatches(Task):
    """The problems of a task, each batch with all training data: gradients without noise.

    Args:
        task: its problems have little data.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem of the task; without validation data, whose batches are smaller."""
        problem = self.task.sample(generator, device)
        return replace(problem, draw=lambda _: problem.full(), draw_validation=None)


def _correlated(inputs: Tensor, log_condition: float, generator: torch.Generator) -> Tensor:
    """Inputs `[M, n]` with a covariance of about that condition, and a mean square of 1."""
    n = inputs.shape[1]
    rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=generator))
    scale = torch.exp(-0.5 * log_condition * torch.linspace(0, 1, n))
    found: Tensor = inputs * scale @ rotation
    return found / found.square().mean().sqrt()


def _targets(inputs: Tensor, outputs: int, *, linear: bool, generator: torch.Generator) -> Tensor:
    """Values `[M, outputs]` of a random function, of unit variance."""
    n = inputs.shape[1]
    if linear:
        values = inputs @ torch.randn(n, outputs, generator=generator)
    else:
        hidden = 2 * inputs @ torch.randn(n, 32, generator=generator) / math.sqrt(n)
        phase = 2 * math.pi * torch.rand(32, generator=generator)
        values = torch.sin(hidden + phase) @ torch.randn(32, outputs, generator=generator)
    centred: Tensor = values - values.mean(0)
    return centred / centred.square().mean().sqrt().clamp(min=1e-6)

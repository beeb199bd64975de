"""Classic test functions of numerical optimization, with two or more variables.

Jamil & Yang 2013 (arXiv 1308.4008) list them with their domains. Each is written as a sum of terms
that are at least 0, so that rounding cannot make it negative. The minimum is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from meta_train.runtime.checks import check_at_least
from meta_train.tasks.base import (
    Batch,
    Problem,
    SampledTask,
    Task,
    TaskFamily,
    Tensors,
    family_name,
)
from meta_train.tasks.families.sampling import check_names, check_range, sample_choice, sample_int

STYBLINSKI_TANG_MINIMUM = -2.903534027771177
"""The lowest root of 4 x^3 - 32 x + 5."""


def rosenbrock(x: Tensor) -> Tensor:
    """A curved valley (Rosenbrock 1960)."""
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def beale(x: Tensor) -> Tensor:
    """Steep walls around a flat floor (Beale 1958)."""
    a, b = x[0], x[1]
    residuals = [c - a * (1 - b**k) for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))]
    return torch.stack(residuals).square().sum()


def himmelblau(x: Tensor) -> Tensor:
    """Four minima, each 0 (Himmelblau 1972)."""
    a, b = x[0], x[1]
    return (a.square() + b - 11).square() + (a + b.square() - 7).square()


def booth(x: Tensor) -> Tensor:
    """An inclined quadratic."""
    a, b = x[0], x[1]
    return (a + 2 * b - 7).square() + (2 * a + b - 5).square()


def matyas(x: Tensor) -> Tensor:
    """A quadratic of condition number 25."""
    a, b = x[0], x[1]
    return 0.24 * (a - b).square() + 0.02 * (a.square() + b.square())


def rastrigin(x: Tensor) -> Tensor:
    """A bowl with a local minimum near every integer point (Rastrigin 1974)."""
    return (x.square() + 10 * (1 - (2 * math.pi * x).cos())).sum()


def ackley(x: Tensor) -> Tensor:
    """Nearly flat far from the minimum, with many local minima (Ackley 1987)."""
    radius = (x.square().mean() + 1e-12).sqrt()  # smooth at the minimum, 0
    waves = (2 * math.pi * x).cos().mean()
    return -20 * torch.expm1(-0.2 * radius) - math.e * torch.expm1(waves - 1)


def styblinski_tang(x: Tensor) -> Tensor:
    """Two minima in every coordinate, one lower than the other (Styblinski & Tang 1990)."""
    a = STYBLINSKI_TANG_MINIMUM
    # (x^4 - 16 x^2 + 5 x) / 2 minus its minimum; the double root there is factored out.
    return ((x - a).square() * (x.square() + 2 * a * x + 3 * a**2 - 16) / 2).sum()


def griewank(x: Tensor) -> Tensor:
    """A wide bowl with ripples (Griewank 1981)."""
    count = torch.arange(1, len(x) + 1, device=x.device)
    return x.square().sum() / 4000 + (1 - (x / count.sqrt()).cos().prod())


def zakharov(x: Tensor) -> Tensor:
    """A plate that rises with the fourth power along one direction."""
    tilt = (0.5 * torch.arange(1, len(x) + 1, device=x.device) * x).sum()
    return x.square().sum() + tilt.square() + tilt**4


@dataclass(frozen=True)
class Function:
    """A function `[n] -> 0-dim` with minimum 0.

    Attributes:
        value: the function.
        start_range: coordinates start in U(-start_range, start_range).
        dimensions: n; None for any n from 2.
    """

    value: Callable[[Tensor], Tensor]
    start_range: float
    dimensions: int | None = None


FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "rosenbrock": Function(rosenbrock, 2.0),
        "beale": Function(beale, 3.0, 2),
        "himmelblau": Function(himmelblau, 5.0, 2),
        "rastrigin": Function(rastrigin, 5.12),
        "ackley": Function(ackley, 5.0),
        "styblinski-tang": Function(styblinski_tang, 5.0),
        "booth": Function(booth, 10.0, 2),
        "matyas": Function(matyas, 10.0, 2),
        "griewank": Function(griewank, 10.0),
        "zakharov": Function(zakharov, 5.0),
    }
)

HELD_OUT_FUNCTIONS = ("matyas", "griewank", "zakharov")
"""Functions for evaluation only. The family does not draw them by default."""

DEFAULT_FUNCTIONS = tuple(name for name in FUNCTIONS if name not in HELD_OUT_FUNCTIONS)


class TestFunction(Task):
    """One test function, with a random shift and a random start for each problem.

    Args:
        function: a key of `FUNCTIONS`.
        dimensions: number of variables, for functions that take any number.

    Raises:
        ValueError: an unknown function, or fewer than two dimensions.
    """

    __test__ = False  # not a test class: tells pytest not to collect it

    def __init__(self, function: str, dimensions: int = 2) -> None:
        check_names("test function", [function], tuple(FUNCTIONS))
        check_at_least(2, dimensions=dimensions)
        self.function = function
        self._function = FUNCTIONS[function]
        self.dimensions = self._function.dimensions or dimensions

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a start, and a shift in U(-1, 1) so that a rule cannot learn where minima are."""
        n = self.dimensions
        start = (2 * torch.rand(n, generator=generator) - 1) * self._function.start_range
        shift = (2 * torch.rand(n, generator=generator) - 1).to(device)
        parameters = {"x": start.to(device) + shift}
        return Problem(parameters, {}, self.loss, lambda _: shift, lambda: shift)

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The value of the function. The batch is the shift `[n]`."""
        return self._function.value(parameters["x"] - batch), buffers


class TestFunctions(TaskFamily):
    """Random test functions with a random number of variables.

    Args:
        functions: names of functions; each task draws one.
        dimensions: range of the number of variables, for functions that take any number.

    Raises:
        ValueError: an unknown function, or numbers out of range.
    """

    __test__ = False  # not a test class: tells pytest not to collect it

    def __init__(
        self,
        *,
        functions: Sequence[str] = DEFAULT_FUNCTIONS,
        dimensions: Sequence[int] = (2, 10),
    ) -> None:
        self.functions = check_names("test function", functions, tuple(FUNCTIONS))
        self.dimensions = check_range("dimensions", dimensions, least=2)

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a function and a number of variables."""
        function = sample_choice(generator, self.functions)
        task = TestFunction(function, sample_int(generator, self.dimensions))
        return SampledTask(family_name(type(self)), task)

    def held_out(self) -> dict[str, Task]:
        """A function of the family, and the functions that the family does not draw."""
        others = [name for name in HELD_OUT_FUNCTIONS if name not in self.functions]
        first = self.functions[0]
        return {
            f"{first}, 2 variables": TestFunction(first),
            **{f"{name}, 2 variables": TestFunction(name) for name in others},
        }

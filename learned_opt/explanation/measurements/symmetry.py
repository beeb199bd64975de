"""Panel 6: whether updates follow changes of sign, scale and coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from learned_opt.explanation.measurements.probe import SPREAD, make_context
from learned_opt.rules.base import UpdateRule

SHAPE = (6, 10)
STEPS = 20
FACTOR = 10.0
"""Gradients and loss are ten times as large in the test of scale."""

EXACT = 1e-3
"""Smaller deviations count as none: rounding, and constants that keep divisors from 0."""


@dataclass(frozen=True)
class Change:
    """A change of a problem, and the change of the updates with which a symmetric rule answers.

    Attributes:
        gradient: of the gradients.
        weights: of the parameters and of the updates.
        loss: factor on the loss.
    """

    gradient: Callable[[Tensor], Tensor]
    weights: Callable[[Tensor], Tensor]
    loss: float = 1.0


def _rows_and_columns(value: Tensor) -> Tensor:
    order = torch.Generator().manual_seed(0)
    return value[torch.randperm(SHAPE[0], generator=order)][
        :, torch.randperm(SHAPE[1], generator=order)
    ]


def _coordinates(value: Tensor) -> Tensor:
    order = torch.randperm(value.numel(), generator=torch.Generator().manual_seed(0))
    return value.reshape(-1)[order].reshape(SHAPE)


def _rotation(value: Tensor) -> Tensor:
    left, right = (_orthogonal(size).to(value.dtype) for size in SHAPE)
    return left @ value @ right


def _orthogonal(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    square = torch.randn(size, size, generator=generator, dtype=torch.float64)
    orthogonal: Tensor = torch.linalg.qr(square)[0]
    return orthogonal


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "sign": Change(lambda g: -g, lambda p: -p),
        "scale": Change(lambda g: FACTOR * g, lambda p: p, FACTOR),
        "rows and columns": Change(_rows_and_columns, _rows_and_columns),
        "coordinates": Change(_coordinates, _coordinates),
        "rotation": Change(_rotation, _rotation),
    }
)
"""Changes of a problem: both signs flipped; gradients and loss ten times as large; rows and columns
of a matrix in another order; its coordinates in any order; its rows and columns rotated."""

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "sign": "sign flips",
        "scale": "rescaled gradients",
        "rows and columns": "reordered rows and columns",
        "coordinates": "reordered coordinates",
        "rotation": "rotations",
    }
)


@dataclass(frozen=True)
class Symmetry:
    """Deviations by the names of `CHANGES`, from 0, symmetric, to 1.

    |u' - c(u)| / (|u'| + |c(u)|), where u are the updates of `STEPS` steps, u' those of the changed
    problem, and c(u) the changed updates. Gradients 10 times as large give SGD 9/11 = 0.82.
    """

    deviations: Mapping[str, float]

    def sentence(self) -> str:
        """Describes the measurement."""
        exact = [WORDS[name] for name, value in self.deviations.items() if value < EXACT]
        broken = {name: value for name, value in self.deviations.items() if value >= EXACT}
        parts = [f"It is symmetric under {_list(exact)}"] if exact else []
        if broken:
            worst = max(broken, key=lambda name: broken[name])
            size = f"{broken[worst]:.2f}" if broken[worst] > 0.01 else f"{broken[worst]:.1g}"
            change = WORDS[worst] if exact else WORDS[worst].capitalize()
            parts.append(f"{change} change its updates most (deviation {size} of 1)")
        return f"{'; '.join(parts)}."


def _list(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def measure_symmetry(rule: UpdateRule, typical: float) -> Symmetry:
    """Measure deviations on one matrix, under noise with a steady part."""
    generator = torch.Generator().manual_seed(6)
    parameter = SPREAD * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    steady = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(STEPS, *SHAPE, generator=generator, dtype=torch.float64)
    gradients = typical * (0.5 * steady + noise)
    plain = _updates(rule, gradients, parameter, 1.0)
    deviations = {}
    for name, change in CHANGES.items():
        changed = torch.stack([change.gradient(gradient) for gradient in gradients])
        found = _updates(rule, changed, change.weights(parameter), change.loss)
        expected = torch.stack([change.weights(update) for update in plain])
        total = (found.norm() + expected.norm()).item()
        deviations[name] = (found - expected).norm().item() / total if total > 0 else 0.0
    return Symmetry(MappingProxyType(deviations))


@torch.no_grad()
def _updates(rule: UpdateRule, gradients: Tensor, parameter: Tensor, loss: float) -> Tensor:
    """The updates of one matrix, `[STEPS, *SHAPE]`, in float64."""
    context = make_context(rule, None, loss)
    parameter = parameter.to(rule.dtype)
    state = rule.init_state(parameter)
    updates = []
    for gradient in gradients.to(rule.dtype):
        (delta,), (state,) = rule([gradient], [parameter], [state], context)
        updates.append(rule.default_lr * delta)
        parameter = parameter + rule.default_lr * delta
    return torch.stack(updates).double()

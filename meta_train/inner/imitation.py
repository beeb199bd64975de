"""Imitation: the distance of our updates from those of a hand-designed teacher.

The student trains. At every step the teacher computes its own update from the same point and the
same gradient. Chen et al. 2020 (arXiv 2010.09089) imitate Adam so that training does not stall; ELO
2026 (arXiv 2607.06772) compares direction and size separately, as here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from learned_opt.functional import compute_updates
from learned_opt.rules import create_rule
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule
from meta_train.inner.state import InnerState
from meta_train.tasks.base import Tensors

TINY = 1e-30


@dataclass(frozen=True)
class Teacher:
    """A rule to imitate, at one learning rate.

    Attributes:
        rule: hand-designed; reads gradients only.
        lr: its learning rate.
    """

    rule: UpdateRule
    lr: float

    def compare(
        self,
        inner: InnerState,
        gradients: Tensors,
        losses: Tensor,
        moved: Tensors,
        *,
        vectorize: bool,
    ) -> tuple[Tensor, dict[str, State]]:
        """Compare the step from `inner` to `moved` with the teacher's.

        Args:
            inner: the state before the step.
            gradients: inner gradients by name.
            losses: 0-dim or `[runs]`.
            moved: parameters after our step, by name.
            vectorize: tensors have a leading axis of runs.

        Returns:
            1 - cosine + (log |ours| - log |teacher's|)^2, the mean over tensors, 0-dim or `[runs]`,
            and the teacher's new states. No derivative flows through the teacher. Tensors that
            either update leaves unchanged do not count.
        """
        names = list(inner.parameters)
        with torch.no_grad():
            deltas, states = self._compute_updates(inner, gradients, vectorize)
        total = torch.zeros_like(losses)
        counted = torch.zeros_like(losses)
        axis = 1 if vectorize else 0
        for name, delta in zip(names, deltas, strict=True):
            ours = (moved[name] - inner.parameters[name]).flatten(axis)
            theirs = (self.lr * delta).flatten(axis).to(ours.dtype)
            ours, theirs = (t.unsqueeze(-1) if t.dim() == axis else t for t in (ours, theirs))
            size, aim = ours.square().sum(-1), theirs.square().sum(-1)
            moves = (size > TINY) & (aim > TINY)
            size, aim = (torch.where(moves, value, torch.ones_like(value)) for value in (size, aim))
            cosine = (ours * theirs).sum(-1) / (size * aim).sqrt()
            distance = 1 - cosine + (0.5 * (size.log() - aim.log())).square()
            total = total + torch.where(moves, distance, torch.zeros_like(distance))
            counted = counted + moves
        return total / counted.clamp_min(1), dict(zip(names, states, strict=True))

    def _compute_updates(
        self, inner: InnerState, gradients: Tensors, vectorize: bool
    ) -> tuple[list[Tensor], list[State]]:
        def one_step(
            gradients: list[Tensor], parameters: list[Tensor], states: list[State]
        ) -> tuple[list[Tensor], list[State]]:
            return compute_updates(self.rule, gradients, parameters, states, Context())

        if vectorize and not isinstance(self.rule, CoordinateRule):
            one_step = vmap(one_step)
        return one_step(
            [gradients[name].detach() for name in inner.parameters],
            [value.detach() for value in inner.parameters.values()],
            [inner.teacher[name] for name in inner.parameters],
        )


def create_teacher(
    name: str | None, lr: float | None, device: torch.device, dtype: torch.dtype
) -> Teacher | None:
    """Make a teacher from a registered rule.

    Args:
        name: name of the rule; None makes no teacher.
        lr: its learning rate; None takes the rule's own.
        device: device of its state.
        dtype: type of its state.

    Raises:
        ValueError: the rule is unknown or not hand-designed.
    """
    if name is None:
        return None
    rule = create_rule(name).to(device, dtype)
    if list(rule.parameters()) or rule.required_context():
        raise ValueError(
            f"rule {name!r} cannot be imitated: it has weights or reads more than gradients"
        )
    return Teacher(rule, rule.default_lr if lr is None else lr)

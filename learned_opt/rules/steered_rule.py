"""Rules whose network bends the steps of a hand-designed base, tensor by tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from learned_opt.rules.base import Context, Gates, State, UpdateRule


@dataclass(frozen=True)
class SteeredStep:
    """One step of n tensors, and how the network bent it.

    Attributes:
        deltas: as the rule returns them, `[*param]` each.
        gates: gates of the network by name, `[n, H]`; empty if it has none.
        schedule: the base's schedule, `[n]`, a factor on its step size.
        multiplier: the network's factor on the step size, `[n]`; 1 before training.
        mix: root mean square of each part of the direction before they are added, `[n]` by name,
            negative where the part is subtracted; empty if the direction is the base's own.
        coordinate_gates: gates of a network of each coordinate, `[*param, K]` by name, for each
            tensor; empty if there is none.
    """

    deltas: Sequence[Tensor]
    gates: Gates
    schedule: Tensor
    multiplier: Tensor
    mix: Mapping[str, Tensor]
    coordinate_gates: Sequence[Gates] = field(default_factory=tuple)


class SteeredRule(UpdateRule, ABC):
    """Abstract: a rule whose network bends step size and direction of a hand-designed base."""

    @abstractmethod
    def steered_step(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> SteeredStep:
        """Compute the step from `states` once more, with the part of the network in it.

        The arguments are those of `forward`.

        Raises:
            ValueError: the context lacks a field that the rule needs.
        """

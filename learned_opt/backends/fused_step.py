"""The contract of code that takes a rule's step in place of the rule: faster, same numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from torch import Tensor

from learned_opt.backends.places import Places
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.updates import PendingUpdate

R = TypeVar("R", bound=UpdateRule)


class FusedStep(ABC):
    """Abstract: the step of one class of rules, in place.

    It does all that `LearnedOptimizer` does with a rule: reads gradient, parameter and state, and
    writes parameter, state and `step`. `registry.py` names the class beside the rule that it
    stands for. An optimizer makes one object of it, which may keep buffers between steps.

    Numbers equal the rule's to rounding. **A tensor is written only if every number that is written
    is finite**; a step leaves all others untouched and returns them. The optimizer then steps those
    by the rule itself, which skips, counts and warns. So there is one place that judges doubtful
    numbers, and sums that bound the move are enough here.
    """

    shares_signals: ClassVar[bool] = False
    """Whether the update of a tensor depends on the others: then it steps all of a call or none."""

    code: ClassVar[str] = "torch"
    """What it is written in: torch, C, torch and C, or Triton."""

    @property
    @abstractmethod
    def device_type(self) -> str:
        """The type of the devices whose tensors it steps, such as cpu or cuda."""

    @abstractmethod
    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Why it cannot take the rule's steps on this machine; None if it can.

        Cheap: asked in each step, since a rule can be cast in mid-run.
        """

    @abstractmethod
    def refuses_parameter(self, parameter: Tensor) -> str | None:
        """Why it cannot step a parameter, whatever its gradient; None if it can."""

    @abstractmethod
    def refuses(self, rule: UpdateRule, update: PendingUpdate) -> str | None:
        """Why it cannot step a tensor with this gradient and state; None if it can.

        Asked again where a key of the state, a dtype, a shape or a stride has changed, not numbers.
        """

    @abstractmethod
    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """Step tensors that it does not refuse, on one device.

        Args:
            rule: whose step it is; its weights may change between steps, also in place.
            places: the updates, at least one, and where their tensors lie. Gradients are not yet
                negated for `maximize`. The learning rate, a float or a tensor, and the weight decay
                are in each one's `group`.
            context: checked by `rule.check_context`; its loss is not yet negated.
            maximize: step against the negated gradients and the negated loss.

        Returns:
            The tensors that were left untouched; or parts of tensors, under rules that treat
            coordinates alone.
        """


def expect(rule: UpdateRule, cls: type[R]) -> R:
    """The rule, of a class that a step is for.

    Raises:
        TypeError: it is of another class.
    """
    if not isinstance(rule, cls):
        raise TypeError(f"expected {cls.__name__}, got {type(rule).__name__}")
    return rule


class DeviceStep(FusedStep, ABC):
    """Abstract: a step on an accelerator, whose numbers the host does not wait for.

    Only the device knows which tensors have doubtful numbers. So it leaves none to the rule: those
    stay as they are, bit for bit, and the optimizer counts them as skipped.

    Attributes:
        judged: the tensors of the last step.
        written: whether each of them was written, `[n]`, boolean, on the device.
    """

    def __init__(self) -> None:
        self.judged: Sequence[PendingUpdate] = []
        self.written: Tensor | None = None

    def judge(self, updates: Sequence[PendingUpdate], written: Tensor) -> None:
        """Note which tensors a step has written; `step` calls it."""
        self.judged, self.written = updates, written

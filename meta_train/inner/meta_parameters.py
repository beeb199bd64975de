"""The meta-parameters: weights of an update rule and, if it is learned, an initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType

import torch
from torch import Tensor, nn

from learned_opt.checks.arguments import check_type
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.rule_argument import check_rule
from meta_train.inner.state import InnerState
from meta_train.tasks.base import Problem, Tensors


class MetaParameters(nn.Module):
    """The tensors that meta-training trains.

    Args:
        rule: the update rule; may have no weights (SGD, say) if the initialisation is learned.
        initialization: initial values by parameter name; None keeps those of each problem.

    Raises:
        ValueError: neither has anything to train.
    """

    def __init__(
        self, rule: UpdateRule, initialization: Mapping[str, Tensor] | None = None
    ) -> None:
        check_rule(rule)
        check_type("initialization", initialization, (Mapping, NoneType), "tensors by name")
        super().__init__()
        self.rule = rule
        self.names = tuple(initialization or ())
        # A list: names of parameters have dots, names of modules must not.
        self.values = nn.ParameterList(
            nn.Parameter(value.detach().clone()) for value in (initialization or {}).values()
        )
        if not list(self.parameters()):
            raise ValueError(
                f"rule {type(rule).__name__} has no weights to meta-train, and no initialisation "
                "is learned"
            )

    @property
    def learns_initialization(self) -> bool:
        """Whether the initialisation is among the meta-parameters."""
        return bool(self.names)

    def initialization(self) -> Tensors:
        """Return the initialisation by parameter name; empty if it is not learned."""
        return dict(zip(self.names, self.values, strict=True))

    def place(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return the problems with the learned initialisation, without its history.

        Parameters that are not learned keep the problem's own initial values.

        Raises:
            ValueError: the initialisation has names or shapes that a problem does not have.
        """
        learned = self.initialization()
        if not learned:
            return list(problems)
        for problem in problems:
            self._check(problem)
        begin = {key: value.detach() for key, value in learned.items()}  # shared by all

        def placed(own: Tensors) -> Tensors:
            return {key: begin.get(key, value) for key, value in own.items()}

        return [
            replace(one, parameters=placed(one.parameters), fixed=placed(one.fixed))
            for one in problems
        ]

    def _check(self, problem: Problem) -> None:
        learned = self.initialization()
        known = {**problem.fixed, **problem.parameters}
        unknown = sorted(learned.keys() - known.keys())
        if unknown:
            raise ValueError(
                f"the learned initialisation has {unknown}, which the task does not have"
            )
        for key, value in learned.items():
            if known[key].shape != value.shape:
                raise ValueError(
                    f"the learned initialisation of {key!r} has shape {list(value.shape)}, "
                    f"the task's has {list(known[key].shape)}"
                )


def connect_initialization(
    inner: InnerState, initialization: Tensors, just_started: Tensor
) -> InnerState:
    """Replace values in a state by the learned initialisation, so that gradients reach it.

    Args:
        inner: the state, `[runs, ...]`.
        initialization: the learned initialisation by name; may be empty.
        just_started: runs that have taken no step yet, `[runs]` bool, on the CPU. Their parameters
            are replaced; fixed tensors are replaced in all runs.
    """
    if not initialization:
        return inner
    every = bool(just_started.all())

    def connect(key: str, value: Tensor, *, always: bool) -> Tensor:
        if key not in initialization:
            return value
        own = initialization[key].to(value)
        if always:
            return own.expand_as(value)
        mask = just_started.to(value.device).reshape(-1, *[1] * own.dim())
        return torch.where(mask, own, value)

    return replace(
        inner,
        parameters={k: connect(k, v, always=every) for k, v in inner.parameters.items()},
        fixed={k: connect(k, v, always=True) for k, v in inner.fixed.items()},
    )

"""The meta-parameters: an update rule's weights and, where it is learned, an initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from learned_opt.rules.base import UpdateRule
from meta_train.inner.state import InnerState
from meta_train.tasks.base import Problem, Tensors


class MetaParameters(nn.Module):
    """What meta-training trains: the rule, and where inner training starts.

    Args:
        rule: omega; may have no weights (SGD, say) where the initialisation is learned.
        initialization: phi by parameter name; None starts each problem where its task says.

    Raises:
        ValueError: nothing to meta-train.
    """

    def __init__(
        self, rule: UpdateRule, initialization: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.rule = rule
        self.names = tuple(initialization or ())
        # A list: names of parameters have dots, which those of modules may not.
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
        """Whether phi is among the meta-parameters."""
        return bool(self.names)

    def initialization(self) -> Tensors:
        """Phi by parameter name; empty where it is not learned."""
        return dict(zip(self.names, self.values, strict=True))

    def place(self, problems: Sequence[Problem]) -> list[Problem]:
        """The same problems from the learned initialisation, without its history, if there is one.

        Parameters that it does not have start as the problems say.

        Raises:
            ValueError: it has names or shapes that a problem has not.
        """
        phi = self.initialization()
        if not phi:
            return list(problems)
        for problem in problems:
            self._check(problem)
        begin = {key: value.detach() for key, value in phi.items()}  # the same tensors for all

        def placed(own: Tensors) -> Tensors:
            return {key: begin.get(key, value) for key, value in own.items()}

        return [
            replace(one, parameters=placed(one.parameters), fixed=placed(one.fixed))
            for one in problems
        ]

    def _check(self, problem: Problem) -> None:
        phi = self.initialization()
        known = {**problem.fixed, **problem.parameters}
        unknown = sorted(phi.keys() - known.keys())
        if unknown:
            raise ValueError(f"the learned initialisation has {unknown}, which the task has not")
        for key, value in phi.items():
            if known[key].shape != value.shape:
                raise ValueError(
                    f"the learned initialisation of {key!r} has shape {list(value.shape)}, "
                    f"the task's has {list(known[key].shape)}"
                )


def link(inner: InnerState, phi: Tensors, begins: Tensor) -> InnerState:
    """The same runs, at the learned initialisation itself: with a way for its gradient.

    Args:
        inner: of `[runs, ...]`.
        phi: the learned initialisation by name; may be empty.
        begins: runs that begin now, `[runs]` bool, on the CPU. What inner training leaves as it is
            follows the initialisation at any age.
    """
    if not phi:
        return inner
    every = bool(begins.all())

    def linked(key: str, value: Tensor, *, always: bool) -> Tensor:
        if key not in phi:
            return value
        own = phi[key].to(value)
        if always:
            return own.expand_as(value)
        mask = begins.to(value.device).reshape(-1, *[1] * own.dim())
        return torch.where(mask, own, value)

    return replace(
        inner,
        parameters={k: linked(k, v, always=every) for k, v in inner.parameters.items()},
        fixed={k: linked(k, v, always=True) for k, v in inner.fixed.items()},
    )

"""Checks what a rule returned: deltas and states shaped like the tensors that it was given.

A delta of another shape would be broadcast in silence, and a state of another shape would be copied
over the old one or carried on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


class WrongResult(ValueError):
    """Raised where the result of a rule does not fit its tensor.

    Args:
        rule: name of the rule's class.
        problem: the result, and the one that would fit.
        position: of the tensor, in the lists that the rule was given.
        shape: of that tensor.
    """

    def __init__(self, rule: str, problem: str, position: int, shape: Sequence[int]) -> None:
        super().__init__(f"rule {rule} returned {problem} for tensor {position}, {list(shape)}")
        self.rule = rule
        self.problem = problem
        self.position = position
        self.shape = shape

    def named(self, name: str) -> ValueError:
        """The same error with the name of the parameter."""
        return ValueError(
            f"rule {self.rule} returned {self.problem} for parameter {name}, {list(self.shape)}"
        )


def check_results(
    rule: str,
    gradients: Sequence[Tensor],
    states: Sequence[Mapping[str, Tensor]],
    deltas: Sequence[Tensor],
    new_states: Sequence[Mapping[str, Tensor]],
) -> None:
    """Check the results of one step: about a microsecond for each tensor.

    Args:
        rule: name of the rule's class.
        gradients: the rule's input, `[*param]` each.
        states: before the step.
        deltas: returned by the rule.
        new_states: returned by the rule.

    Raises:
        ValueError: the lists have other lengths.
        WrongResult: a delta is not shaped like its tensor, or a state tensor is not shaped like
            the one before, is new, or is `step` and missing. Others may be missing: a state may
            hold what hooks of the user's own keep in it, which rules do not return.
    """
    if not len(deltas) == len(new_states) == len(gradients):
        raise ValueError(
            f"rule {rule} returned {len(deltas)} deltas and {len(new_states)} states for "
            f"{len(gradients)} tensors"
        )
    for k, gradient in enumerate(gradients):
        shape, old, new = gradient.shape, states[k], new_states[k]
        for value in (deltas[k], *new.values()):
            if not isinstance(value, Tensor):
                raise WrongResult(rule, f"a {type(value).__name__}, not a tensor,", k, shape)
        if deltas[k].shape != shape:
            raise WrongResult(rule, f"a delta of shape {list(deltas[k].shape)}", k, shape)
        if deltas[k].dtype != gradient.dtype and not deltas[k].is_floating_point():
            raise WrongResult(rule, f"a delta of {deltas[k].dtype}", k, shape)
        if "step" not in new or not new.keys() <= old.keys():
            wrong = f"a state of {_listed(new)} in place of {_listed(old)}"
            raise WrongResult(rule, wrong, k, shape)
        for key, value in new.items():
            if value.shape != old[key].shape:
                had, got = list(old[key].shape), list(value.shape)
                wrong = f"a state {key!r} of shape {got} in place of {had}"
                raise WrongResult(rule, wrong, k, shape)


def _listed(state: Mapping[str, Tensor]) -> str:
    return ", ".join(map(repr, sorted(state))) or "nothing"

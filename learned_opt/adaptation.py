"""A few steps of an update rule on a few examples: a user's module, adapted."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learned_opt.functional import apply_rule, check_proximal, half_square_distance
from learned_opt.rules import create_rule, list_rules
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.weights import from_pretrained

if TYPE_CHECKING:
    from learned_opt.initializers import Initialization

M = TypeVar("M", bound=nn.Module)

STEPS = 5


@overload
def adapt(
    module: M,
    support: Any,
    *,
    rule: UpdateRule | str | PathLike[str] | None = ...,
    lr: float | Tensor | None = ...,
    steps: int | None = ...,
    loss: Callable[[Any, Any], Tensor] = ...,
    initialization: Initialization | None = ...,
    keep: Iterable[str] = ...,
    only: Iterable[str] | None = ...,
    proximal: float | None = ...,
    functional: Literal[False] = ...,
    create_graph: bool = ...,
) -> M: ...


@overload
def adapt(
    module: nn.Module,
    support: Any,
    *,
    rule: UpdateRule | str | PathLike[str] | None = ...,
    lr: float | Tensor | None = ...,
    steps: int | None = ...,
    loss: Callable[[Any, Any], Tensor] = ...,
    initialization: Initialization | None = ...,
    keep: Iterable[str] = ...,
    only: Iterable[str] | None = ...,
    proximal: float | None = ...,
    functional: Literal[True],
    create_graph: bool = ...,
) -> dict[str, Tensor]: ...


def adapt(
    module: nn.Module,
    support: Any,
    *,
    rule: UpdateRule | str | PathLike[str] | None = None,
    lr: float | Tensor | None = None,
    steps: int | None = None,
    loss: Callable[[Any, Any], Tensor] = nn.functional.cross_entropy,
    initialization: Initialization | None = None,
    keep: Iterable[str] = (),
    only: Iterable[str] | None = None,
    proximal: float | None = None,
    functional: bool = False,
    create_graph: bool = False,
) -> nn.Module | dict[str, Tensor]:
    """Adapt a module to a support set; the module itself does not change.

    It is run in the mode, training or evaluation, that it is in.

    Args:
        module: any module; what does not require gradients stays as it is.
        support: `(inputs, targets)`, all of it for every step; or a list or a loader of such
            batches, one a step, again from the first after the last. Inputs that are a tuple or
            a dict are the module's positional or keyword arguments.
        rule: an update rule, the name of one without weights ("sgd", "adam"), the name of a
            bundled one, or the path of a weights file. By default the initialisation's, or SGD.
        lr: factor on the update. By default the initialisation's, if the rule is too, or the
            rule's own.
        steps: how many; by default what the initialisation was meta-trained for, or 5.
        loss: `(module output, targets) -> 0-dim`; the mean squared error for regression, say.
        initialization: where to start; by default where the module stands.
        keep: see `Initialization.apply_to`.
        only: names, or beginnings of names, of the parameters to adapt; by default those that the
            initialisation was meta-trained to adapt, or all.
        proximal: hold the steps at the start: half of this times the squared distance from there
            is added to the loss (iMAML's lambda; 0 is without). By default the initialisation's,
            or without.
        functional: return tensors instead of a module.
        create_graph: with `functional`, make them differentiable by the parameters of the module
            and the weights of the rule, through all steps.

    Returns:
        A copy of the module, adapted; or with `functional` its parameters and buffers by name,
        for `torch.func.functional_call(module, adapted, inputs)`.

    Raises:
        ValueError: nothing to adapt, complex parameters, an argument out of range, or an
            initialisation that does not fit the module.
        RuntimeError: the loss is not finite (only without `functional`).
    """
    if create_graph and not functional:
        raise ValueError("create_graph=True needs functional=True: a module's own are leaves")
    if create_graph and initialization is not None:
        raise ValueError(
            "create_graph=True differentiates by the module's own parameters: apply the "
            "initialisation to the module first (initialization.apply_to)"
        )
    if initialization is not None:
        rule = initialization.rule if rule is None else rule
        if lr is None and rule is initialization.rule:
            lr = initialization.lr
        steps = initialization.steps if steps is None else steps
        only = initialization.only if only is None else only
        proximal = initialization.proximal if proximal is None else proximal
        module = initialization.apply_to(copy.deepcopy(module), keep=keep)
    steps = STEPS if steps is None else steps
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    proximal = 0.0 if proximal is None else check_proximal(proximal)
    adapted = _train(
        module,
        _batches(support),
        _find_rule(rule),
        lr,
        steps,
        loss,
        only,
        proximal,
        functional,
        create_graph,
    )
    return adapted if functional else _copy_with(module, adapted)


def _train(
    module: nn.Module,
    batches: Iterator[tuple[Any, Any]],
    rule: UpdateRule,
    lr: float | Tensor | None,
    steps: int,
    loss: Callable[[Any, Any], Tensor],
    only: Iterable[str] | None,
    proximal: float,
    functional: bool,
    create_graph: bool,
) -> dict[str, Tensor]:
    """Parameters and buffers by name after the steps."""
    rate = rule.default_lr if lr is None else lr
    chosen = _chosen(module, only)
    rule = _on_device_of(rule, next(iter(chosen.values())))
    rest: dict[str, Tensor] = {k: v for k, v in module.named_parameters() if k not in chosen}
    buffers = {key: value.clone() for key, value in module.named_buffers()}
    if not create_graph:
        chosen = {key: value.detach().clone() for key, value in chosen.items()}
        rest = {key: value.detach() for key, value in rest.items()}
    anchors = chosen
    states = [rule.init_state(value) for value in chosen.values()]
    planned = torch.full((), float(steps), device=next(iter(chosen.values())).device)
    for step in range(steps):
        with torch.enable_grad():
            if not create_graph:
                chosen = {k: v.detach().requires_grad_() for k, v in chosen.items()}
            inputs, targets = next(batches)
            value = loss(_call(module, {**rest, **chosen, **buffers}, inputs), targets)
            if proximal:
                value = value + proximal * half_square_distance(chosen, anchors)
            gradients = torch.autograd.grad(
                value,
                list(chosen.values()),
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        if not functional and not bool(torch.isfinite(value)):
            raise RuntimeError(
                f"the loss is {float(value.detach())} at step {step + 1} of adaptation: a lower lr "
                "may help"
            )
        with torch.set_grad_enabled(create_graph):
            moved, states = apply_rule(
                rule,
                gradients,
                list(chosen.values()),
                states,
                Context(loss=value.detach(), total_steps=planned),
                lr=rate,
            )
        chosen = dict(zip(chosen, moved, strict=True))
    return {**rest, **chosen, **buffers}


def _call(module: nn.Module, tensors: dict[str, Tensor], inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return functional_call(module, tensors, (), inputs)
    return functional_call(module, tensors, tuple(inputs) if _several(inputs) else (inputs,))


def _several(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _batches(support: Any) -> Iterator[tuple[Any, Any]]:
    # A loader gives a batch as a list of two tensors; a list of batches has pairs in it.
    one = isinstance(support, list) and any(isinstance(part, Tensor) for part in support)
    if isinstance(support, tuple) or one:
        if len(support) != 2:
            raise ValueError(f"support must be (inputs, targets), got {len(support)} parts")
        return itertools.repeat((support[0], support[1]))
    return _again_and_again(support)


def _again_and_again(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    while True:
        count = 0
        for batch in batches:
            count += 1
            if not _several(batch) or len(batch) != 2:
                raise ValueError(
                    "each batch of support must be a pair (inputs, targets), got "
                    f"{type(batch).__name__}"
                )
            yield batch[0], batch[1]
        if not count:
            raise ValueError("support has no batches (an iterator gives them only once)")


def _find_rule(rule: UpdateRule | str | PathLike[str] | None) -> UpdateRule:
    if rule is None:
        return create_rule("sgd")
    if isinstance(rule, UpdateRule):
        return rule
    if isinstance(rule, str) and rule in list_rules():
        created = create_rule(rule)
        if not list(created.parameters()):
            return created
    return from_pretrained(rule)


def _on_device_of(rule: UpdateRule, parameter: Tensor) -> UpdateRule:
    return rule if rule.device == parameter.device else copy.deepcopy(rule).to(parameter.device)


def _chosen(module: nn.Module, only: Iterable[str] | None) -> dict[str, Tensor]:
    """The parameters to adapt, by name."""
    if isinstance(only, str):
        raise ValueError(f"only must be a list of names, got {only!r}")
    named = {key: value for key, value in module.named_parameters() if value.requires_grad}
    chosen: dict[str, Tensor] = dict(named)
    if only is not None:
        prefixes = tuple(only)
        chosen = {key: value for key, value in named.items() if key.startswith(prefixes)}
        for prefix in prefixes:
            if not any(key.startswith(prefix) for key in named):
                raise ValueError(f"no parameter to adapt begins with {prefix!r}: {list(named)}")
    for name, value in chosen.items():
        if value.is_complex():
            raise ValueError(f"parameter {name!r} is complex: adapt takes real ones only")
    if not chosen:
        raise ValueError(f"{type(module).__name__} has no parameter to adapt")
    return chosen


def _copy_with(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    adapted = copy.deepcopy(module)
    with torch.no_grad():
        for name, target in [*adapted.named_parameters(), *adapted.named_buffers()]:
            target.copy_(tensors[name])
    return adapted

"""Adapts a module to a few examples by a few steps of an update rule."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from learned_opt.adaptation.default_loss import cross_entropy_of_classes
from learned_opt.adaptation.initialization import Initialization
from learned_opt.adaptation.initialization_file import load_initialization
from learned_opt.adaptation.loop import Adaptation
from learned_opt.adaptation.module_copy import find_graph_tensors, shallow_copy_module
from learned_opt.adaptation.prefixes import names_with_prefix, names_with_prefixes
from learned_opt.adaptation.support_set import cycle_batches
from learned_opt.checks.arguments import check_function, check_module, check_type, shown
from learned_opt.functional import check_lr, check_proximal, check_steps, one_element
from learned_opt.registry import unknown
from learned_opt.rules import create_rule, list_rules
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.rule_argument import check_rule
from learned_opt.weights import list_pretrained, names_weights, shared_pretrained

M = TypeVar("M", bound=nn.Module)

STEPS = 5
"""Default number of steps."""


@overload
def adapt(
    module: M,
    support: Any,
    *,
    rule: UpdateRule | str | PathLike[str] | None = ...,
    lr: float | Tensor | None = ...,
    steps: int | None = ...,
    loss: Callable[[Any, Any], Tensor] | None = ...,
    initialization: Initialization | str | PathLike[str] | None = ...,
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
    loss: Callable[[Any, Any], Tensor] | None = ...,
    initialization: Initialization | str | PathLike[str] | None = ...,
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
    loss: Callable[[Any, Any], Tensor] | None = None,
    initialization: Initialization | str | PathLike[str] | None = None,
    keep: Iterable[str] = (),
    only: Iterable[str] | None = None,
    proximal: float | None = None,
    functional: bool = False,
    create_graph: bool = False,
) -> nn.Module | dict[str, Tensor]:
    """Adapt a copy of a module to a support set by a few steps; the module itself is unchanged.

    The copy is in the module's mode, training or evaluation. Transforms of `torch.func` such as
    vmap are not supported.

    Args:
        module: any module; parameters that do not require gradients are not adapted.
        support: `(inputs, targets)`, all of it for every step; or a list or a loader of such
            batches, one for each step, from the first again after the last. A tuple, list or
            mapping of inputs gives the module's positional or keyword arguments.
        rule: an update rule, the name of one without weights ("sgd", "adam"), the name of a
            bundled one, or the path of a weights file. By default the initialisation's, or SGD.
            A rule without weights, given by name, computes in the module's dtype, in float32 at
            least.
        lr: multiplies the update of the rule. By default the initialisation's if its rule is used,
            else the rule's own.
        steps: number of steps; by default the initialisation's, or 5.
        loss: `(module output, targets) -> 0-dim`; by default the cross-entropy with classes or
            their probabilities. For regression take `torch.nn.functional.mse_loss`. It must not
            read attributes that a forward pass sets on `module`, since a copy runs.
        initialization: initial values, or the path of their file; by default the module's values.
        keep: see `Initialization.apply_to`.
        only: names, or prefixes of names, of the parameters to adapt; by default those that the
            initialisation was meta-trained to adapt, or all. The name of a module means that
            module: "fc1" is not "fc10", too.
        proximal: iMAML's lambda; the loss gets lambda / 2 times the squared distance from the
            start added. By default the initialisation's, or 0.
        functional: return tensors, not a module.
        create_graph: with `functional`, keep the graph of all steps, so that the tensors can be
            differentiated with respect to the module's parameters and the rule's weights.

    Returns:
        An adapted copy of the module. With `functional`, its parameters and buffers by name, for
        `torch.func.functional_call(module, adapted, inputs)`. Running statistics are those of the
        forward passes before each step; for those of the adapted weights, pass the support set
        once more in training mode.

    Raises:
        ValueError: nothing to adapt, lazy or complex parameters, sparse gradients, an argument out
            of range, an initialisation that does not fit the module, or that takes no steps where
            `keep` is given without `steps`, or no `loss` and targets that are no classes.
        TypeError: an argument of another type; the message names it.
        RuntimeError: the loss or an adapted parameter is not finite (only without `functional`).

    Examples:
        >>> adapted = adapt(model, (inputs, targets), lr=0.4, steps=5)
        >>> predictions = adapted(inputs).argmax(1)

        MAML's outer gradient:

        >>> tensors = adapt(
        ...     model, (inputs, targets), lr=0.4, steps=1, functional=True, create_graph=True
        ... )
        >>> outputs = torch.func.functional_call(model, tensors, (inputs,))
        >>> nn.functional.cross_entropy(outputs, targets).backward()
    """
    _check_options(module, loss, functional, create_graph, initialization, keep)
    with torch.inference_mode(False):
        if initialization is not None:
            initialization = _read(initialization)
            rule = initialization.rule if rule is None else rule
            if lr is None and rule is initialization.rule:
                lr = initialization.lr
            if steps is None and initialization.steps == 0 and keep:
                raise ValueError(
                    "the initialisation takes no steps, so the parameters given in keep would stay "
                    "untrained: give steps (0 for none)"
                )
            steps = initialization.steps if steps is None else steps
            only = initialization.only if only is None else only
            proximal = initialization.proximal if proximal is None else proximal
        _check_values(module)
        if functional:  # with the module's own tensors, so that they get gradients
            work = shallow_copy_module(module, {} if initialization is None else _copies(module))
        else:
            kept = {id(value): value.detach().clone() for value in find_graph_tensors(module)}
            work = copy.deepcopy(module, kept)
        if initialization is not None:
            initialization.apply_to(work, keep=keep)
        chosen = _parameters_to_adapt(work, only)
        if initialization is not None:  # in its order, on which learned learning rates rely
            order = [key for key in initialization.parameters if key in chosen]
            chosen = {key: chosen[key] for key in dict.fromkeys([*order, *chosen])}
        first = next(iter(chosen.values()))
        update_rule = _find_rule(rule, first.dtype)
        adaptation = Adaptation(
            rule=_on_device_of(update_rule, first, create_graph),
            lr=update_rule.default_lr if lr is None else _checked_lr(lr),
            steps=STEPS if steps is None else check_steps(steps),
            loss=cross_entropy_of_classes if loss is None else loss,
            proximal=0.0 if proximal is None else check_proximal(proximal),
            create_graph=create_graph,
        )
        batches = (
            pytree.tree_map_only(Tensor, torch.clone, batch)  # the module may write it
            for batch in cycle_batches(support)
        )
        if functional:
            return adaptation.of_tensors(work, chosen, batches)
        adaptation.in_place(work, chosen, batches)
        return work


def _check_options(
    module: nn.Module,
    loss: Callable[[Any, Any], Tensor] | None,
    functional: bool,
    create_graph: bool,
    initialization: Initialization | str | PathLike[str] | None,
    keep: Iterable[str],
) -> None:
    """Check types of arguments, and options that contradict each other."""
    check_module(module)
    if loss is not None:
        check_function("loss", loss, "a function (output, targets)")
    for name, switch in (("functional", functional), ("create_graph", create_graph)):
        check_type(name, switch, bool, "True or False")
    if create_graph and not functional:
        raise ValueError(
            "create_graph=True needs functional=True: a module's own parameters have no graph"
        )
    if create_graph and initialization is not None:
        raise ValueError(
            "create_graph=True differentiates with respect to the module's own parameters: apply "
            "the initialisation to the module first (initialization.apply_to)"
        )
    if keep and initialization is None:
        raise ValueError(
            "keep names values that an initialisation leaves alone: give initialization, too"
        )


def _check_values(module: nn.Module) -> None:
    """Refuse modules whose values cannot be adapted."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ValueError("adapt does not support ScriptModules: give the original module")
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(value):
            raise ValueError(f"the shape of {name} is unknown: call the module on one input")


def _read(initialization: Initialization | str | PathLike[str]) -> Initialization:
    if isinstance(initialization, (str, os.PathLike)):
        return load_initialization(initialization)
    if not isinstance(initialization, Initialization):
        raise ValueError(
            "initialization must be an Initialization, a name or a path, got "
            f"{shown(initialization)}; Initialization.of(module) makes one of a module"
        )
    return initialization


def _copies(module: nn.Module) -> dict[int, Tensor]:
    """Copies of parameters and buffers by the id of the original."""
    return {id(value): copy.deepcopy(value) for value in (*module.parameters(), *module.buffers())}


def _checked_lr(lr: float | Tensor) -> float | Tensor:
    return one_element(lr) if isinstance(lr, Tensor) else check_lr(lr)


def _find_rule(rule: UpdateRule | str | PathLike[str] | None, dtype: torch.dtype) -> UpdateRule:
    if isinstance(rule, UpdateRule):
        return rule
    if rule is not None and not isinstance(rule, (str, os.PathLike)):
        check_rule(rule, "an UpdateRule, a name or a path")
    name = "sgd" if rule is None else os.fspath(rule)
    if names_weights(name):
        return shared_pretrained(name)
    if name not in list_rules():
        raise ValueError(unknown("rule", name, {*list_rules(), *list_pretrained()}))
    # On the CPU even inside a torch.device context; the caller's random numbers are not drawn.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        created = create_rule(name)
    if list(created.parameters()):
        raise ValueError(f"rule {name!r} has weights that must be trained: give a trained rule")
    return created.to(torch.promote_types(torch.float32, dtype))


def _on_device_of(rule: UpdateRule, parameter: Tensor, create_graph: bool) -> UpdateRule:
    if rule.device == parameter.device:
        return rule
    if create_graph and any(weight.requires_grad for weight in rule.parameters()):
        raise ValueError(
            f"the rule is on {rule.device} and the module on {parameter.device}: move the rule (a "
            "copy of its weights would get no gradient)"
        )
    return copy.deepcopy(rule).to(parameter.device)


def _parameters_to_adapt(module: nn.Module, only: Iterable[str] | None) -> dict[str, Tensor]:
    """The parameters to adapt, by name."""
    if isinstance(only, str):
        raise ValueError(f"only must be a list of names, got {only!r}")
    if only is not None:
        check_type("only", only, Iterable, "a list of names or prefixes")
    named = {key: value for key, value in module.named_parameters() if value.requires_grad}
    chosen: dict[str, Tensor] = dict(named)
    if only is not None:
        prefixes = tuple(only)
        # By all of their names: a tied one may be meant by its second.
        every = dict(module.named_parameters(remove_duplicate=False))
        every = {key: value for key, value in every.items() if value.requires_grad}
        wanted = {id(every[key]) for key in names_with_prefixes(prefixes, every)}
        chosen = {key: value for key, value in named.items() if id(value) in wanted}
        for prefix in prefixes:
            if not names_with_prefix(prefix, every):
                raise ValueError(f"no parameter to adapt begins with {prefix!r}: {list(named)}")
    for name, value in chosen.items():
        if value.is_complex():
            raise ValueError(f"parameter {name!r} is complex, which adapt does not support")
    if not chosen:
        raise ValueError(f"{type(module).__name__} has no parameter to adapt")
    return chosen

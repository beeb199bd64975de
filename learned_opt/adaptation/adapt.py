"""A few steps of an update rule on a few examples: a user's module, adapted."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from learned_opt.adaptation.initialization import Initialization, load_initialization
from learned_opt.adaptation.loop import Adaptation
from learned_opt.adaptation.module_copy import kept_in_graph, shallow_copy_module
from learned_opt.adaptation.support_set import batches_of
from learned_opt.functional import check_lr, check_proximal, check_steps, one_element
from learned_opt.registry import unknown
from learned_opt.rules import create_rule, list_rules
from learned_opt.rules.base import UpdateRule
from learned_opt.weights import from_pretrained, list_pretrained, names_weights

M = TypeVar("M", bound=nn.Module)

GIVE_A_LOSS = "give a loss, torch.nn.functional.mse_loss say"
STEPS = 5


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
    """Adapt a module to a support set; the module itself does not change.

    What runs is a copy, in the mode, training or evaluation, that the module is in. Not for use
    within transforms of `torch.func` such as vmap.

    Args:
        module: any module; what does not require gradients stays as it is.
        support: `(inputs, targets)`, all of it for every step; or a list or a loader of such
            batches, one a step, again from the first after the last. Inputs that are a tuple, a
            list or a dict are the module's positional or keyword arguments.
        rule: an update rule, the name of one without weights ("sgd", "adam"), the name of a
            bundled one, or the path of a weights file. By default the initialisation's, or SGD.
            By name, one without weights computes in the module's dtype, or float32 if that is less.
        lr: factor on the update. By default the initialisation's, if the rule is too, or the
            rule's own.
        steps: how many; by default what the initialisation says that it is for, or 5.
        loss: `(module output, targets) -> 0-dim`; by default the cross-entropy of classes or of
            their probabilities. The mean squared error for regression, say. It must not read what
            a forward pass leaves in `module`: a copy runs. Return it with the output.
        initialization: where to start, or the path of a file that says; by default where the
            module stands.
        keep: see `Initialization.apply_to`.
        only: names, or beginnings of names, of the parameters to adapt; by default those that the
            initialisation was meta-trained to adapt, or all.
        proximal: hold the steps at the start: half of this times the squared distance from there
            is added to the loss (iMAML's lambda; 0 is without). By default the initialisation's,
            or without.
        functional: return tensors instead of a module.
        create_graph: with `functional`, make them differentiable by the parameters of the module
            and the weights of the rule, through all steps. Not for modules with activation
            checkpointing: what is computed anew in the outer backward pass would read other
            weights.

    Returns:
        A copy of the module, adapted; or with `functional` its parameters and buffers by name,
        for `torch.func.functional_call(module, adapted, inputs)`. Running statistics are those of
        the passes before each step: pass the support set once more, in training mode, for those
        at the adapted weights.

    Raises:
        ValueError: nothing to adapt, complex parameters, sparse gradients, an argument out of
            range, an initialisation that does not fit the module, or without `loss` targets that
            are no classes.
        RuntimeError: the loss or an adapted parameter is not finite (only without `functional`).
    """
    if create_graph and not functional:
        raise ValueError("create_graph=True needs functional=True: a module's own are leaves")
    if create_graph and initialization is not None:
        raise ValueError(
            "create_graph=True differentiates by the module's own parameters: apply the "
            "initialisation to the module first (initialization.apply_to)"
        )
    if keep and initialization is None:
        raise ValueError("keep says what an initialisation leaves alone: give initialization, too")
    with torch.inference_mode(False):
        if initialization is not None:
            initialization = _read(initialization)
            rule = initialization.rule if rule is None else rule
            if lr is None and rule is initialization.rule:
                lr = initialization.lr
            steps = initialization.steps if steps is None else steps
            only = initialization.only if only is None else only
            proximal = initialization.proximal if proximal is None else proximal
        if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
            raise ValueError("adapt takes modules that run in Python, got a ScriptModule")
        if functional:  # with its own tensors, by which one may want to differentiate
            work = shallow_copy_module(module, {} if initialization is None else _copies(module))
        else:
            kept = {id(value): value.detach().clone() for value in kept_in_graph(module)}
            work = copy.deepcopy(module, kept)
        if initialization is not None:
            initialization.apply_to(work, keep=keep)
        chosen = _chosen(work, only)
        if initialization is not None:  # in its order, which learned rates go by
            order = [key for key in initialization.parameters if key in chosen]
            chosen = {key: chosen[key] for key in dict.fromkeys([*order, *chosen])}
        first = next(iter(chosen.values()))
        found = _find_rule(rule, first.dtype)
        training = Adaptation(
            rule=_on_device_of(found, first, create_graph),
            lr=found.default_lr if lr is None else _checked_lr(lr),
            steps=STEPS if steps is None else check_steps(steps),
            loss=_cross_entropy if loss is None else loss,
            proximal=0.0 if proximal is None else check_proximal(proximal),
            create_graph=create_graph,
        )
        batches = (pytree.tree_map_only(Tensor, _normal, batch) for batch in batches_of(support))
        if functional:
            return training.of_tensors(work, chosen, batches)
        training.of_module(work, chosen, batches)
        return work


def _read(initialization: Initialization | str | PathLike[str]) -> Initialization:
    if isinstance(initialization, (str, os.PathLike)):
        return load_initialization(initialization)
    if not isinstance(initialization, Initialization):
        raise ValueError(
            "initialization must be an Initialization or the path of a file, got "
            f"{type(initialization).__name__}: of a module there is Initialization.of(module)"
        )
    return initialization


def _copies(module: nn.Module) -> dict[int, Tensor]:
    """Copies of parameters and buffers by the id of the original."""
    return {id(value): copy.deepcopy(value) for value in (*module.parameters(), *module.buffers())}


def _normal(tensor: Tensor) -> Tensor:
    """Not of inference mode: of those nothing can be differentiated."""
    return tensor.clone() if tensor.is_inference() else tensor


def _cross_entropy(output: Any, targets: Any) -> Tensor:
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor):
        raise ValueError(
            "the cross-entropy takes one tensor of scores and one of targets, got "
            f"{type(output).__name__} and {type(targets).__name__}: give a loss that takes these"
        )
    if output.dim() > 1 and output.shape[1] == 1:
        raise ValueError(
            f"the module's output is {list(output.shape)}, and the cross-entropy of one class is 0 "
            f"whatever it is: {GIVE_A_LOSS}"
        )
    if targets.is_floating_point() and not _are_probabilities(targets):
        raise ValueError(
            f"the targets, {list(targets.shape)} of {targets.dtype}, are neither classes (whole "
            f"numbers) nor their probabilities: {GIVE_A_LOSS}"
        )
    scores = output.shape
    classes = scores[:1] + scores[2:] if len(scores) > 1 else torch.Size()
    if targets.shape != (scores if targets.is_floating_point() else classes):
        raise ValueError(
            f"the targets, {list(targets.shape)} of {targets.dtype}, are no classes of the "
            f"module's output, {list(scores)}: they would be {list(classes)}; or {GIVE_A_LOSS}"
        )
    if not targets.is_floating_point():
        targets = targets.long()  # which is all that it takes beside bytes
    return nn.functional.cross_entropy(output, targets)


def _are_probabilities(targets: Tensor) -> bool:
    sums = targets.sum(min(1, targets.dim() - 1))
    return bool((targets >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=0.01))


def _checked_lr(lr: float | Tensor) -> float | Tensor:
    return one_element(lr) if isinstance(lr, Tensor) else check_lr(lr)


def _find_rule(rule: UpdateRule | str | PathLike[str] | None, dtype: torch.dtype) -> UpdateRule:
    if isinstance(rule, UpdateRule):
        return rule
    if rule is not None and not isinstance(rule, (str, os.PathLike)):
        raise ValueError(f"rule must be an UpdateRule, a name or a path, got {rule!r}")
    name = "sgd" if rule is None else os.fspath(rule)
    if names_weights(name):
        return from_pretrained(name)
    if name not in list_rules():
        raise ValueError(unknown("rule", name, {*list_rules(), *list_pretrained()}))
    # Whatever torch.device context the caller is in, and without touching his random numbers.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        created = create_rule(name)
    if list(created.parameters()):
        raise ValueError(f"rule {name!r} has weights to be learned: give one that was trained")
    return created.to(torch.promote_types(torch.float32, dtype))


def _on_device_of(rule: UpdateRule, parameter: Tensor, create_graph: bool) -> UpdateRule:
    if rule.device == parameter.device:
        return rule
    if create_graph and any(weight.requires_grad for weight in rule.parameters()):
        raise ValueError(
            f"the rule is on {rule.device} and the module on {parameter.device}: a copy of the "
            "rule's weights would get no gradient; move the rule"
        )
    return copy.deepcopy(rule).to(parameter.device)


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

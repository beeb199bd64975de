"""Steps by the rule's own code, in pieces of bounded memory; skips updates that are not finite."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from learned_opt.backends.plain_memory import refuses_shapes
from learned_opt.checks.rule_results import WrongResult
from learned_opt.functional import apply_update, compute_updates, scheduled_decay
from learned_opt.optimizer import sharding
from learned_opt.optimizer.finite_guard import FiniteGuard
from learned_opt.optimizer.state_dict import copy_rule, fresh_on_meta
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.updates import PendingUpdate, batch_by_size


class RuleCopies:
    """Copies of a rule on other devices than its own, and for tensors without values."""

    def __init__(self) -> None:
        self._copies: dict[torch.device, tuple[UpdateRule, list[int], UpdateRule]] = {}

    def beside(self, parameter: Tensor, rule: UpdateRule) -> UpdateRule:
        """The rule for a parameter: on its device, and fake if it is."""
        if isinstance(parameter, FakeTensor):
            return _without_values(rule, parameter)
        return self.on(rule, parameter.device)

    def on(self, rule: UpdateRule, device: torch.device) -> UpdateRule:
        """The rule on `device`: itself, or a copy that is renewed when it or its weights change."""
        if device == rule.device:
            return rule
        versions = [weight._version for weight in rule.parameters()]
        kept = self._copies.get(device)
        if kept is None or kept[0] is not rule or kept[1] != versions:
            kept = (rule, versions, copy_rule(rule, device))
            self._copies[device] = kept
        return kept[2]


def _without_values(rule: UpdateRule, parameter: FakeTensor) -> UpdateRule:
    """A copy of a rule for `FakeTensorMode`, which refuses to compute with real weights."""
    made = {}
    for value in (*rule.parameters(), *rule.buffers()):
        fake = parameter.fake_mode.from_tensor(value).detach().to(parameter.device)
        is_weight = isinstance(value, nn.Parameter)
        made[id(value)] = nn.Parameter(fake, requires_grad=False) if is_weight else fake
    return copy.deepcopy(rule, made)


def step_by_rule(
    rule: UpdateRule,
    updates: Sequence[PendingUpdate],
    context: Context,
    *,
    maximize: bool,
    chunk_size: int,
    guard: FiniteGuard,
) -> None:
    """Take one step of tensors on the rule's device, in place.

    Args:
        rule: on the device of the tensors.
        updates: at least one.
        context: see `Context`.
        maximize: maximise the objective instead of minimising it.
        chunk_size: most coordinates at once, for rules that treat coordinates alone.
        guard: writes the results.

    Raises:
        ValueError: the rule returned tensors of other shapes, or see `_check_shapes`.
    """
    _check_shapes(rule, updates, failed=False)
    tensors = guard.check_gradients(updates)
    sharded = [update.sharded for update in updates]
    context = replace(context, loss=sharding.mean_loss(context.loss, sharded))
    if isinstance(rule, CoordinateRule):
        keys = rule.coordinate_state()
        pieces = [
            (tensor, piece) for tensor in tensors for piece in tensor.update.split(chunk_size, keys)
        ]
        sizes = [piece.gradient.numel() for _, piece in pieces]
        batches = batch_by_size(pieces, sizes, chunk_size)
    else:
        batches = iter([[(tensor, tensor.update) for tensor in tensors]])
        context = replace(context, tensors=sharding.whole_tensors(sharded))
    for batch in batches:
        try:
            deltas, new_states = compute_updates(
                rule,
                [piece.gradient for _, piece in batch],
                [piece.parameter for _, piece in batch],
                [piece.state for _, piece in batch],
                context,
                maximize=maximize,
            )
        except (WrongResult, RuntimeError) as error:
            _check_shapes(rule, updates, failed=True)
            if isinstance(error, WrongResult):
                raise error.named(batch[error.position][1].name) from error
            raise
        new_parameters = [
            apply_update(
                piece.parameter,
                delta,
                piece.group["lr"],
                scheduled_decay(rule, piece.group["weight_decay"], state, context),
            )
            for (_, piece), delta, state in zip(batch, deltas, new_states, strict=True)
        ]
        guard.commit(batch, deltas, new_parameters, new_states)
    guard.finish(tensors)


def _check_shapes(rule: UpdateRule, updates: Sequence[PendingUpdate], *, failed: bool) -> None:
    """Refuse a gradient or state that was made for another shape of the parameter.

    Called before anything is written: where tensors are cut, pieces may fit each other although
    they belong to different coordinates. The state of rules that step whole tensors is checked only
    once the rule has failed: its shapes come from `init_state` on the meta device, which a user's
    rule may not support. Sharded tensors are skipped, and everything under torch.compile.

    Args:
        rule: whose state it is.
        updates: of the step.
        failed: whether the rule has raised an error.

    Raises:
        ValueError: it does not fit the parameter, whose `.data` may have been replaced, or a state
            does not fit the rule.
    """
    if torch.compiler.is_compiling():
        return
    trailing = rule.coordinate_state() if isinstance(rule, CoordinateRule) else {}
    for update in updates:
        if update.sharded is not None:
            continue
        shape = update.parameter.shape
        shapes: dict[str, tuple[int, ...]] = {key: (*shape, *trailing[key]) for key in trailing}
        if failed and not trailing:
            fresh = fresh_on_meta(rule, update.parameter, update.group["direction"])
            shapes = {key: value.shape for key, value in fresh.items()}
        why = refuses_shapes(update, shapes)
        if why is not None:
            raise ValueError(f"cannot step parameter {update.name} of shape {list(shape)}: {why}")


def make_context(loss: Tensor | None, total_steps: int | None, device: torch.device) -> Context:
    """The context of a step, on a device.

    Args:
        loss: 0-dim, or None.
        total_steps: the planned number of steps, or None.
        device: of the tensors.
    """
    loss = None if loss is None else loss.to(device)
    planned = None
    if total_steps is not None:  # float32 whatever the default: bfloat16 would round it
        planned = torch.full((), float(total_steps), dtype=torch.float32, device=device)
    return Context(loss=loss, total_steps=planned)

"""The drop-in optimizer: a rule under `torch.optim.Optimizer`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT
from torch.utils.hooks import RemovableHandle

from learned_opt.checks.arguments import check_type, shown
from learned_opt.functional import without_autocast
from learned_opt.optimizer import sharding
from learned_opt.optimizer.batch_norm import check_batches, recompute_statistics
from learned_opt.optimizer.evaluation_mode import (
    MODE,
    EvaluationMode,
    check_training,
)
from learned_opt.optimizer.finite_guard import FiniteGuard
from learned_opt.optimizer.fused import FusedSteps
from learned_opt.optimizer.intended_use import SchedulePeak, warn_if_elsewhere, warn_if_small
from learned_opt.optimizer.options import (
    check_group,
    check_options,
    checked_fused,
    plain_options,
    scalar_loss,
    whole_number,
)
from learned_opt.optimizer.pending_updates import by_call, pending_updates
from learned_opt.optimizer.rule_step import RuleCopies, make_context, step_by_rule
from learned_opt.optimizer.state_dict import (
    check_and_wrap,
    check_directions,
    ensure_state,
    unwrap_loaded,
)
from learned_opt.optimizer.step_plan import StepPlan
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.updates import PendingUpdate
from learned_opt.weights import bundled_name, find_rule, rule_digest

DEFAULT_RULE = "orthogonal-momentum"


UpdateHook = Callable[["LearnedOptimizer", list[PendingUpdate], Context], None]


class LearnedOptimizer(Optimizer):
    """An update rule, learned or hand-designed, as a `torch.optim` optimizer.

    Args:
        params: parameters, named parameters, or parameter groups. Under the default rule a group
            may have `"direction": "adam"`, before its first step; see `OrthogonalMomentum`.
        lr: multiplies the update that the rule proposes; by default the rule's own. It is not
            Adam's learning rate: a learned rule chooses its own step sizes.
        rule: an `UpdateRule`, the name of bundled weights (`list_pretrained()`) or of a
            hand-designed rule, or the path of a weights file. The default is hand-designed: it
            needs no learning rate and no number of steps; see `OrthogonalMomentum`. The rule is
            held by reference, so optimizers can share one.
        weight_decay: decoupled; each step subtracts `lr * weight_decay * parameter`, times the
            rule's own schedule if it has one, as the default has.
        maximize: maximise the objective instead of minimising it.
        total_steps: the planned number of optimizer steps, such as `epochs * len(loader)`; some
            rules need it for their schedule. Past it, updates are about a hundredth of their size.
        chunk_size: step at most this many coordinates at once. It bounds the memory that a step
            needs besides the state. Only for rules that treat coordinates alone.
        foreach: None or False, like `capturable`: tensors are grouped, and steps can be captured in
            CUDA graphs, in any case. Taken since frameworks pass it on.
        fused: whether to step by faster code than the rule's own, such as C, with the same numbers
            to rounding. None: where it fits, rule and tensor by tensor. True: raise where it does
            not fit. False: never.
        capturable: see `foreach`.
        differentiable: not supported; see `learned_opt.differentiable` and `meta_train.inner.loop`.

    Raises:
        ValueError: an argument out of range, an unknown name, a damaged weights file; `fused=True`
            where there is no faster code for the rule, for a parameter, or on this machine.
        TypeError: `params` is no iterable of parameters, such as a module.
        RuntimeError: parameters flattened by FSDP1 (use `fully_shard`), complex DTensors.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters())
        >>> loss = nn.functional.cross_entropy(model(inputs), targets)
        >>> loss.backward()
        >>> optimizer.step()
        >>> optimizer.zero_grad()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        rule: UpdateRule | str | PathLike[str] = DEFAULT_RULE,
        weight_decay: float = 0.0,
        maximize: bool = False,
        total_steps: int | None = None,
        chunk_size: int = 1 << 16,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool = False,
    ) -> None:
        if isinstance(params, nn.Module):
            raise TypeError(f"params must be parameters, got {shown(params)}: give .parameters()")
        check_type("params", params, Iterable, "parameters")
        if not isinstance(rule, UpdateRule):
            rule = find_rule(rule)
        chunk_size = whole_number("chunk_size", chunk_size)
        if differentiable:
            raise ValueError(
                "differentiable=True is not supported: to differentiate through steps use "
                "higher.innerloop_ctx (after `import learned_opt.differentiable`) or "
                "meta_train.inner.loop"
            )
        digest = rule_digest(rule)
        defaults = {
            "lr": rule.default_lr if lr is None else lr,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "total_steps": total_steps,
            "rule": digest,
            "direction": None,
            MODE: True,
        }
        check_options({**defaults, "foreach": foreach, "capturable": capturable})
        self._set_rule(rule, chunk_size, checked_fused(fused))
        super().__init__(params, plain_options(defaults))
        self._plan.warn_if_ignored(self.defaults["total_steps"])
        bundled = bundled_name(digest) if list(rule.parameters()) else None
        warn_if_small(rule, bundled, [group["lr"] for group in self.param_groups])
        warn_if_elsewhere(bundled, [p for group in self.param_groups for p in group["params"]])

    def _set_rule(self, rule: UpdateRule, chunk_size: int, fused: bool | None) -> None:
        # An attribute, not an entry of the groups: those are deep-copied and saved.
        self.rule = rule
        self.chunk_size = chunk_size
        self._copies = RuleCopies()
        self._update_hooks: OrderedDict[int, UpdateHook] = OrderedDict()
        self._guard = FiniteGuard()
        self._fused = FusedSteps(rule, fused)
        self._evaluation = EvaluationMode(rule)
        self._plan = StepPlan(rule)
        self._peak = SchedulePeak()
        self._directions: list[str | None] = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; a tensor `lr` is cloned, so that each group can have its own schedule.

        Raises:
            ValueError: an option out of range, or one that all groups share, such as the rule.
                Or `fused=True` does not fit a parameter.
            RuntimeError: flattened by FSDP1, or sharded in a way that the rule cannot step.
        """
        if isinstance(param_group, dict):  # the base class refuses anything else
            check_group(param_group, self.defaults, self.rule)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update(plain_options(group))
        for parameter in group["params"]:
            sharding.check_parameter(parameter, self.rule)
            if self._fused.option:
                rule = self._copies.beside(parameter, self.rule)
                self._fused.check_parameter(rule, parameter)
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        A tensor whose update is not finite is skipped: parameter and state stay as they are, bit
        for bit, `skipped_updates` counts it, and the first time a RuntimeWarning names it. The
        gradient is checked as a whole, the rule's update in pieces of `chunk_size` coordinates (or
        of up to 4096, where C steps them): if only the update overflows, other pieces of the same
        tensor may move.

        Args:
            closure: re-evaluates the model, calls `backward()` and returns the loss. Rules that
                read the loss need it; `step(lambda: loss)` is enough after a usual backward pass.
                With several processes it must return the same loss in all, such as their mean.

        Returns:
            The closure's return value, or None without a closure.

        Raises:
            RuntimeError: a gradient is sparse, `fused=True` does not fit a tensor, the optimizer is
                in evaluation mode, or a tensor has more elements than its memory holds.
            ValueError: the rule reads the loss, and there is no closure or it returns no number;
                it returns deltas or states of other shapes than its tensors have; a gradient or a
                state does not fit its parameter; or a group's `direction` was changed after its
                first step.
        """
        check_training(self.param_groups)
        self._peak.look(self.rule, self.param_groups)
        directions = [group["direction"] for group in self.param_groups]
        if directions != self._directions:
            check_directions(self.rule, self.param_groups, self.state)
            self._directions = directions
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        rule_loss = scalar_loss(loss, self.rule)
        self._evaluation.before_step(self.param_groups, self.state)

        calls = by_call(pending_updates(self.param_groups, self._state_of, type(self).__name__))
        with without_autocast({call.device.type for call in calls}):
            for call, updates in calls.items():
                needs_no_loss = loss is None and self._only_makes_state(updates)
                context = make_context(
                    torch.zeros((), device="cpu") if needs_no_loss else rule_loss,
                    call.total_steps,
                    call.device,
                )
                for hook in list(self._update_hooks.values()):
                    hook(self, updates, context)
                rule = self._copies.beside(updates[0].parameter, self.rule)
                self._move(rule, updates, context, call.maximize)
        self._guard.warn(self.param_groups)
        self._evaluation.note_step(self.param_groups)
        self._plan.count(self.param_groups)
        return loss

    @torch.no_grad()
    def eval(self, model: nn.Module | None = None, batches: Iterable[Any] | None = None) -> None:
        """Put the running average of the weights in the model's parameters, to evaluate or save it.

        Only for rules that keep an average (`rule.averages`), and where no planned number of steps
        was given; for all others it does nothing. Meanwhile the weights to train on take the memory
        of one more copy. Weights that were loaded since the last step are kept, with a warning: the
        average begins anew at them, here or in the next step (sharded ones only here). But what was
        written through `.data`, as `vector_to_parameters` does, is not seen. Parameters that were
        frozen (`requires_grad_(False)`) while others trained on keep their values, too.

        An optimizer does not see modules. **A model with batch normalisation is evaluated wrongly
        unless you give it, and batches of training data**: its running statistics belong to the
        weights of training, and are recomputed. That takes a forward pass for each batch. The same
        holds for instance normalisation with `track_running_stats`.

        Args:
            model: the model. Layers of batch normalisation whose scale this optimizer does not
                train keep their statistics, and so does a frozen part in front.
            batches: such as the training loader, or `itertools.islice(loader, 100)`. The input
                is the first part of a list or tuple; a mapping gives keyword arguments.

        Raises:
            ValueError: the model has running statistics, and there are no batches; or the optimizer
                has no parameter of the model.
            TypeError: the model is no module, or the batches are a single one.
            Exception: of the model or the loader. Weights, statistics and mode are then as before.

        Examples:
            >>> optimizer = LearnedOptimizer(model.parameters())
            >>> optimizer.eval()
            >>> validation_loss = nn.functional.cross_entropy(model(inputs), targets).item()
            >>> optimizer.train()
            >>> optimizer.eval(model, [inputs])  # recomputes running statistics, if there are some
            >>> optimizer.train()
        """
        owned = [parameter for group in self.param_groups for parameter in group["params"]]
        check_batches(model, batches, owned)
        was_training = all(group[MODE] for group in self.param_groups)
        self._evaluation.evaluate(self.param_groups, self.state)
        if model is not None and batches is not None:
            trained = [p for p in owned if p.requires_grad or self.state.get(p)]
            try:
                recompute_statistics(model, batches, owned, trained)
            except BaseException:
                if was_training:
                    self.train()
                raise

    @torch.no_grad()
    def train(self, mode: bool = True) -> None:
        """Put the weights to train on back; `train(False)` is `eval()`."""
        if mode:
            self._evaluation.train(self.param_groups, self.state)
        else:
            self.eval()

    @property
    def skipped_updates(self) -> int:
        """Number of tensor updates skipped because they were not finite; see `step`.

        Counted since construction, not saved. Reading it waits for the devices.
        """
        return self._guard.skipped

    def _only_makes_state(self, updates: list[PendingUpdate]) -> bool:
        """Whether this is the step by which torch.distributed.checkpoint makes optimizer state.

        It steps once without a closure, at a learning rate of 0. Nothing moves, so the rule needs
        no loss.
        """
        if "loss" not in self.rule.required_context():
            return False
        return all(float(update.group["lr"]) == 0 for update in updates)

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> State:
        return ensure_state(self.state[parameter], self.rule, parameter, group["direction"])

    def init_state(self) -> None:
        """Make the state of every parameter now, not at its first gradient.

        Processes that save or load a checkpoint together must hold state for the same parameters.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    self._state_of(parameter, group)

    def _move(
        self, rule: UpdateRule, updates: list[PendingUpdate], context: Context, maximize: bool
    ) -> None:
        left = self._fused.step(rule, updates, context, maximize, self._guard)
        if left:
            step_by_rule(
                rule,
                left,
                context,
                maximize=maximize,
                chunk_size=self.chunk_size,
                guard=self._guard,
            )

    def register_update_hook(self, hook: UpdateHook) -> RemovableHandle:
        """Call `hook(optimizer, updates, context)` in each step, before anything moves.

        It sees what the rule will read: gradients, parameters, states and the closure's loss.
        A step calls it once per device and set of options. It must change nothing.
        """
        handle = RemovableHandle(self._update_hooks)
        self._update_hooks[handle.id] = hook
        return handle

    def state_dict(self) -> dict[str, Any]:
        """The state and the options, as in torch.optim; they name the rule as it is now."""
        # The first of the post-hooks, before any that users registered.
        handle = self.register_state_dict_post_hook(_name_rule, prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; recurrent state keeps its dtype, whatever the parameter's dtype.

        Options are loaded, too, as in torch.optim; a UserWarning says so where `total_steps` was
        another.

        Raises:
            ValueError: another number, size or order of parameters (the order is known where they
                are named), or the state of another rule. The optimizer is then unchanged.
        """
        planned = [group["total_steps"] for group in self.param_groups]
        # The last of the pre-hooks, after any that users registered.
        handle = self.register_load_state_dict_pre_hook(partial(check_and_wrap, self.rule))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        self._plan.warn_if_replaced(planned, self.param_groups)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the rule too: without it the optimizer cannot step."""
        own = {"rule": self.rule, "chunk_size": self.chunk_size, "fused": self._fused.option}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle, or take the state that `load_state_dict` has read."""
        state = dict(state)
        is_copy = "rule" in state
        if is_copy:
            self._set_rule(state.pop("rule"), state.pop("chunk_size"), state.pop("fused", None))
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # the base class adds it; we have no such option
        unwrap_loaded(self.rule, self)
        self._plan.resume(self.param_groups, self.state)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        if is_copy:  # with its parameters, to which its averages belong
            self._evaluation.note_step(self.param_groups)
        else:
            self._evaluation.forget_steps()


def _name_rule(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Write the rule into saved groups: since the optimizer was built it may have been trained."""
    assert isinstance(optimizer, LearnedOptimizer)  # the type of a hook is that of the base class
    digest = rule_digest(optimizer.rule)
    for group in state_dict["param_groups"]:
        group["rule"] = digest

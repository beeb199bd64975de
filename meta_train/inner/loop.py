"""One inner training step as a pure, differentiable function, for one run or many at once.

    (parameters, buffers, optimizer state, batch) -> (parameters, buffers, optimizer state, loss)

Built on plain `autograd.grad`. With `vectorize` every tensor has a leading axis of runs. Loss and
rule then go through `torch.func.vmap`, where there is no faster way (`BatchedLoss`, `CompiledRule`,
`RuleInC`) and, of the loss, if vmap accepts it.

First order is the default, as most learned optimizers are meta-trained: the rule reads inner
gradients as constants (Andrychowicz et al. 2016, section 2.1). The derivative of the inner loss by
the inner parameters is then the inner gradient itself, which is already known. So the optimizee is
differentiated once, its graph is freed at once, and only the graph of the rule is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor
from torch.func import vmap

from learned_opt.checks.arguments import check_function
from learned_opt.checks.rule_results import WrongResult
from learned_opt.rules.base import State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.rules.rule_argument import check_rule
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.state import InnerState, map_states
from meta_train.inner.step.divergence import is_finite_and_bounded
from meta_train.inner.step.loss_gradients import gradients_by_hand, loss_and_gradients
from meta_train.inner.step.masking import LossWithGradient, where_alive
from meta_train.inner.step.rule_in_c import RuleInC
from meta_train.inner.step.rule_step import Moved, StepInput, rule_step, rule_steps
from meta_train.inner.step.vmap_fallback import losses_of_runs
from meta_train.tasks.base import Batch, Loss, Tensors


@dataclass(frozen=True)
class InnerLoop(LoopSettings):
    """Takes inner steps of a rule on a loss.

    Examples:
        Train one problem for ten steps and differentiate the last loss by the rule's weights:

            loop = InnerLoop(rule, problem.loss, vectorize=False)
            inner = start(rule, [problem], vectorize=False)
            for _ in range(10):
                inner, loss = loop.step(inner, problem.draw(generator))
            torch.autograd.grad(loss, list(rule.parameters()))

    Attributes:
        rule: the update rule; gradients reach its weights.
        loss: the loss of all problems.
        vectorize: the state has a leading axis of runs.
        total_steps: planned number of steps, for rules that read it. `[runs]` sets one for each
            run.
        differentiable: build the graph for an outer gradient.
        weights: other weights of the rule for each run, `[runs, *weight]` by name.
        copies: the runs are this many copies, copy after copy, that share all random numbers of the
            loss.
        overwrite: a step may write over the parameters and the rule's state that it is given, if it
            is faster so; no two of their tensors may share memory. See `in_place`.
        traceable: take no branch that depends on values, so that a trace of one step (by
            `torch.compile`, say) is valid for all steps. The results are the same.

    Raises:
        ValueError: `rule` is no rule.
        TypeError: `loss` is no function.
    """

    rule: UpdateRule
    loss: Loss
    vectorize: bool
    _: KW_ONLY
    total_steps: int | Tensor | None = None
    differentiable: bool = True
    weights: Mapping[str, Tensor] | None = None
    copies: int = 1
    overwrite: bool = False
    traceable: bool = False

    def __post_init__(self) -> None:
        """Check what a step could not name."""
        check_rule(self.rule)
        check_function("loss", self.loss, "a function (parameters, buffers, batch), a task's loss")

    @property
    def in_place(self) -> RuleInC | None:
        """Code that writes a step over the old state; None where steps return a new state."""
        usual = self.overwrite and self.vectorize and self.weights is not None
        return self.in_c if usual and not self.differentiable and self.teacher is None else None

    def step(self, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        """Take one inner step.

        Args:
            inner: the state before the step.
            batch: one batch, or one for each run along a leading axis.

        Returns:
            The state after the step, and the loss before it (0-dim or `[runs]`). Mask the losses
            of diverged runs with `alive`.
        """
        after, losses, _ = self.step_and_compare(inner, batch)
        return after, losses

    def step_and_compare(
        self, inner: InnerState, batch: Batch
    ) -> tuple[InnerState, Tensor, Tensor]:
        """Take one inner step and compare it with the teacher's.

        Returns:
            As `step`, and the distance of the update from the teacher's (0-dim or `[runs]`). It is
            zero without a teacher and for diverged runs.
        """
        losses, after, gradients, mask = self._evaluate(inner, batch, twice=self.second_order)
        if self.in_place is not None:
            seen = where_alive(mask, losses, 0.0)
            with _naming(inner.parameters):
                self.in_place(self._step_input(inner, gradients, seen), after.alive)
            return after, losses, torch.zeros_like(seen)
        with torch.set_grad_enabled(self.differentiable):
            seen = where_alive(mask, losses.detach(), 0.0)
            masked = inner
            if mask is not None:
                masked = map_states(lambda value: where_alive(mask, value, 0), inner)
            parameters, states = self._apply_rule(masked, gradients, seen)
            distance = torch.zeros_like(seen)
            teacher = inner.teacher
            if self.teacher is not None:
                distance, teacher = self.teacher.compare(
                    masked, gradients, seen, parameters, vectorize=self.vectorize
                )
                distance = where_alive(mask, distance, 0.0)
            moved = {
                key: where_alive(mask, value, inner.parameters[key])
                for key, value in parameters.items()
            }
        after = replace(after, parameters=moved, states=states, teacher=teacher)
        return after, losses, distance

    def loss_at(self, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        """Compute the loss at a state as `step` does, but take no step.

        Returns:
            The state, with `alive` and `buffers` updated, and the loss (0-dim or `[runs]`). The
            loss can be differentiated once. It is that of the parameters, also for a rule that
            keeps an average: see `at_average`.
        """
        # No rule reads these gradients, so second derivatives are not needed.
        losses, after, _, _ = self._evaluate(inner, batch, twice=False)
        return after, losses

    def gradients(self, inner: InnerState, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return losses and gradients at a state, both without history."""
        losses, _, gradients, _ = self._loss_and_gradients(inner.detach(), batch, twice=False)
        return losses.detach(), {key: gradients[key].detach() for key in inner.parameters}

    def evaluate(self, inner: InnerState, batch: Batch) -> Tensor:
        """Return the loss at a state, 0-dim or `[runs]`, without history.

        A rule that keeps an average of the parameters is evaluated there, as by
        `LearnedOptimizer.eval()`, unless it was told the number of steps.
        """
        with torch.no_grad():
            inner = self.at_average(inner.detach())
        # Nothing here needs a gradient, so no graph is built, but a module may differentiate.
        with torch.enable_grad():
            losses, _ = self._losses({**inner.fixed, **inner.parameters}, inner.buffers, batch)
        return losses.detach()

    def at_average(self, inner: InnerState) -> InnerState:
        """Return the state with its parameters where the rule wants the model to be evaluated.

        That is at the average, for a rule that keeps one and was not told the number of steps.
        """
        if not self.rule.averages or self.total_steps is not None:
            return inner
        point = vmap(self.rule.evaluation_point) if self.vectorize else self.rule.evaluation_point
        parameters = {
            key: point(value, inner.states[key])[0].to(value.dtype)
            for key, value in inner.parameters.items()
        }
        return replace(inner, parameters=parameters)

    def _evaluate(
        self, inner: InnerState, batch: Batch, *, twice: bool
    ) -> tuple[Tensor, InnerState, Tensors, Tensor | None]:
        """Compute losses and gradients, and find runs that have diverged.

        Args:
            inner: the state.
            batch: see `step`.
            twice: build a graph of the gradients too (if a graph is built at all).

        Returns:
            Losses, the state with new `buffers`, `alive` and `first_loss`, gradients, and the mask
            of runs that are alive (None if all are known to be).
        """
        losses, buffers, found, read = self._loss_and_gradients(inner, batch, twice=twice)
        first = torch.where(inner.first_loss.isnan(), losses.detach(), inner.first_loss)
        alive = inner.alive & is_finite_and_bounded(
            losses.detach(),
            first,
            found,
            times=self.divergence,
            vectorize=self.vectorize,
            traceable=self.traceable,
        )
        mask = None if self._all_known_alive(alive) else alive
        # A diverged run stands still. The rule reads zeros for it and its old values are kept, so
        # that no NaN reaches the rule's weights through a product with zero.
        found = {key: where_alive(mask, value, 0.0) for key, value in found.items()}
        if self.differentiable and self.second_order:
            for value in read.values():  # nor through the graph of its loss
                if mask is not None and value.grad_fn is not None:
                    value.register_hook(lambda grad: where_alive(mask, grad, 0.0))
        elif self.differentiable:
            tensors = {**inner.fixed, **inner.parameters}
            losses = LossWithGradient.apply(  # type: ignore[no-untyped-call]
                losses, *(tensors[key] for key in found), *found.values()
            )
        gradients = {key: found[key] for key in inner.parameters}
        after = replace(inner, buffers=buffers, alive=alive, first_loss=first)
        return losses, after, gradients, mask

    def _all_known_alive(self, alive: Tensor) -> bool:
        """Check without device sync whether all runs are alive; False means unknown.

        Masks copy all state at every step, so they are left out where this is cheap to know.
        """
        return not self.traceable and alive.device.type == "cpu" and bool(alive.all())

    def _losses(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        if self.vectorize:
            return losses_of_runs(self.loss, parameters, buffers, batch, self.copies)
        return self.loss(parameters, buffers, batch)

    def _loss_and_gradients(
        self, inner: InnerState, batch: Batch, *, twice: bool
    ) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        """See `loss_and_gradients`."""
        keep = self.second_order and self.differentiable
        if self.vectorize and not keep:
            found = gradients_by_hand(self.loss, inner, batch, learned=self.differentiable)
            if found is not None:
                return found
        return loss_and_gradients(
            self._losses,
            inner,
            batch,
            keep=keep,
            twice=twice,
            learned=self.differentiable,
        )

    def _apply_rule(
        self, inner: InnerState, gradients: Tensors, losses: Tensor
    ) -> tuple[Tensors, dict[str, State]]:
        """Return the parameters and the rule's state after an update."""
        names = list(inner.parameters)
        with _naming(inner.parameters):
            parameters, states = self._move(self._step_input(inner, gradients, losses))
        return dict(zip(names, parameters, strict=True)), dict(zip(names, states, strict=True))

    def _step_input(self, inner: InnerState, gradients: Tensors, losses: Tensor) -> StepInput:
        """Gather the inputs of the rule."""
        total = self.total_steps
        if isinstance(total, int):
            # float32 whatever the default: bfloat16 would round it.
            total = torch.full((), float(total), dtype=torch.float32, device=losses.device)
        hidden = self.hide_loss and "loss" not in self.rule.required_context()
        return StepInput(
            weight_decay=self.weight_decay,
            gradients=[gradients[name] for name in inner.parameters],
            parameters=list(inner.parameters.values()),
            states=[inner.states[name] for name in inner.parameters],
            loss=None if hidden else losses,
            lr=self.rule.default_lr if self.lr is None else self.lr,
            total=total,
            weights=self.weights,
        )

    def _move(self, given: StepInput) -> Moved:
        if not self.vectorize or (isinstance(self.rule, CoordinateRule) and self.weights is None):
            # A coordinate rule needs no vmap: more runs are more coordinates.
            return rule_step(self.rule, given)
        if self.compiled is None or self.weights is None or self.differentiable:
            return rule_steps(self.rule, given)
        return self.compiled(given)


@contextmanager
def _naming(parameters: Tensors) -> Iterator[None]:
    """Name the parameter whose result a rule got wrong."""
    try:
        yield
    except WrongResult as error:
        raise error.named(list(parameters)[error.position]) from error

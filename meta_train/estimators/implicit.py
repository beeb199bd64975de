"""Implicit meta-gradients: from the minimum of inner training, not from its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from learned_opt.adaptation.second_derivatives import naming_the_operation, twice_differentiable
from learned_opt.functional import half_square_distance
from meta_train.estimators.base import MetaGradient, MetaObjective
from meta_train.estimators.initialization_only import InitializationOnly
from meta_train.estimators.objectives import mean_over_alive, meta_loss
from meta_train.inner.batches import InnerData
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState
from meta_train.inner.step.masking import lead
from meta_train.inner.step.vmap_fallback import losses_of_runs
from meta_train.inner.unroll import roll_out
from meta_train.inner.window import Window
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import derive_seed, own_randomness
from meta_train.tasks.base import Batch, Loss, Tensors

ANCHOR = "anchor of "
PROXIMAL = 2.0
"""Lambda in the paper's few-shot experiments."""


@dataclass(frozen=True)
class Proximal:
    """A loss plus strength / 2 |theta - anchor|^2; the anchors are stored in the buffers.

    Attributes:
        loss: the problem's loss.
        strength: lambda.
    """

    loss: Loss
    strength: float

    def __call__(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        """See `meta_train.tasks.base.Loss`."""
        own, anchors = split_anchors(buffers)
        loss, new_buffers = self.loss(parameters, own, batch)
        held = {key.removeprefix(ANCHOR): value for key, value in anchors.items()}
        moved = {key: value for key, value in parameters.items() if key in held}  # not fixed ones
        return loss + self.strength * half_square_distance(moved, held), {**new_buffers, **anchors}


def anchors_at(parameters: Tensors) -> Tensors:
    """Return buffers that anchor `Proximal` at these parameters."""
    return {ANCHOR + key: value for key, value in parameters.items()}


def split_anchors(buffers: Tensors) -> tuple[Tensors, Tensors]:
    """Split buffers into the problem's own ones and the anchors."""
    anchors = {key: value for key, value in buffers.items() if key.startswith(ANCHOR)}
    return {key: value for key, value in buffers.items() if key not in anchors}, anchors


@final
class ImplicitGradient(InitializationOnly):
    """iMAML (Rajeswaran et al. 2019, arXiv 1909.04630): the meta-gradient of a minimum.

    Inner training, by any rule, minimises L(theta) + lambda/2 |theta - theta_0|^2, with theta_0 the
    initialisation. If it ends at the minimum theta_T, the derivative of theta_T by theta_0 is
    (I + H/lambda)^-1, with H the Hessian of L (lemma 1). So

        g = mean over runs of (I + H/lambda)^-1 grad L_outer(theta_T),

    solved by conjugate gradient on products with H (algorithm 2). No graph of the steps is kept:
    memory is that of one step and of a second derivative at theta_T, for any number of steps.
    Before the minimum is reached the gradient is biased.

    L_outer is the objective of the loss at theta_T on one batch; earlier losses do not count. H is
    the Hessian of the mean loss on the next `batches` training batches. Imitation does not count.

    Parameters that inner training does not change (`Problem.fixed`) get the derivative of L_outer
    by them, and the derivative through the minimum: -1/lambda d/d(fixed) <grad L, x>, with x the
    solution above. Adapted parameters that are not learned are pulled towards their initial values.

    A run that continues from an earlier end is pulled towards the present initialisation: a warm
    start.

    Args:
        proximal: lambda.
        cg_steps: steps of conjugate gradient (5 in the paper); exact with as many steps as
            parameters. If the curvature of I + H/lambda is not positive, a run keeps its solution
            so far, or the outer gradient itself at the first step.
        batches: number of batches for the Hessian; 1 is exact if the inner data is one batch.
        freeze_rule: see `InitializationOnly`.

    Raises:
        ValueError: a value out of range.
    """

    second_order = True

    def __init__(
        self,
        *,
        proximal: float = PROXIMAL,
        cg_steps: int = 5,
        batches: int = 1,
        freeze_rule: bool = False,
    ) -> None:
        super().__init__(freeze_rule=freeze_rule)
        if not proximal > 0:
            raise ValueError(f"proximal must be positive, got {proximal}")
        for name, value in (("cg_steps", cg_steps), ("batches", batches)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.proximal = proximal
        self.cg_steps = cg_steps
        self.batches = batches

    def meta_gradient(
        self, window: Window, meta_objective: MetaObjective, distributed: DistributedContext
    ) -> MetaGradient:
        """See `Estimator`."""
        data = window.data
        learned = window.meta_parameters.initialization()
        inner, losses = self._train(window, learned)

        loop = replace(window.loop, teacher=None, differentiable=True)
        parameters = {key: value.requires_grad_() for key, value in inner.parameters.items()}
        fixed = {
            key: value.detach().to(inner.fixed[key]).expand_as(inner.fixed[key]).requires_grad_()
            for key, value in learned.items()
            if key in inner.fixed
        }
        inner = replace(inner, parameters=parameters, fixed={**inner.fixed, **fixed})
        with (
            own_randomness(inner.alive.device),
            torch.enable_grad(),
            twice_differentiable(),
            naming_the_operation("take another estimator, such as first-order"),
        ):
            torch.manual_seed(derive_seed(data.seed, "at the end"))
            outer_batches = data.training if data.outer_batches is None else data.outer_batches
            after, last = loop.loss_at(inner, outer_batches.next())
            alive = after.alive
            value = meta_loss(last.unsqueeze(0), alive, meta_objective.objective)
            outer = _by_parameter(value, {**parameters, **fixed})
            direct = {key: outer.pop(key) for key in fixed}
            along = self._gradient_along(loop, inner, data)

            def product(vector: Tensors) -> Tensors:
                curved = _by_parameter(along(vector), parameters, retain_graph=True)
                return {key: vector[key] + curved[key] / self.proximal for key in vector}

            solved = solve(product, outer, self.cg_steps)
            moved = _by_parameter(along(solved), fixed) if fixed else {}
            for key, shift in moved.items():
                shift = torch.where(lead(alive, shift), shift, 0.0)
                solved[key] = direct[key] - shift / self.proximal
        gradients = {key: solved[key].detach().sum(0) for key in learned}
        return MetaGradient(
            gradients=self.gradients(window.meta_parameters, gradients),
            meta_loss=value.detach(),
            mean_loss=mean_over_alive(losses, alive),
            counted=int(alive.sum()),
            inner=replace(inner, alive=alive).detach(),
        )

    def _train(self, window: Window, learned: Tensors) -> tuple[InnerState, Tensor]:
        """Train with the pull towards the initialisation; return the last state and all losses."""
        inner = window.inner
        anchors = anchors_at(
            {
                key: learned[key].detach().to(value).expand_as(value) if key in learned else value
                for key, value in inner.parameters.items()
            }
        )
        loss = Proximal(window.loop.loss, self.proximal)
        loop = replace(window.loop, loss=loss, teacher=None, differentiable=False)
        inner = replace(inner, buffers={**inner.buffers, **anchors})
        rollout = roll_out(loop, inner, replace(window.data, outer_batches=None), window.steps)
        own, _ = split_anchors(rollout.inner.buffers)
        return replace(rollout.inner.detach(), buffers=own), rollout.losses

    def _gradient_along(
        self, loop: InnerLoop, inner: InnerState, data: InnerData
    ) -> Callable[[Tensors], Tensor]:
        """Return a differentiable function of v: <grad L, v>, summed over all runs."""
        # Not `InnerLoop.loss_at`: its losses can be differentiated only once.
        batches = [data.training.next() for _ in range(self.batches)]
        read = {**inner.fixed, **inner.parameters}
        found = [losses_of_runs(loop.loss, read, inner.buffers, batch)[0] for batch in batches]
        losses = torch.stack(found)
        total = losses.mean(0).sum()
        gradients = _by_parameter(total, inner.parameters, create_graph=True)
        return lambda v: torch.stack([(gradients[k] * v[k]).sum() for k in v]).sum()


def solve(product: Callable[[Tensors], Tensors], right: Tensors, steps: int) -> Tensors:
    """Solve `product(x) = right` by conjugate gradient (Hestenes & Stiefel 1952), run by run.

    Args:
        product: multiplies each run's symmetric matrix with a vector, `[runs, *param]` by name.
        right: `[runs, *param]` by name.
        steps: maximal number of steps. A run stops when its residual is zero, or when the curvature
            along the search direction is not positive.

    Returns:
        x, `[runs, *param]` by name; `right` itself for a run that could not take a step.
    """
    right = {key: value.detach() for key, value in right.items()}
    x, residual, direction = _zeros(right), right, right
    square = _dot(residual, residual)
    going = square > 0
    moved = torch.zeros_like(going)
    for _ in range(steps):
        image = {key: value.detach() for key, value in product(direction).items()}
        curvature = _dot(direction, image)
        going = going & (curvature > 0) & curvature.isfinite()
        step = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
        x = _add(x, step, direction)
        residual = _add(residual, -step, image)
        moved = moved | going
        before, square = square, _dot(residual, residual)
        going = going & (square > 0)
        ratio = torch.where(going, square / torch.where(going, before, 1.0), 0.0)
        direction = _add(residual, ratio, direction)
    return {key: torch.where(lead(moved, x[key]), x[key], right[key]) for key in x}


def _by_parameter(
    value: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> dict[str, Tensor]:
    """Return the derivative of a number by every parameter; zeros if it does not depend on one."""
    if not value.requires_grad:
        return _zeros(parameters)
    gradients = torch.autograd.grad(
        value,
        list(parameters.values()),
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(parameters, gradients, strict=True))


def _zeros(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in tensors.items()}


def _dot(left: Tensors, right: Tensors) -> Tensor:
    """Return the dot product of each run, `[runs]`."""
    products = [left[key] * right[key] for key in left]
    return torch.stack([value.reshape(len(value), -1).sum(1) for value in products]).sum(0)


def _add(left: Tensors, factor: Tensor, right: Tensors) -> Tensors:
    """Return `left + factor * right` with a factor for each run; a factor 0 ignores `right`."""
    result = {}
    for key, value in left.items():
        own = lead(factor, value)
        result[key] = torch.where(own == 0, value, value + own * right[key])
    return result

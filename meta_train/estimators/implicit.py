"""Implicit meta-gradients: from the point where inner training ends, not from how it got there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learned_opt.functional import half_square_distance
from meta_train.estimators.base import Estimate, MetaObjective
from meta_train.estimators.initialization_only import InitializationOnly
from meta_train.estimators.objectives import meta_loss
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import Runs
from meta_train.inner.state import InnerState
from meta_train.inner.unroll import Data, data_of, roll_out
from meta_train.inner.vmap_fallback import losses_of_runs
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import derive_seed, own_randomness
from meta_train.tasks.base import Batch, Loss, Tensors

ANCHOR = "anchor of "
PROXIMAL = 2.0
"""Lambda of the paper's few-shot runs."""


@dataclass(frozen=True)
class Proximal:
    """A loss plus strength / 2 |theta - anchor|^2; the anchors ride in the buffers.

    Attributes:
        loss: of the problem.
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
        moved = {key: value for key, value in parameters.items() if key in held}  # others stay
        return loss + self.strength * half_square_distance(moved, held), {**new_buffers, **anchors}


def anchors_at(parameters: Tensors) -> Tensors:
    """Buffers that hold `Proximal` at these parameters."""
    return {ANCHOR + key: value for key, value in parameters.items()}


def split_anchors(buffers: Tensors) -> tuple[Tensors, Tensors]:
    """The problem's own buffers, and the anchors."""
    anchors = {key: value for key, value in buffers.items() if key.startswith(ANCHOR)}
    return {key: value for key, value in buffers.items() if key not in anchors}, anchors


class ImplicitGradient(InitializationOnly):
    """iMAML (Rajeswaran et al. 2019, arXiv 1909.04630): the meta-gradient of a minimum.

    Inner training, by any rule, makes L(theta) + lambda/2 |theta - phi|^2 small. Where it ends at
    the minimum, that moves with phi as (I + H/lambda)^-1 says, H the Hessian of L (lemma 1), so
    that

        g = mean over runs of (I + H/lambda)^-1 grad L_outer(theta_T),

    solved by conjugate gradient on products with H (algorithm 2). No graph of the steps is kept:
    memory is that of one step and of a second derivative at theta_T, however many steps there are.
    Short of the minimum the gradient is biased.

    L_outer is the loss at theta_T on one batch; the objective is a function of that loss alone, not
    of the ones on the way. H is that of the mean loss on the `batches` training batches that would
    come next. Imitation does not enter.

    Parameters that inner training leaves as they are (`Problem.fixed`) get the derivative of
    L_outer by them, and through the minimum: -1/lambda d/d(fixed) <grad L, x>, x being the
    solution above.
    Adapted parameters that are not learned are pulled towards where they began.

    A run that goes on from a kept state is pulled towards the present phi: a warm start.

    Args:
        proximal: lambda.
        cg_steps: steps of conjugate gradient (5 there); as many as parameters are exact. Where the
            curvature of I + H/lambda is not positive a run's solution stays as it is, or, at the
            first step, is the outer gradient itself.
        batches: for the Hessian; 1 is exact where the inner data is one batch.
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

    def estimate(
        self,
        meta_parameters: MetaParameters,
        loop: InnerLoop,
        runs: Runs,
        meta_objective: MetaObjective,
        outer_step: int,
        distributed: DistributedContext,
    ) -> Estimate:
        """See `Estimator`."""
        steps = runs.reset(outer_step)
        loop = replace(runs.bind(loop), teacher=None)
        data = data_of(runs, meta_objective.data, outer_step, end_only=meta_objective.end_only)
        inner, losses = self._train(meta_parameters, loop, runs.inner, data, steps)

        loop = replace(loop, differentiable=True)
        parameters = {key: value.requires_grad_() for key, value in inner.parameters.items()}
        learned = meta_parameters.initialization()
        fixed = {
            key: phi.detach().to(inner.fixed[key]).expand_as(inner.fixed[key]).requires_grad_()
            for key, phi in learned.items()
            if key in inner.fixed
        }
        inner = replace(inner, parameters=parameters, fixed={**inner.fixed, **fixed})
        device = inner.alive.device
        with (
            own_randomness(device),
            torch.enable_grad(),
        ):
            torch.manual_seed(derive_seed(data.seed, "at the end"))
            outer_batches = data.training if data.outer_batches is None else data.outer_batches
            looked, last = loop.look(inner, outer_batches.next())
            alive = looked.alive
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
                shift = torch.where(_lead(alive, shift), shift, 0.0)
                solved[key] = direct[key] - shift / self.proximal
            solved = {key: solved[key] for key in learned}
        inner = replace(inner, alive=alive).detach()
        return Estimate(
            gradients=self.gradients(
                meta_parameters, {k: v.detach().sum(0) for k, v in solved.items()}
            ),
            meta_loss=value.detach(),
            mean_loss=meta_loss(losses, alive, lambda losses: losses),
            counted=int(alive.sum()),
            diverged=runs.finish(inner),
            inner_steps=steps * len(alive),
        )

    def _train(
        self,
        meta_parameters: MetaParameters,
        loop: InnerLoop,
        inner: InnerState,
        data: Data,
        steps: int,
    ) -> tuple[InnerState, Tensor]:
        """Inner training with the pull towards phi; where it ends, and its losses."""
        phi = meta_parameters.initialization()
        anchors = anchors_at(
            {
                key: phi[key].detach().to(value).expand_as(value) if key in phi else value
                for key, value in inner.parameters.items()
            }
        )
        loop = replace(loop, loss=Proximal(loop.loss, self.proximal), differentiable=False)
        inner = replace(inner, buffers={**inner.buffers, **anchors})
        rollout = roll_out(loop, inner, replace(data, outer_batches=None), steps)
        own, _ = split_anchors(rollout.inner.buffers)
        return replace(rollout.inner.detach(), buffers=own), rollout.losses

    def _gradient_along(
        self, loop: InnerLoop, inner: InnerState, data: Data
    ) -> Callable[[Tensors], Tensor]:
        """A function from v to <grad L, v>, all runs together, to be differentiated."""
        # Not `InnerLoop.look`, whose losses can be differentiated once.
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
        product: a symmetric matrix times a vector, `[runs, *param]` by name, for each run its own.
        right: `[runs, *param]` by name.
        steps: at most; a run whose residual is zero, or where the curvature along the search
            direction is not positive, takes no more.

    Returns:
        x, `[runs, *param]` by name. Where no step could be taken, `right` itself.
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
    return {key: torch.where(_lead(moved, x[key]), x[key], right[key]) for key in x}


def _by_parameter(
    value: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> dict[str, Tensor]:
    """The derivative of a number by every parameter; zeros where it does not depend on one."""
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
    """Products of all tensors of a run, `[runs]`."""
    products = [left[key] * right[key] for key in left]
    return torch.stack([value.reshape(len(value), -1).sum(1) for value in products]).sum(0)


def _add(left: Tensors, factor: Tensor, right: Tensors) -> Tensors:
    """Add with a factor for each run; where that is 0, `right` may be anything."""
    result = {}
    for key, value in left.items():
        lead = _lead(factor, value)
        result[key] = torch.where(lead == 0, value, value + lead * right[key])
    return result


def _lead(value: Tensor, tensor: Tensor) -> Tensor:
    """Append axes to a value per run, so that it broadcasts over `[runs, *param]`."""
    return value.reshape(-1, *[1] * (tensor.dim() - 1))

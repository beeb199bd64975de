"""The base of evolution strategies: pairs of perturbed runs in one batched rollout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vmap

from meta_train.estimators.base import Estimator, MetaGradient, MetaObjective
from meta_train.estimators.objectives import objective_by_run
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.state import InnerState, map_states, own_copy
from meta_train.inner.unroll import Rollout, roll_out
from meta_train.inner.window import Window
from meta_train.runtime.distributed import DistributedContext


class AntitheticES(Estimator):
    """Compares pairs of runs under opposite perturbations of the meta-parameters.

    Args:
        sigma: standard deviation of the perturbations.
        clip: if given, each pair's difference is divided by the root mean square over a group's
            pairs and clipped at this value. Pairs on tasks of any scale then count alike, and the
            length of the gradient does not depend on the scale of the objective.
        penalty: every loss of a diverged run counts as this multiple of its first loss; None leaves
            out its pair.
        soft_sign: if given, each pair's difference d = F+ - F- enters as d / (|d| + soft_sign). No
            pair then counts more than another by much. Without it a few tasks whose loss can fall
            without end outweigh all others. Excludes `clip`.
        floor: if given, this multiple of the run's first loss is added to every loss. Then the
            objective does not reward losses far below it.
        base_loss_weight: if given, a third run of each pair takes the steps of the rule with all
            weights zero, which for rules such as `general` is the rule that they begin at. The part
            of an objective above that run's counts this many times. A rule then does not buy gains
            on some tasks by losses on others. Costs half as much again.

    Raises:
        ValueError: a value that is not positive, or both `clip` and `soft_sign`.
    """

    copies = 2

    def __init__(
        self,
        *,
        sigma: float = 0.05,
        clip: float | None = None,
        penalty: float | None = None,
        soft_sign: float | None = None,
        floor: float | None = None,
        base_loss_weight: float | None = None,
    ) -> None:
        given = {
            "sigma": sigma,
            "clip": clip,
            "penalty": penalty,
            "soft_sign": soft_sign,
            "floor": floor,
            "base_loss_weight": base_loss_weight,
        }
        for name, value in given.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if clip is not None and soft_sign is not None:
            raise ValueError(f"clip={clip} and soft_sign={soft_sign} exclude each other")
        self.sigma = sigma
        self.clip = clip
        self.penalty = penalty
        self.soft_sign = soft_sign
        self.floor = floor
        self.base_loss_weight = base_loss_weight
        if base_loss_weight is not None:
            self.copies = 3

    def check(self, meta_parameters: MetaParameters) -> None:
        """Check that there is a base, if one is asked for.

        Raises:
            ValueError: `base_loss_weight` with a learned initialisation, which has no base.
        """
        if self.base_loss_weight is not None and meta_parameters.learns_initialization:
            raise ValueError(
                f"base_loss_weight={self.base_loss_weight} needs a rule alone: a learned "
                "initialisation has no base at zero"
            )

    def meta_gradient(
        self, window: Window, meta_objective: MetaObjective, distributed: DistributedContext
    ) -> MetaGradient:
        """See `Estimator`."""
        noise = draw_noise(window, self.sigma)
        # Runs that continue are credited with all perturbations since they began.
        accumulated = window.carried["noise"] + noise if "noise" in window.carried else noise
        rollout = roll_out_pairs(window, noise, with_base=self.base_loss_weight is not None)
        value = self.value_by_run(rollout, meta_objective)
        found = self.average_pairs(window.meta_parameters, rollout, value, accumulated, distributed)
        return replace(found, carried={"noise": accumulated})

    def value_by_run(self, rollout: Rollout, meta_objective: MetaObjective) -> Tensor:
        """Return the objective of each run, `[copies * runs]`.

        With a penalty, losses of a diverged run and larger losses count as the penalty times the
        size of the run's first loss. A floor is added after that.
        """
        losses = rollout.losses
        first = rollout.inner.first_loss.nan_to_num(1.0, 1.0, 1.0).abs()
        if self.penalty is not None:
            worst = self.penalty * first
            sound = losses.isfinite() & (losses < worst) & rollout.inner.alive
            losses = torch.where(sound, losses, worst)
        if self.floor is not None:
            losses = losses + self.floor * first
        value = objective_by_run(losses, meta_objective.objective)
        if meta_objective.imitation:
            value = value + meta_objective.imitation * rollout.imitation.mean(0)
        return value

    def average_pairs(
        self,
        meta_parameters: MetaParameters,
        rollout: Rollout,
        value: Tensor,
        directions: Tensor,
        distributed: DistributedContext,
    ) -> MetaGradient:
        """Return the mean over pairs of (F+ - F-) / (2 sigma^2) times a direction.

        Args:
            meta_parameters: the meta-parameters.
            rollout: of the perturbed runs.
            value: the objective F by run, `[copies * runs]`.
            directions: factor of each pair's difference, `[runs, meta-parameters]`.
            distributed: the processes that share the pairs.
        """
        sigma = self.sigma
        positive, negative, *base = value.chunk(self.copies)
        alive = rollout.inner.alive.reshape(self.copies, -1).all(0)
        counts = torch.ones_like(alive) if self.penalty is not None else alive
        counts = counts & value.reshape(self.copies, -1).isfinite().all(0)
        if self.base_loss_weight is not None:
            more = self.base_loss_weight - 1
            positive = positive + more * (positive - base[0]).clamp(min=0)
            negative = negative + more * (negative - base[0]).clamp(min=0)
        difference = torch.where(counts, positive - negative, torch.zeros_like(positive)) / 2
        if self.clip is not None:
            sums = [difference.square().sum(), counts.sum().to(difference)]
            squares, number = distributed.sum(sums)
            scale = (squares / number.clamp_min(1)).sqrt().clamp_min(1e-12)
            # In units of sigma, so that a difference of size one gives a gradient of usual length.
            difference = (difference / scale).clamp(-self.clip, self.clip) * sigma
        if self.soft_sign is not None:  # in units of sigma, too
            whole = 2 * difference
            difference = whole / (whole.abs() + self.soft_sign) * sigma
        counted = int(counts.sum())
        flat = difference @ directions / (sigma**2 * max(counted, 1))
        means = torch.where(counts, (positive + negative) / 2, torch.zeros_like(positive))
        by_copy = rollout.losses.nan_to_num(0.0, 0.0, 0.0).unflatten(1, (self.copies, -1))
        by_pair = by_copy[:, :2].mean((0, 1))
        losses = torch.where(counts, by_pair, 0.0)
        return MetaGradient(
            gradients=unflatten(meta_parameters, flat.to(directions)),
            meta_loss=means.sum() / max(counted, 1),
            mean_loss=losses.sum() / max(counted, 1),
            counted=counted,
            inner=rollout.inner,
        )


def draw_noise(window: Window, sigma: float) -> Tensor:
    """Draw a perturbation of all meta-parameters for each run, `[runs, meta-parameters]`.

    A learned initialisation is perturbed only for runs that just started. It has no effect on the
    others, and noise without effect only adds variance.
    """
    meta_parameters = window.meta_parameters
    size = sum(value.numel() for value in meta_parameters.parameters())
    some = next(meta_parameters.parameters())
    rows = [
        torch.randn(size, generator=source, dtype=torch.float32) for source in window.generators
    ]
    noise = sigma * torch.stack(rows).to(some)
    if meta_parameters.learns_initialization:
        names = dict(meta_parameters.named_parameters())
        parts = dict(zip(names, unflatten(meta_parameters, noise), strict=True))
        started = window.just_started[: len(rows)].to(noise)
        for k, name in enumerate(meta_parameters.names):
            if name in window.inner.fixed:
                continue  # has an effect at any age
            part = parts[f"values.{k}"]
            part *= started.reshape(-1, *[1] * (part.dim() - 1))  # a view: changes `noise`
    return noise


def unflatten(meta_parameters: MetaParameters, flat: Tensor) -> list[Tensor]:
    """Split `[..., meta-parameters]` into tensors shaped like the meta-parameters."""
    parameters = list(meta_parameters.parameters())
    parts = flat.split([value.numel() for value in parameters], dim=-1)
    leading = flat.shape[:-1]
    return [p.reshape((*leading, *v.shape)) for p, v in zip(parts, parameters, strict=True)]


def roll_out_pairs(window: Window, noise: Tensor, *, with_base: bool = False) -> Rollout:
    """Train every run under theta + noise and under theta - noise, and under 0 `with_base`.

    Both get the same batches and the same random numbers of the loss (dropout). Otherwise their
    difference would not vanish with sigma, and the estimate would grow as 1 / sigma.

    Returns:
        A rollout of 2 or 3 times as many runs, the positive ones first and the base last.
    """
    meta_parameters = window.meta_parameters
    with torch.no_grad():
        moves = [noise, -noise]
        if with_base:
            theta = torch.cat([value.reshape(-1) for value in meta_parameters.parameters()])
            moves.append(-theta.expand_as(noise))
        shifts = unflatten(meta_parameters, torch.cat(moves))
        named = meta_parameters.named_parameters()
        population = {n: (v + s).contiguous() for (n, v), s in zip(named, shifts, strict=True)}
        rule_weights = {
            name.removeprefix("rule."): value
            for name, value in population.items()
            if name.startswith("rule.")
        }
        inner = window.inner
        if meta_parameters.learns_initialization:
            inner = _perturb_start(inner, meta_parameters, population, window.just_started)
        loop = replace(window.loop, differentiable=False, weights=rule_weights or None)
        loop = replace(loop, copies=len(moves), overwrite=True)
        if loop.in_place is not None:
            inner = map_states(own_copy, inner)
        return roll_out(loop, inner, window.data, window.steps)


def _perturb_start(
    inner: InnerState,
    meta_parameters: MetaParameters,
    population: dict[str, Tensor],
    just_started: Tensor,
) -> InnerState:
    """Give runs that just started their own perturbed initialisation.

    Fixed tensors are perturbed in all runs.
    """
    started = just_started.to(inner.alive.device)
    place = {name: k for k, name in enumerate(meta_parameters.names)}

    def choose(own: Tensor, old: Tensor) -> Tensor:
        return torch.where(started.reshape(-1, *[1] * (old.dim() - 1)), own.to(old), old)

    parameters, states = {}, {}
    for name, old in inner.parameters.items():
        if name not in place:
            parameters[name], states[name] = old, inner.states[name]
            continue
        parameters[name] = choose(population[f"values.{place[name]}"], old)
        # A rule's state may begin with a measurement of the parameter.
        fresh = vmap(meta_parameters.rule.init_state)(parameters[name])
        states[name] = {k: choose(fresh[k], value) for k, value in inner.states[name].items()}
    fixed = {
        name: population[f"values.{place[name]}"].to(old) if name in place else old
        for name, old in inner.fixed.items()
    }
    return replace(inner, parameters=parameters, states=states, fixed=fixed)

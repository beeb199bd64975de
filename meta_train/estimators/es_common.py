"""What evolution strategies share: pairs of perturbed meta-parameters in one batched rollout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vmap

from meta_train.estimators.base import Estimate, MetaObjective
from meta_train.estimators.objectives import objective_by_run
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import Runs
from meta_train.inner.state import InnerState
from meta_train.inner.unroll import Rollout, data_of, roll_out
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import generator


def draw_noise(
    meta_parameters: MetaParameters, runs: Runs, outer_step: int, sigma: float
) -> Tensor:
    """One perturbation of all meta-parameters for each run, `[runs, meta-parameters]`.

    A learned initialisation is only perturbed for runs that begin now: to the others it is of no
    consequence, and noise without consequence is mere variance.
    """
    size = sum(value.numel() for value in meta_parameters.parameters())
    some = next(meta_parameters.parameters())
    rows = [
        torch.randn(size, generator=generator(runs.seed, "noise", outer_step, index))
        for index in runs.indices
    ]
    noise = sigma * torch.stack(rows).to(some)
    if meta_parameters.learns_initialization:
        parts = dict(
            zip(
                dict(meta_parameters.named_parameters()),
                unflatten(meta_parameters, noise),
                strict=True,
            )
        )
        begins = runs.just_started()[: runs.count].to(noise)
        for k, name in enumerate(meta_parameters.names):  # views: this changes `noise` itself
            if name in runs.inner.fixed:
                continue  # that counts at any age
            part = parts[f"values.{k}"]
            part *= begins.reshape(-1, *[1] * (part.dim() - 1))
    return noise


def unflatten(meta_parameters: MetaParameters, flat: Tensor) -> list[Tensor]:
    """Split `[..., meta-parameters]` into tensors shaped like the meta-parameters."""
    parameters = list(meta_parameters.parameters())
    parts = flat.split([value.numel() for value in parameters], dim=-1)
    leading = flat.shape[:-1]
    return [p.reshape((*leading, *v.shape)) for p, v in zip(parts, parameters, strict=True)]


def roll_out_pairs(
    meta_parameters: MetaParameters,
    loop: InnerLoop,
    runs: Runs,
    meta_objective: MetaObjective,
    outer_step: int,
    noise: Tensor,
    steps: int,
) -> Rollout:
    """Train every run under theta + noise and, on the same batches, under theta - noise.

    Returns:
        A rollout of `2 * runs` runs, the positive ones first.
    """
    with torch.no_grad():
        names = [name for name, _ in meta_parameters.named_parameters()]
        values = list(meta_parameters.parameters())
        shifts = unflatten(meta_parameters, torch.cat([noise, -noise]))
        population = {n: v + s for n, v, s in zip(names, values, shifts, strict=True)}
        rule_weights = {
            name.removeprefix("rule."): value
            for name, value in population.items()
            if name.startswith("rule.")
        }
        inner = runs.inner
        if meta_parameters.learns_initialization:
            inner = _start_at(inner, meta_parameters, population, runs)
        loop = replace(runs.bind(loop), differentiable=False, weights=rule_weights or None)
        return roll_out(
            loop,
            inner,
            data_of(runs, meta_objective.data, outer_step, end_only=meta_objective.end_only),
            steps,
        )


def _start_at(
    inner: InnerState, meta_parameters: MetaParameters, population: dict[str, Tensor], runs: Runs
) -> InnerState:
    """Let runs that begin now start at their own perturbed initialisation.

    What inner training leaves as it is is perturbed in all runs.
    """
    begins = runs.just_started().to(inner.alive.device)
    place = {name: k for k, name in enumerate(meta_parameters.names)}

    def choose(own: Tensor, old: Tensor) -> Tensor:
        return torch.where(begins.reshape(-1, *[1] * (old.dim() - 1)), own.to(old), old)

    parameters, states = {}, {}
    for name, old in inner.parameters.items():
        if name not in place:
            parameters[name], states[name] = old, inner.states[name]
            continue
        parameters[name] = choose(population[f"values.{place[name]}"], old)
        # A rule's state may begin with something measured on the parameter.
        fresh = vmap(meta_parameters.rule.init_state)(parameters[name])
        states[name] = {k: choose(fresh[k], value) for k, value in inner.states[name].items()}
    fixed = {
        name: population[f"values.{place[name]}"].to(old) if name in place else old
        for name, old in inner.fixed.items()
    }
    return replace(inner, parameters=parameters, states=states, fixed=fixed)


def value_by_run(rollout: Rollout, meta_objective: MetaObjective, penalty: float | None) -> Tensor:
    """The objective of each run alone, `[2 * runs]`.

    Args:
        rollout: of a population.
        meta_objective: the objective.
        penalty: losses of a run that has diverged count as this times its first loss's size, and
            so do larger ones; None leaves them as they are, of no use.
    """
    losses = rollout.losses
    if penalty is not None:
        worst = penalty * rollout.inner.first_loss.nan_to_num(1.0, 1.0, 1.0).abs()
        sound = losses.isfinite() & (losses < worst) & rollout.inner.alive
        losses = torch.where(sound, losses, worst)
    value = objective_by_run(losses, meta_objective.objective)
    if meta_objective.imitation:
        value = value + meta_objective.imitation * rollout.imitation.mean(0)
    return value


def antithetic_estimate(
    meta_parameters: MetaParameters,
    rollout: Rollout,
    value: Tensor,
    directions: Tensor,
    sigma: float,
    distributed: DistributedContext,
    *,
    penalty: float | None,
    clip: float | None,
    diverged: int,
) -> Estimate:
    """The mean over pairs of (F+ - F-) / (2 sigma^2) times a direction.

    Args:
        meta_parameters: the meta-parameters.
        rollout: of the population.
        value: the objective by run, `[2 * runs]`.
        directions: what each pair's difference is multiplied with, `[runs, meta-parameters]`.
        sigma: the perturbation's standard deviation.
        distributed: the processes.
        penalty: whether runs that diverged count.
        clip: where given, differences are divided by their root mean square over all pairs, and
            clipped at this.
        diverged: runs that did.
    """
    positive, negative = value.chunk(2)
    alive = rollout.inner.alive.reshape(2, -1).all(0)
    counts = torch.ones_like(alive) if penalty is not None else alive
    counts = counts & positive.isfinite() & negative.isfinite()
    difference = torch.where(counts, positive - negative, torch.zeros_like(positive)) / 2
    if clip is not None:
        squares, number = distributed.sum([difference.square().sum(), counts.sum().to(difference)])
        scale = (squares / number.clamp_min(1)).sqrt().clamp_min(1e-12)
        # In units of sigma: otherwise the gradient of differences of size one.
        difference = (difference / scale).clamp(-clip, clip) * sigma
    counted = int(counts.sum())
    flat = difference @ directions / (sigma**2 * max(counted, 1))
    shown = torch.where(counts, (positive + negative) / 2, torch.zeros_like(positive))
    losses = torch.where(
        counts, rollout.losses.nan_to_num(0.0, 0.0, 0.0).unflatten(1, (2, -1)).mean((0, 1)), 0.0
    )
    return Estimate(
        gradients=unflatten(meta_parameters, flat.to(directions)),
        meta_loss=shown.sum() / max(counted, 1),
        mean_loss=losses.sum() / max(counted, 1),
        counted=counted,
        diverged=diverged,
        inner_steps=rollout.imitation.numel(),
    )

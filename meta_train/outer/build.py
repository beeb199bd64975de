"""Builds the parts of a meta-training, and applies the memory budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learned_opt.checks.arguments import check_type
from learned_opt.rules.base import UpdateRule
from meta_train.estimators import Estimator, create_estimator
from meta_train.estimators.memory_budget import MemoryPlan, apply_memory_budget
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.imitation import create_teacher
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.groups import Groups
from meta_train.inner.runs.runs import RunPlan
from meta_train.inner.step.compiled_rule import CompiledRule, why_not_compiled
from meta_train.inner.step.rule_in_c import RuleInC, why_not_in_c
from meta_train.outer.arguments import check_arguments
from meta_train.outer.c_library_record import libraries_in_use
from meta_train.outer.settings import DTYPES, TrainSettings
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks.base import TaskFamily


@dataclass(frozen=True)
class TrainerParts:
    """The parts of a meta-training that settings describe.

    Attributes:
        settings: the settings, with the memory mode chosen.
        meta_parameters: the rule and, if it is learned, the initialisation.
        estimator: of the meta-gradient.
        groups: the inner runs.
        loop_settings: how inner steps are taken.
        c_library: that computes; see `libraries_in_use`.
        notes: messages to the user.
    """

    settings: TrainSettings
    meta_parameters: MetaParameters
    estimator: Estimator
    groups: Groups
    loop_settings: LoopSettings
    c_library: str
    notes: tuple[str, ...] = ()


def build_parts(
    rule: UpdateRule,
    family: TaskFamily,
    settings: TrainSettings,
    *,
    initialization: Mapping[str, Tensor] | None,
    device: torch.device,
    distributed: DistributedContext,
) -> TrainerParts:
    """Build the parts; with a memory budget, first choose a mode that fits.

    Args:
        rule: the update rule; moved to `device` and made trainable, in place.
        family: inner problems.
        settings: see `TrainSettings`.
        initialization: the learned initialisation by parameter name; None if none is learned.
        device: device of inner training.
        distributed: the processes that share the runs.

    Raises:
        ValueError: an argument of another kind, nothing to train, or settings that contradict each
            other.
    """
    check_arguments(rule, family, settings, initialization)
    check_type("distributed", distributed, DistributedContext, "a DistributedContext or None")

    def build(settings: TrainSettings) -> TrainerParts:
        return _build(rule, family, settings, initialization, device, distributed)

    notes: tuple[str, ...] = ()
    if settings.compile_rule:
        # All processes do alike, and a checkpoint records what they do.
        problem = distributed.from_first(why_not_compiled)
        if problem is not None:
            settings = replace(settings, compile_rule=False)
            notes = (f"the rule is not compiled: {problem}",)
    if settings.memory == "plain":
        parts = build(settings)
    else:
        plan = _plan_memory(build(replace(settings, memory="plain")), settings, distributed)
        parts, notes = build(_with_plan(settings, plan)), (*notes, str(plan))
    return replace(parts, notes=(*notes, *_note_on_objective(parts)))


def _note_on_objective(parts: TrainerParts) -> tuple[str, ...]:
    """Say so if an objective that looks at the end of runs sees the ends of windows."""
    settings = parts.settings
    if not (OBJECTIVES[settings.objective].needs_whole_runs and parts.estimator.continues):
        return ()
    return (
        f"objective {settings.objective!r} reads the end of each window of "
        f"{settings.truncation_length} steps, not that of a run: whole runs need estimator full, "
        "first-order or es",
    )


def _build(
    rule: UpdateRule,
    family: TaskFamily,
    settings: TrainSettings,
    initialization: Mapping[str, Tensor] | None,
    device: torch.device,
    distributed: DistributedContext,
) -> TrainerParts:
    if initialization and settings.param_rescale_range:
        raise ValueError("a learned initialisation needs param_rescale_range=0")
    dtype = DTYPES[settings.dtype]
    rule.to(device, dtype).requires_grad_(True)
    meta_parameters = MetaParameters(rule, initialization).to(device, dtype)
    estimator = create_estimator(settings.estimator, **settings.estimator_settings)
    estimator.check(meta_parameters)
    # A checkpoint records what is done: in C or not, the last digits differ.
    settings = replace(settings, fused_rule=_steps_in_c(settings, estimator, rule, distributed))
    teacher = create_teacher(settings.imitate, settings.imitate_lr, device, dtype)
    plan = RunPlan(
        horizons=settings.planned_horizons(),
        truncation_length=settings.truncation_length if estimator.continues else None,
        copies=estimator.copies,
        restart=settings.restart,
        dtype=None if dtype == torch.float32 else dtype,
        teacher=teacher,
        vectorize=settings.vectorize,
    )
    groups = Groups(
        meta_parameters,
        family,
        plan,
        groups=settings.groups,
        runs=settings.runs,
        param_rescale_range=settings.param_rescale_range,
        loss_rescale_range=settings.loss_rescale_range,
        seed=settings.seed,
        distributed=distributed,
        device=device,
    )
    loop_settings = LoopSettings(
        lr=settings.inner_lr,
        second_order=_second_order(settings, estimator, meta_parameters),
        teacher=teacher,
        compiled=CompiledRule(meta_parameters.rule, verbose=distributed.first)
        if settings.compile_rule
        else None,
        in_c=RuleInC(meta_parameters.rule) if settings.fused_rule else None,
    )
    library = libraries_in_use(device, dtype, distributed)
    return TrainerParts(settings, meta_parameters, estimator, groups, loop_settings, library)


def _steps_in_c(
    settings: TrainSettings,
    estimator: Estimator,
    rule: UpdateRule,
    distributed: DistributedContext,
) -> bool:
    """Whether C takes the rule's steps; all processes do alike."""
    if not settings.fused_rule or estimator.copies == 1:  # no population
        return False
    everyones = distributed.gather(why_not_in_c(rule) is None)
    return distributed.from_first(lambda: all(everyones))


def _second_order(
    settings: TrainSettings, estimator: Estimator, meta_parameters: MetaParameters
) -> bool:
    """Whether second derivatives are taken: the estimator decides, then the settings, the rule."""
    if estimator.second_order is not None:
        return estimator.second_order
    if settings.second_order is not None:
        return settings.second_order
    return meta_parameters.rule.second_order or meta_parameters.learns_initialization


def _plan_memory(
    plain: TrainerParts, settings: TrainSettings, distributed: DistributedContext
) -> MemoryPlan:
    """Choose a memory mode, measured on parts without a budget."""
    plain.groups.prepare(0, 0.0)
    return apply_memory_budget(
        settings.memory,
        plain.groups.runs,
        plain.loop_settings,
        steps=settings.planned_horizons().longest(),
        truncation_length=settings.truncation_length,
        objective=OBJECTIVES[settings.objective],
        outer_data=settings.objective_data,
        distributed=distributed,
    )


def _with_plan(settings: TrainSettings, plan: MemoryPlan) -> TrainSettings:
    """Settings that spell out a memory plan, so that a checkpoint records it."""
    inside = {} if plan.checkpoint_steps is None else {"checkpoint_steps": plan.checkpoint_steps}
    settings = replace(settings, memory="plain", estimator_settings=inside)
    if plan.truncation_length is None:
        return settings
    return replace(
        settings,
        estimator=plan.mode,
        truncation_length=plan.truncation_length,
        second_order=False if settings.estimator == "first-order" else settings.second_order,
    )

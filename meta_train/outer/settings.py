"""Settings of meta-training, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from learned_opt.registry import look_up
from learned_opt.rules import RULES
from meta_train.estimators import ESTIMATORS
from meta_train.estimators.memory_budget import EXACT, read_budget
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.horizons import Horizons
from meta_train.outer.meta_optimizer import META_OPTIMIZERS, SCHEDULES

OBJECTIVE_DATA = ("training", "fresh", "validation")
NO_STEPS = ("full", "first-order", "es")
"""Estimators that can judge the start itself."""
LARGEST = 1e30
"""Of settings that are as good as infinite there, and would overflow, or not be for JSON."""
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class TrainSettings:
    """Settings of meta-training.

    Attributes:
        estimator: how the meta-gradient is estimated: full, truncated, first-order, reptile,
            implicit, es or pes.
        estimator_settings: settings of the estimator's class (meta_train/estimators/).
        memory: for the estimators full and first-order: "plain" keeps the graph of all steps,
            "segments" recomputes it, "truncated" and "pes" take windows; or a budget such as
            "500MiB" for the meta-gradient of a process, which takes the first of these that fits
            in (see meta_train/estimators/memory_budget.py).
        outer_steps: updates of the meta-parameters.
        max_minutes: stop earlier when so much time has gone by.
        runs: inner runs of a group, which share a task and train side by side.
        groups: groups of runs in each outer step; each draws its task from the family.
        horizons: lengths of inner runs, in steps; each run draws one. 0 judges the start itself
            (joint pre-training): only for whole runs, on data that is not trained on.
        horizon_draw: "listed" draws one of `horizons`; "log-uniform" draws between the smallest and
            the largest (Metz et al. 2022, arXiv 2211.09760).
        horizon_stages: a curriculum in place of `horizons`: meta-training is divided evenly, and
            each part has its own (Chen et al. 2020, arXiv 2010.09089).
        inner_lr: factor on the rule's updates, negative ones too; by default the rule's own.
        truncation_length: inner steps per outer step, for estimators that carry inner runs on from
            one outer step to the next (truncated, pes).
        restart: probability with which a new run goes on from where an earlier one ended (ELO 2026,
            arXiv 2607.06772).
        param_rescale_range: re-parametrise each tensor of an inner problem by a random factor
            exp(U(-r, r)), r being this range (Lv et al. 2017, arXiv 1703.03633).
        loss_rescale_range: multiply each problem's loss by a random factor exp(U(-r, r)).
        objective: sum, sqrt, log, last, log-last or log-tail (estimators/objectives.py).
        objective_data: the losses are those on the next "training" batch, on "fresh" batches of the
            same data, or on "validation" data that inner training does not see.
        imitate: a hand-designed rule whose steps are imitated, in direction and size (Chen et al.
            2020; ELO 2026).
        imitate_lr: its rate; by default the rule's own.
        imitate_weight: weight of the imitation at the start of meta-training and at its end, linear
            in between.
        hide_loss: share of the outer steps in which the rule is not told the loss, so that it
            learns to do without.
        second_order: differentiate through the gradients that the rule reads, too; by default as
            the rule says (`UpdateRule.second_order`).
        vectorize: run the inner runs at once under vmap ("always"), one by one ("never"), or as
            the engine finds faster ("auto").
        meta_optimizer: adam, adamw, rmsprop or sgd (`torch.optim`).
        lr: its rate, warmed up over 20 steps.
        final_lr_fraction: the last rate as a share of `lr`.
        schedule: how the rate gets there: cosine, linear, exponential or constant.
        grad_clip_norm: bound on the norm of the meta-gradient.
        outlier_factor: skip an outer step whose gradient norm is so many times the running median.
        max_consecutive_skips: stop with an error after so many skipped outer steps in a row.
        ema_decay: decay of the moving average of weights that is evaluated and shipped.
        validate_every: outer steps between evaluations on validation tasks; the best one is kept.
        patience: stop after so many evaluations without a new best one (0: never).
        checkpoint_every: outer steps between checkpoints.
        keep_checkpoints: how many of the newest are kept.
        gates_every: outer steps between gate summaries (0: none).
        dtype: of inner training and of the rule: float32 or float64.
        seed: of everything that is drawn.
    """

    estimator: str = "truncated"
    estimator_settings: dict[str, Any] = field(default_factory=dict)
    memory: str = "plain"
    outer_steps: int = 300
    max_minutes: float = 5.0
    runs: int = 4
    groups: int = 1
    horizons: tuple[int, ...] = (100, 100, 100, 300)
    horizon_draw: str = "listed"
    horizon_stages: tuple[tuple[int, ...], ...] = ()
    inner_lr: float | None = None
    truncation_length: int = 20
    restart: float = 0.0
    param_rescale_range: float = 1.0
    loss_rescale_range: float = 0.0
    objective: str = "sqrt"
    objective_data: str = "training"
    imitate: str | None = None
    imitate_lr: float | None = None
    imitate_weight: tuple[float, float] = (1.0, 0.0)
    hide_loss: float = 0.0
    second_order: bool | None = None
    vectorize: str = "auto"
    meta_optimizer: str = "adam"
    lr: float = 5e-3
    final_lr_fraction: float = 0.05
    schedule: str = "cosine"
    grad_clip_norm: float = 1.0
    outlier_factor: float = 10.0
    max_consecutive_skips: int = 50
    ema_decay: float = 0.98
    validate_every: int = 50
    patience: int = 0
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    gates_every: int = 100
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: names the setting and the value.
        """
        look_up("estimator", self.estimator, ESTIMATORS)
        read_budget(self.memory)
        if self.memory != "plain" and self.estimator not in EXACT:
            raise ValueError(
                f"memory={self.memory!r} needs estimator full or first-order, got "
                f"{self.estimator!r}"
            )
        look_up("objective", self.objective, OBJECTIVES)
        look_up("meta_optimizer", self.meta_optimizer, META_OPTIMIZERS)
        look_up("schedule", self.schedule, SCHEDULES)
        look_up("dtype", self.dtype, DTYPES)
        if self.imitate is not None:
            look_up("rule to imitate", self.imitate, RULES)
        for name, choices in (
            ("objective_data", OBJECTIVE_DATA),
            ("vectorize", ("auto", "always", "never")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        self._check_numbers()
        if self.memory != "plain" and self.estimator_settings:
            raise ValueError(
                f"memory={self.memory!r} chooses the estimator's settings itself: leave out "
                f"estimator_settings={self.estimator_settings}"
            )
        if self.planned_horizons().shortest() == 0:
            self._check_no_steps()

    def _check_numbers(self) -> None:
        at_least_one = (
            *("runs", "groups", "truncation_length", "max_consecutive_skips"),
            *("validate_every", "checkpoint_every", "keep_checkpoints"),
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "outer_steps",
            "gates_every",
            "patience",
            "param_rescale_range",
            "loss_rescale_range",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("max_minutes", "lr", "grad_clip_norm", "outlier_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("final_lr_fraction", "ema_decay", "restart", "hide_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in (
            "max_minutes",
            "lr",
            "grad_clip_norm",
            "outlier_factor",
            "param_rescale_range",
            "loss_rescale_range",
        ):
            if getattr(self, name) > LARGEST:
                raise ValueError(f"{name} must be at most {LARGEST:g}, got {getattr(self, name)}")
        if self.inner_lr is not None and not abs(self.inner_lr) <= LARGEST:
            raise ValueError(f"inner_lr must be finite, got {self.inner_lr}")
        if len(self.imitate_weight) != 2 or not min(self.imitate_weight) >= 0:
            raise ValueError(f"imitate_weight must be two weights, got {self.imitate_weight}")

    def _check_no_steps(self) -> None:
        if self.estimator not in NO_STEPS or self.objective_data == "training" or self.imitate:
            raise ValueError(
                f"a horizon of 0 needs an estimator of {', '.join(NO_STEPS)} and objective_data "
                f"fresh or validation, and imitates nothing; got {self.estimator!r}, "
                f"{self.objective_data!r}, imitate={self.imitate!r}"
            )

    def planned_horizons(self) -> Horizons:
        """The lengths of inner runs as one object."""
        return Horizons(self.horizon_stages or (self.horizons,), self.horizon_draw)

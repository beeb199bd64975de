"""Settings of meta-training, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass

from learned_opt.names import look_up
from meta_train.objectives import OBJECTIVES


@dataclass(frozen=True)
class TrainSettings:
    """Settings of meta-training.

    Attributes:
        outer_steps: updates of the rule's weights.
        max_minutes: stop earlier when so much time has gone by.
        runs: inner runs that are unrolled side by side.
        horizons: lengths of inner runs, in steps; each run draws one.
        window: inner steps between outer steps (the truncation length).
        unit_spread: each tensor of an inner problem is put in units of exp(U(+-this)).
        objective: "sum", "sqrt" or "log" of the inner losses.
        second_order: differentiate through the gradients that the rule reads, too; by default as
            the rule says (`UpdateRule.second_order`).
        lr: rate of the meta-optimizer (Adam), warmed up over 20 steps, then a cosine to its end.
        lr_end: the last rate as a share of `lr`.
        clip: bound on the norm of the meta-gradient.
        outlier: skip an outer step whose gradient norm is so many times the running median.
        averaging: decay of the moving average of weights that is evaluated and shipped.
        validate_every: outer steps between evaluations on validation tasks; the best one is kept.
        checkpoint_every: outer steps between checkpoints.
        gates_every: outer steps between gate summaries (0: none).
        seed: of everything that is drawn.
    """

    outer_steps: int = 300
    max_minutes: float = 5.0
    runs: int = 4
    horizons: tuple[int, ...] = (100, 100, 100, 300)
    window: int = 20
    unit_spread: float = 1.0
    objective: str = "sqrt"
    second_order: bool | None = None
    lr: float = 5e-3
    lr_end: float = 0.05
    clip: float = 1.0
    outlier: float = 10.0
    averaging: float = 0.98
    validate_every: int = 50
    checkpoint_every: int = 100
    gates_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: names the setting and the value.
        """
        look_up("objective", self.objective, OBJECTIVES)
        positive = ("runs", "window", "validate_every", "checkpoint_every")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.outer_steps < 0 or self.gates_every < 0:
            raise ValueError("outer_steps and gates_every must not be negative")
        if not self.horizons or min(self.horizons) < 1:
            raise ValueError(f"horizons must be positive and not empty, got {self.horizons}")
        for name in ("max_minutes", "lr", "clip", "outlier"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("lr_end", "averaging"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

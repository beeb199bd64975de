"""Settings of inner training."""

from dataclasses import dataclass
from typing import Literal, get_args

from learned_opt.registry import look_up
from learned_opt.rules import RULES
from meta_train.inner.runs.horizons import Horizons
from meta_train.runtime.checks import (
    LARGEST,
    check_at_least,
    check_fraction,
    check_not_negative,
)

Vectorize = Literal["auto", "always", "never"]
HorizonDraw = Literal["listed", "log-uniform"]


@dataclass(frozen=True)
class InnerSettings:
    """Settings of inner training.

    Raises:
        ValueError: names the setting and its value.
    """

    groups: int = 1
    """Groups of inner runs in each outer step. Each group samples its task from the family."""

    runs: int = 4
    """Inner runs per group. They share a task and train side by side."""

    horizons: tuple[int, ...] = (100, 100, 100, 300)
    """Lengths of inner runs in steps; each run draws one. A length of 0 evaluates the
    initialisation itself (joint pre-training)."""

    horizon_draw: HorizonDraw = "listed"
    """"listed" draws one of `horizons`; "log-uniform" draws a length between the smallest and the
    largest (Metz et al. 2022, arXiv 2211.09760)."""

    horizon_stages: tuple[tuple[int, ...], ...] = ()
    """A curriculum that replaces `horizons`: meta-training is divided into equal stages, each with
    its own list of lengths (Chen et al. 2020, arXiv 2010.09089)."""

    truncation_length: int = 20
    """Inner steps per outer step, for the estimators that continue inner runs from one outer step
    to the next (truncated, pes)."""

    restart: float = 0.0
    """Probability that a new run continues from the final state of an earlier one (ELO 2026,
    arXiv 2607.06772)."""

    inner_lr: float | None = None
    """Learning rate that multiplies the rule's updates; may be negative. Default: the rule's
    own."""

    param_rescale_range: float = 1.0
    """Range r: multiply each parameter tensor of a problem by a random factor exp(U(-r, r)) and
    train in the rescaled coordinates (Lv et al. 2017, arXiv 1703.03633)."""

    loss_rescale_range: float = 0.0
    """Range r: multiply each problem's loss by a random factor exp(U(-r, r))."""

    hide_loss: float = 0.0
    """Share of the outer steps in which the rule does not see the loss, so that it learns to work
    without it."""

    imitate: str | None = None
    """A hand-designed rule to imitate; the distance from its steps, in direction and size, is added
    to the objective (Chen et al. 2020; ELO 2026)."""

    imitate_lr: float | None = None
    """Learning rate of the imitated rule. Default: the rule's own."""

    imitate_weight: tuple[float, float] = (1.0, 0.0)
    """Weight of the imitation at the start and at the end of meta-training, linear in between."""

    second_order: bool | None = None
    """Differentiate through the inner gradients too. Default: the rule decides."""

    vectorize: Vectorize = "auto"
    """Train inner runs together under vmap ("always"), one by one ("never"), or choose the faster
    way ("auto")."""

    compile_rule: bool = False
    """Compile the rule's step with torch.compile, for the estimators es and pes: a third of its
    time, the same numbers to rounding. It pays in long runs: each number of parameter tensors is
    compiled once, in 20 to 80 seconds. Without a C++ compiler the rule runs uncompiled."""

    fused_rule: bool = True
    """Take the rule's step in C, for the estimators es and pes in float32 on the CPU: a ninth of
    its time, the same numbers to rounding. It goes before compile_rule. There is such code for
    step-size-lstm; other rules, and an installation without the C library, do without."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_at_least(
            1, groups=self.groups, runs=self.runs, truncation_length=self.truncation_length
        )
        check_not_negative(
            param_rescale_range=self.param_rescale_range,
            loss_rescale_range=self.loss_rescale_range,
        )
        check_fraction(restart=self.restart, hide_loss=self.hide_loss)
        look_up("vectorize", self.vectorize, dict.fromkeys(get_args(Vectorize)))
        if self.imitate is not None:
            look_up("rule to imitate", self.imitate, RULES)
        if self.inner_lr is not None and not abs(self.inner_lr) <= LARGEST:
            raise ValueError(f"inner_lr must be finite, got {self.inner_lr}")
        if len(self.imitate_weight) != 2 or not min(self.imitate_weight) >= 0:
            raise ValueError(
                "imitate_weight must be two numbers that are not negative, got "
                f"{self.imitate_weight}"
            )
        self.planned_horizons()

    def planned_horizons(self) -> Horizons:
        """The distribution of the lengths of inner runs."""
        return Horizons(self.horizon_stages or (self.horizons,), self.horizon_draw)

    def imitation_weight(self, progress: float) -> float:
        """Weight of the imitation; 0 without a rule to imitate.

        Args:
            progress: completed fraction of meta-training, in [0, 1].
        """
        if self.imitate is None:
            return 0.0
        start, end = self.imitate_weight
        return start + (end - start) * progress

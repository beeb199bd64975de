"""Adam and RMSprop: steps divided by the root mean square of the gradient."""

from __future__ import annotations

from torch import Tensor

from learned_opt.rules.base import Context, Gates, State
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.rules.parts.features import (
    bias_correction,
    moving_average,
    moving_square,
    safe_sqrt,
)


class Adam(CoordinateRule):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1).

        m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        delta = -m_hat / (sqrt(v_hat) + eps)

    Equals `torch.optim.Adam`, and with the optimizer's weight decay `torch.optim.AdamW`.

    State per coordinate: the first and second moment, `m` and `v`.

    Args:
        betas: b1 and b2, in [0, 1).
        eps: added to the root, >= 0.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=Adam(betas=(0.9, 0.99)))
    """

    default_lr = 1e-3
    idle_key = "v"  # where eps is 0, a fresh coordinate's step is 0 / 0

    def __init__(self, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        betas = (betas[0], betas[1])
        super().__init__(betas=betas, eps=eps)
        for beta in betas:
            _check_decay("betas", beta)
        _check_eps(eps)
        self.betas = betas
        self.eps = eps

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """First and second moment, `m` and `v`."""
        return {"m": (), "v": ()}

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        b1, b2 = self.betas
        m = moving_average(state["m"], gradient, b1)
        v = moving_square(state["v"], gradient, b2)
        m_hat = m / bias_correction(state["step"], b1)
        # The root first, as in torch: v over its small correction overflows earlier.
        root = safe_sqrt(v) / bias_correction(state["step"], b2).sqrt()
        return -m_hat / (root + self.eps), {"m": m, "v": v}


class RMSprop(CoordinateRule):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5). Equals `torch.optim.RMSprop`.

        v <- a v + (1 - a) g^2,  delta = -g / (sqrt(v) + eps)

    State per coordinate: the mean square `v`.

    Args:
        alpha: a, in [0, 1).
        eps: added to the root, >= 0.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=RMSprop(alpha=0.9))
    """

    default_lr = 1e-2
    idle_key = "v"

    def __init__(self, *, alpha: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(alpha=alpha, eps=eps)
        _check_decay("alpha", alpha)
        _check_eps(eps)
        self.alpha = alpha
        self.eps = eps

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """The second moment `v`."""
        return {"v": ()}

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        v = moving_square(state["v"], gradient, self.alpha)
        return -gradient / (safe_sqrt(v) + self.eps), {"v": v}


def _check_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def _check_eps(value: float) -> None:
    if not value >= 0:
        raise ValueError(f"eps must be at least 0, got {value}")

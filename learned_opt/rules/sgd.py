"""Stochastic gradient descent, without and with momentum (Polyak 1964; Sutskever et al. 2013)."""

from __future__ import annotations

from torch import Tensor

from learned_opt.rules.base import Context, Gates, State
from learned_opt.rules.coordinate_rule import CoordinateRule


class SGD(CoordinateRule):
    """Gradient descent: delta = -g. Equals `torch.optim.SGD(momentum=0)`.

    State: none besides `step`.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), lr=0.1, rule=SGD())
    """

    default_lr = 1e-2

    def __init__(self) -> None:
        super().__init__()

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """No state."""
        return {}

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        return -gradient, {}


class Momentum(CoordinateRule):
    """Gradient descent with momentum. Equals `torch.optim.SGD(momentum=mu)`.

        m <- mu m + (1 - dampening) g,  delta = -m, or -(g + mu m) with Nesterov's look-ahead

    The first step sets m = g without dampening, as in torch.

    State per coordinate: the momentum buffer `m`.

    Args:
        momentum: mu, in [0, 1).
        dampening: in [0, 1]; must be 0 with `nesterov`.
        nesterov: use Nesterov's look-ahead.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), lr=0.1, rule=Momentum(nesterov=True))
    """

    default_lr = 1e-2

    def __init__(
        self, *, momentum: float = 0.9, dampening: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(momentum=momentum, dampening=dampening, nesterov=nesterov)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if not 0 <= dampening <= 1:
            raise ValueError(f"dampening must be in [0, 1], got {dampening}")
        if nesterov and dampening != 0:
            raise ValueError(f"nesterov needs dampening=0, got {dampening}")
        self.momentum = momentum
        self.dampening = dampening
        self.nesterov = nesterov

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """The momentum buffer `m`."""
        return {"m": ()}

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        damped = 1 - self.dampening * (state["step"] > 1).to(gradient.dtype)
        m = self.momentum * state["m"] + damped * gradient
        direction = gradient + self.momentum * m if self.nesterov else m
        return -direction, {"m": m}

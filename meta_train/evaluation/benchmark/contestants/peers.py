"""NAdamW and Muon as they are usually compared; torch's NAdam and Muon differ from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class NesterovAdamW(Optimizer):
    """AdamW, with Nesterov's momentum or without.

    With m and v the moving averages of the gradient g and of its square::

        n = b1 m + (1 - b1) g  with Nesterov's momentum, m without
        p <- p - lr n / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) - lr decay p

    With Nesterov's momentum it is NAdamW as in AlgoPerf (Dahl et al. 2023, arXiv 2306.07179), which
    torch's NAdam is not: that one has a schedule of b1.

    Args:
        params: as for every torch optimizer.
        lr: learning rate.
        betas: b1 and b2.
        eps: added to the root.
        weight_decay: decoupled weight decay.
        nesterov: whether the gradient itself is in the direction once more.
        eps_before: add eps before the correction of v, as in TaskSet: sqrt(v) + eps.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float],
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        eps_before: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "eps_before": eps_before})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _adamw(parameter, parameter.grad, self.state[parameter], group)


def _adamw(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Any) -> None:
    if not state:
        state.update(t=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
    state["t"] += 1
    (b1, b2), t, m, v = group["betas"], state["t"], state["m"], state["v"]
    m.lerp_(gradient, 1 - b1)
    v.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
    direction = m.lerp(gradient, 1 - b1) if group["nesterov"] else m
    root = math.sqrt(1 - b2**t)
    eps = group["eps"] if group["eps_before"] else group["eps"] * root
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.addcdiv_(direction, v.sqrt().add_(eps), value=-group["lr"] * root / (1 - b1**t))


class Muon(Optimizer):
    """Muon for the hidden matrices, AdamW for all else (Jordan et al. 2024).

    torch's Muon takes matrices only. This one takes kernels `[out, in, ...]` as the matrix
    `[out, in * ...]`, as Jordan's does, and is equal to torch's on matrices::

        m <- .95 m + .05 g,   u = orthogonal(.95 m + .05 g) * sqrt(max(1, rows / columns))

    Args:
        hidden: matrices and kernels, without embeddings and the output layer.
        rest: all other parameters, for AdamW with betas .9 and .95.
        lr: step of the matrices.
        adam_lr: learning rate of the rest.
        momentum: decay of the momentum.
    """

    def __init__(
        self,
        hidden: Sequence[Tensor],
        rest: Sequence[Tensor],
        lr: float,
        adam_lr: float,
        *,
        momentum: float = 0.95,
    ) -> None:
        adam = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
        groups: list[dict[str, Any]] = []
        if hidden:
            groups.append({"params": list(hidden), "lr": lr, "matrices": True})
        if rest:
            groups.append({"params": list(rest), "lr": adam_lr, "matrices": False, **adam})
        super().__init__(groups, {"momentum": momentum, "nesterov": False, "eps_before": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient, state = parameter.grad, self.state[parameter]
                if gradient is None:
                    continue
                if not group["matrices"]:
                    _adamw(parameter, gradient, state, group)
                    continue
                if not state:
                    state["m"] = torch.zeros_like(parameter)
                state["m"].lerp_(gradient, 1 - group["momentum"])
                ahead = gradient.lerp(state["m"], group["momentum"]).flatten(1)
                rows, columns = ahead.shape
                size = -group["lr"] * math.sqrt(max(1, rows / columns))
                parameter.add_(_orthogonal(ahead).view_as(parameter), alpha=size)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Singular values near 1 by five Newton-Schulz iterations in bfloat16, as the authors do."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.mT).bfloat16()
    x = x / torch.linalg.matrix_norm(x).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = (x if wide else x.mT).to(matrix.dtype)
    return found

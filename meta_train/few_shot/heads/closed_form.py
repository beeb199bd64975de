"""Heads that are solved exactly in each episode and differentiated through the solution."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from meta_train.few_shot.heads.base import EpisodeClassifier
from meta_train.tasks.episodes.networks import FewShotNetwork

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest change of B / C by a projected gradient step at which `svm_dual` has converged."""
ROUNDS = 50
NEWTON_STEPS = 20


def ridge(features: Tensor, targets: Tensor, strength: Tensor) -> Tensor:
    """Ridge regression: the W that minimises |X W - Y|^2 + strength |W|^2.

    By Woodbury's identity W = X^T (X X^T + strength I)^-1 Y: the matrix to invert is `[M, M]`, not
    `[F, F]` (Bertinetto et al. 2019, arXiv 1805.08136, eq. 3 and 4).

    Args:
        features: X, `[M, F]`.
        targets: Y, `[M, N]`.
        strength: 0-dim, positive.

    Returns:
        `[F, N]`.
    """
    eye = torch.eye(len(features), dtype=features.dtype, device=features.device)
    gram = features @ features.T + strength * eye
    solved: Tensor = torch.linalg.solve(gram, targets)
    return features.T @ solved


class RidgeHead(EpisodeClassifier):
    """R2D2: ridge regression to one-hot classes (Bertinetto et al. 2019, arXiv 1805.08136).

    Scores are `scale * x W + bias`, with learned scale and bias (eq. 5). The strength is learned as
    the exponential of a parameter, so it stays positive.

    Args:
        network: its body is the embedding.
        ways: classes per episode (N).
        strength: initial strength of the ridge.
        scale: initial scale.
    """

    def __init__(
        self, network: FewShotNetwork, *, ways: int, strength: float = 1.0, scale: float = 1.0
    ) -> None:
        super().__init__(network, ways=ways)
        if not strength > 0:
            raise ValueError(f"strength must be positive, got {strength}")
        self.log_strength = nn.Parameter(torch.tensor(strength).log())
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = nn.Parameter(torch.zeros(()))

    @property
    def solved_parameters(self) -> int:
        """Entries of W, `[features, ways]`."""
        return self.features * self.ways

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        weights = ridge(support, self.one_hot(labels, support), self.log_strength.exp())
        return self.scale * (query @ weights) + self.bias


class SVMHead(EpisodeClassifier):
    """MetaOptNet-SVM: a multi-class SVM on the support set (Lee et al. 2019, arXiv 1904.03758).

    Solves the dual of Crammer & Singer 2001 (eq. 11). The kernel has 1 added to its diagonal, as in
    the released code, and the scale of the scores is learned (eq. 12).

    Args:
        network: its body is the embedding.
        ways: classes per episode (N).
        c: upper bound of the dual variables (C).
        iterations: see `svm_dual`.
        scale: initial scale.
    """

    def __init__(
        self,
        network: FewShotNetwork,
        *,
        ways: int,
        c: float = 0.1,
        iterations: int = 200,
        scale: float = 1.0,
    ) -> None:
        super().__init__(network, ways=ways)
        if not c > 0 or iterations < 1:
            raise ValueError(f"c and iterations must be positive, got {c} and {iterations}")
        self.c = c
        self.iterations = iterations
        self.scale = nn.Parameter(torch.tensor(scale))

    @property
    def solved_parameters(self) -> int:
        """Entries of W, `[features, ways]`."""
        return self.features * self.ways

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        eye = torch.eye(len(support), dtype=support.dtype, device=support.device)
        kernel = support @ support.T + eye
        alpha = svm_dual(kernel, self.one_hot(labels, support), self.c, self.iterations)
        return self.scale * (query @ support.T @ alpha)


def svm_dual(kernel: Tensor, members: Tensor, c: float, iterations: int = 200) -> Tensor:
    """Dual variables of the multi-class SVM, differentiable with respect to the kernel.

    Minimises tr(A^T K A) / 2 - <Y, A> subject to A <= c Y, where each row of A sums to 0. With
    B = c Y - A, the rows of B lie in a simplex of size c. Accelerated projected gradient descent
    (Beck & Teboulle 2009, restarts of O'Donoghue & Candes 2015) finds the zeros of B. The other
    entries solve linear equations, which give the derivative by the implicit function theorem
    (Amos & Kolter 2017, arXiv 1703.00443, do this for any quadratic program). The same equations
    are the Newton step that finishes the descent on ill-conditioned kernels.

    Args:
        kernel: K, `[M, M]`, positive definite.
        members: Y, one-hot, `[M, N]`.
        c: positive.
        iterations: steps of projected gradient descent between two checks of the residual. The
            descent goes on, with Newton steps in between, until it has converged.

    Returns:
        A, `[M, N]`.

    Warns:
        RuntimeWarning: the descent has not converged after `ROUNDS` checks.
    """
    # An ill-conditioned kernel loses all digits of float32.
    wide = kernel.double() if kernel.device.type != "mps" else kernel
    classes = members.to(wide)
    with torch.no_grad():
        solution = _Solution.apply(wide.detach(), classes, c, iterations)  # type: ignore[no-untyped-call]
    exact = _on_support(wide, classes, c, solution > 1e-6 * c)
    # The value is `solution`, which is always feasible; the derivative is that of `exact`.
    alpha: Tensor = c * classes - (solution + exact - exact.detach())
    return alpha.to(kernel.dtype)


class _Solution(torch.autograd.Function):
    """B, `[..., M, N]`. Under vmap it gets all episodes at once, so that it can look at values."""

    @staticmethod
    def forward(kernel: Tensor, members: Tensor, c: float, iterations: int) -> Tensor:
        """Solve `[..., M, M]` until converged."""
        shape = members.shape
        kernels = kernel.reshape(-1, *kernel.shape[-2:])
        classes = members.reshape(-1, *shape[-2:])
        return _solve_episodes(kernels, classes, c, iterations).reshape(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: the derivative is taken elsewhere."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, kernel: Tensor, members: Tensor, c: float, iterations: int
    ) -> tuple[Tensor, int]:
        """Solve all episodes together."""
        tensors = [
            tensor.expand(info.batch_size, *tensor.shape)
            if axis is None
            else tensor.movedim(axis, 0)
            for tensor, axis in zip((kernel, members), in_dims[:2], strict=True)
        ]
        return _Solution.apply(*tensors, c, iterations), 0  # type: ignore[no-untyped-call]


def _solve_episodes(kernels: Tensor, members: Tensor, c: float, iterations: int) -> Tensor:
    """B of each episode, `[episodes, M, N]`."""
    descend, newton, residual = (
        vmap(function, in_dims=(0, 0, None, 0))
        for function in (
            lambda k, y, c, b: _projected_gradient(k, y, c, iterations, b),
            lambda k, y, c, b: project(_on_support(k, y, c, _step(k, y, c, b) > 0), c),
            lambda k, y, c, b: (_step(k, y, c, b) - b).abs().amax() / c,
        )
    )
    best: Tensor
    best = c * (1 - members) / (members.shape[-1] - 1) if members.shape[-1] > 1 else c * members
    tolerance = kernels.new_tensor(TOLERANCE[kernels.dtype])
    for _ in range(ROUNDS):
        best = descend(kernels, members, c, best)
        left = residual(kernels, members, c, best)
        for _ in range(NEWTON_STEPS):
            if bool((left <= tolerance).all()):
                return best
            candidate = newton(kernels, members, c, best)
            change = residual(kernels, members, c, candidate)
            better = change < left
            if not bool(better.any()):
                break
            best = torch.where(better[:, None, None], candidate, best)
            left = torch.where(better, change, left)
    if bool((left <= tolerance).all()):
        return best
    warnings.warn(
        f"the SVM of {int((left > tolerance).sum())} of {len(left)} episodes has not converged "
        f"(residual {float(left.max()):.1e}): a smaller C or smaller features may help",
        RuntimeWarning,
        stacklevel=2,
    )
    return best


def _step(kernel: Tensor, members: Tensor, c: float, point: Tensor) -> Tensor:
    """A projected gradient step from B; B is the optimum if it stays where it is.

    Its length is 1 over the smallest eigenvalue, so that flat directions count, too.
    """
    gradient = members - kernel @ (c * members - point)
    return project(point - gradient / torch.linalg.eigvalsh(kernel)[0], c)


def _projected_gradient(
    kernel: Tensor, members: Tensor, c: float, iterations: int, begin: Tensor
) -> Tensor:
    """B, `[M, N]`. No operation depends on values, so it runs under vmap."""
    step = 1 / torch.linalg.eigvalsh(kernel)[-1]
    point = ahead = begin
    speed = torch.ones((), dtype=kernel.dtype, device=kernel.device)
    for _ in range(iterations):
        gradient = members - kernel @ (c * members - ahead)
        new = project(ahead - step * gradient, c)
        restart = ((ahead - new) * (new - point)).sum() > 0
        faster = (1 + (1 + 4 * speed.square()).sqrt()) / 2
        momentum = torch.where(restart, 0.0, (speed - 1) / faster)
        speed = torch.where(restart, 1.0, faster)
        ahead = new + momentum * (new - point)
        point = new
    return point


def project(rows: Tensor, size: float) -> Tensor:
    """Project each row of `[M, N]` onto the simplex {b >= 0, sum b = size}.

    Sorts each row (Held et al. 1974; Duchi et al. 2008, figure 1).
    """
    ordered = rows.sort(-1, descending=True).values
    count = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    levels = (ordered.cumsum(-1) - size) / count
    # Levels rise, then fall: the largest one belongs to the entries that stay positive.
    return (rows - levels.amax(-1, keepdim=True)).clamp_min(0)


def _on_support(kernel: Tensor, members: Tensor, c: float, free: Tensor) -> Tensor:
    """B from the equations of the optimum, given its nonzero entries.

    K B - nu 1^T = c K Y - Y where B is free, B = 0 elsewhere, and each row of B sums to c.
    """
    m, n = members.shape
    mask = free.to(kernel)
    eye = torch.eye(n, dtype=kernel.dtype, device=kernel.device)
    both = mask.unsqueeze(-1).unsqueeze(-1) * mask
    block = (kernel[:, None, :, None] * eye[:, None, :] * both).reshape(m * n, m * n)
    block = block + torch.diag(1 - mask.flatten())
    own = torch.eye(m, dtype=kernel.dtype, device=kernel.device)
    sums = (mask.unsqueeze(-1) * own.unsqueeze(1)).reshape(m * n, m)
    corner = torch.zeros(m, m, dtype=kernel.dtype, device=kernel.device)
    matrix = torch.cat([torch.cat([block, -sums], 1), torch.cat([sums.T, corner], 1)])
    right = torch.cat([(mask * (c * kernel @ members - members)).flatten(), c * mask.new_ones(m)])
    solved: Tensor = torch.linalg.solve(matrix, right)
    return solved[: m * n].reshape(m, n) * mask

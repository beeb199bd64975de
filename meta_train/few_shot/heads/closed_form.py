"""Heads that are solved exactly in each episode and differentiated through the solution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meta_train.few_shot.heads.base import EpisodeClassifier
from meta_train.tasks.episodes.networks import FewShotNetwork


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
    (Amos & Kolter 2017, arXiv 1703.00443, do this for any quadratic program).

    Args:
        kernel: K, `[M, M]`, positive definite.
        members: Y, one-hot, `[M, N]`.
        c: positive.
        iterations: steps of projected gradient descent. It converges linearly, and faster for a
            smaller condition number of the kernel.

    Returns:
        A, `[M, N]`.
    """
    with torch.no_grad():
        solution = _projected_gradient(kernel.detach(), members, c, iterations)
    exact = _on_support(kernel, members, c, solution > 1e-6 * c)
    # The value is `solution`, which is always feasible; the derivative is that of `exact`.
    return c * members - (solution + exact - exact.detach())


def _projected_gradient(kernel: Tensor, members: Tensor, c: float, iterations: int) -> Tensor:
    """B, `[M, N]`. No operation depends on values, so it runs under vmap."""
    step = 1 / torch.linalg.eigvalsh(kernel)[-1]
    point = ahead = project(c * (1 - members), c)
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

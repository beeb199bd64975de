"""Heads that are solved for in closed form, or exactly, and differentiated through the solution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meta_train.few_shot.heads.base import EpisodeMethod
from meta_train.tasks.episodes.networks import FewShotNetwork


def ridge(features: Tensor, targets: Tensor, strength: Tensor) -> Tensor:
    """W that makes |X W - Y|^2 + strength |W|^2 smallest, by Woodbury's identity.

    W = X^T (X X^T + strength I)^-1 Y: the matrix has the size of the support set, not of the
    features (Bertinetto et al. 2019, arXiv 1805.08136, eq. 3 and 4).

    Args:
        features: X, `[M, F]`.
        targets: Y, `[M, N]`.
        strength: positive, 0-dim.

    Returns:
        `[F, N]`.
    """
    eye = torch.eye(len(features), dtype=features.dtype, device=features.device)
    gram = features @ features.T + strength * eye
    solved: Tensor = torch.linalg.solve(gram, targets)
    return features.T @ solved


class RidgeHead(EpisodeMethod):
    """R2D2: ridge regression to one-hot classes (Bertinetto et al. 2019, arXiv 1805.08136).

    Scores are `scale * x W + bias` with learned scale and bias (eq. 5) and learned strength, which
    is kept positive as an exponential.

    Args:
        network: its body embeds.
        ways: classes of an episode.
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
        """W, `[features, ways]`."""
        return self.features * self.ways

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeMethod`."""
        weights = ridge(support, self.one_hot(labels, support), self.log_strength.exp())
        return self.scale * (query @ weights) + self.bias


class SVMHead(EpisodeMethod):
    """MetaOptNet-SVM: a multi-class SVM on the support set (Lee et al. 2019, arXiv 1904.03758).

    The dual of Crammer & Singer 2001 (eq. 11), with 1 added to the diagonal of the kernel as in the
    released code, and a learned scale of the scores (eq. 12).

    Args:
        network: its body embeds.
        ways: classes of an episode.
        c: bound of the dual variables (C).
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
        """W, `[features, ways]`."""
        return self.features * self.ways

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeMethod`."""
        eye = torch.eye(len(support), dtype=support.dtype, device=support.device)
        kernel = support @ support.T + eye
        alpha = svm_dual(kernel, self.one_hot(labels, support), self.c, self.iterations)
        return self.scale * (query @ support.T @ alpha)


def svm_dual(kernel: Tensor, members: Tensor, c: float, iterations: int = 200) -> Tensor:
    """The dual variables of the multi-class SVM, differentiable by the kernel.

    Minimises tr(A^T K A) / 2 - <Y, A> subject to A <= c Y, and every row of A sums to 0. With
    B = c Y - A, rows of B lie in a simplex of size c: accelerated projected gradient (Beck &
    Teboulle 2009, with the restarts of O'Donoghue & Candes 2015) finds where B is zero, and the
    derivative is that of the linear equations that hold for the rest (the implicit function
    theorem; Amos & Kolter 2017, arXiv 1703.00443, do the same for any quadratic program).

    Args:
        kernel: K, `[M, M]`, positive definite.
        members: Y, one-hot, `[M, N]`.
        c: positive.
        iterations: of the projected gradient; it converges linearly, the faster the smaller the
            kernel's condition.

    Returns:
        A, `[M, N]`.
    """
    with torch.no_grad():
        solution = _projected_gradient(kernel.detach(), members, c, iterations)
    exact = _on_support(kernel, members, c, solution > 1e-6 * c)
    # The value of the one, which is feasible in any case, with the derivative of the other.
    return c * members - (solution + exact - exact.detach())


def _projected_gradient(kernel: Tensor, members: Tensor, c: float, iterations: int) -> Tensor:
    """B; every operation is the same whatever the numbers, for vmap."""
    rate = 1 / torch.linalg.eigvalsh(kernel)[-1]
    point = ahead = project(c * (1 - members), c)
    speed = torch.ones((), dtype=kernel.dtype, device=kernel.device)
    for _ in range(iterations):
        gradient = members - kernel @ (c * members - ahead)
        new = project(ahead - rate * gradient, c)
        restart = ((ahead - new) * (new - point)).sum() > 0
        faster = (1 + (1 + 4 * speed.square()).sqrt()) / 2
        momentum = torch.where(restart, 0.0, (speed - 1) / faster)
        speed = torch.where(restart, 1.0, faster)
        ahead = new + momentum * (new - point)
        point = new
    return point


def project(rows: Tensor, size: float) -> Tensor:
    """The nearest points of the simplex {b >= 0, sum b = size}, row by row `[M, N]`.

    By sorting (Held et al. 1974; Duchi et al. 2008, figure 1).
    """
    ordered = rows.sort(-1, descending=True).values
    count = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    levels = (ordered.cumsum(-1) - size) / count
    # The level of the largest prefix that stays above it; those levels rise, then fall.
    return (rows - levels.amax(-1, keepdim=True)).clamp_min(0)


def _on_support(kernel: Tensor, members: Tensor, c: float, free: Tensor) -> Tensor:
    """B from the equations that hold at the solution, given where it is not zero.

    K B - nu 1^T = c K Y - Y where B is free, B = 0 elsewhere, and rows of B sum to c.
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

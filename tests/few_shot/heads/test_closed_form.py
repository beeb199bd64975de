"""Heads that are solved exactly: optimality, and derivatives through the solution."""

import pytest
import torch
from scipy.optimize import minimize

from meta_train.few_shot.heads import closed_form
from meta_train.few_shot.heads.closed_form import RidgeHead, project, ridge, svm_dual
from meta_train.tasks.episodes.networks import make_network

DOUBLE = {"dtype": torch.float64}

# Two classes in the plane, one of them with two support points.
SUPPORT = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0]], **DOUBLE)
LABELS = torch.tensor([0, 1, 1])
QUERY = torch.tensor([[2.0, 0.0], [1.0, 1.0]], **DOUBLE)


def head(cls, ways=2, **settings):
    torch.manual_seed(0)
    return cls(make_network("conv4", ways, hidden=2), ways=ways, **settings).double()


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_ridge_has_no_regularised_gradient_and_woodbury_is_the_direct_solution(shape):
    torch.manual_seed(0)
    x, y = torch.randn(shape, **DOUBLE), torch.randn(shape[0], 3, **DOUBLE)
    strength = torch.tensor(0.3, **DOUBLE)
    w = ridge(x, y, strength)
    gradient = x.T @ (x @ w - y) + strength * w
    assert gradient.abs().max() < 1e-12
    eye = torch.eye(shape[1], **DOUBLE)
    torch.testing.assert_close(w, torch.linalg.solve(x.T @ x + strength * eye, x.T @ y))


def test_ridge_is_differentiated_exactly():
    torch.manual_seed(0)
    x = torch.randn(4, 6, **DOUBLE, requires_grad=True)
    y = torch.randn(4, 2, **DOUBLE, requires_grad=True)
    strength = torch.tensor(0.5, **DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(ridge, (x, y, strength))


def test_ridge_head_scales_and_shifts():
    ridge_head = head(RidgeHead, strength=0.5, scale=3.0)
    with torch.no_grad():
        ridge_head.bias.fill_(-1.0)
    w = ridge(SUPPORT, ridge_head.one_hot(LABELS, SUPPORT), torch.tensor(0.5, **DOUBLE))
    torch.testing.assert_close(ridge_head.scores(SUPPORT, LABELS, QUERY), 3 * QUERY @ w - 1)


def test_projection_is_on_the_simplex_and_the_nearest_point_of_it():
    torch.manual_seed(0)
    rows = torch.randn(50, 6, **DOUBLE)
    points = project(rows, 0.7)
    torch.testing.assert_close(points.sum(-1), torch.full((50,), 0.7, **DOUBLE))
    assert (points >= 0).all()
    # Variational inequality: no other point of the simplex is on the row's side.
    others = 0.7 * torch.rand(200, 6, **DOUBLE).softmax(-1)
    assert torch.einsum("nk,mnk->mn", rows - points, others[:, None] - points).max() < 1e-12
    torch.testing.assert_close(project(points, 0.7), points)


def problem(m=6, n=3, features=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(m, features, generator=random, **DOUBLE)
    members = torch.nn.functional.one_hot(torch.arange(m) % n, n).double()
    return x, members


@pytest.mark.parametrize("c", [0.02, 0.1, 1.0, 10.0])
def test_svm_dual_is_the_optimum(c):
    x, members = problem()
    kernel = x @ x.T + torch.eye(len(x), **DOUBLE)
    alpha = svm_dual(kernel, members, c, 500)
    assert (alpha <= c * members + 1e-9).all()
    torch.testing.assert_close(alpha.sum(-1), torch.zeros(len(x), **DOUBLE))

    def value(flat):
        a = torch.as_tensor(flat).reshape(members.shape)
        return float((a * (kernel @ a)).sum() / 2 - (members * a).sum())

    found = minimize(
        value,
        torch.zeros(members.numel()).numpy(),
        method="SLSQP",
        bounds=[(None, c * float(y)) for y in members.flatten()],
        constraints=[
            {"type": "eq", "fun": lambda a, k=k: a.reshape(members.shape)[k].sum()}
            for k in range(len(x))
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    torch.testing.assert_close(alpha.flatten(), torch.as_tensor(found.x), atol=1e-4 * c, rtol=1e-3)
    assert value(alpha.numpy().ravel()) <= found.fun + 1e-9


def violation(kernel, members, c, alpha):
    """How far a solution is from the conditions of Karush, Kuhn and Tucker.

    The gradient K A - Y of a row is the same, nu, wherever A < c Y, and at most nu elsewhere.
    """
    gradient = kernel @ alpha - members
    free = c * members - alpha > 1e-6 * c
    low = gradient.masked_fill(~free, torch.inf).amin(1)
    return max(
        (gradient.amax(1) - low).max(), (alpha - c * members).max(), alpha.sum(1).abs().max()
    )


@pytest.mark.parametrize("c", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_svm_dual_is_the_optimum_of_ill_conditioned_kernels(scale, c, dtype):
    for seed in range(5):
        x, members = problem(m=10, n=5, features=6, seed=seed)
        kernel = (scale * x) @ (scale * x).T + torch.eye(len(x), **DOUBLE)
        kernel = kernel.to(dtype)
        alpha = svm_dual(kernel, members.to(dtype), c)
        assert alpha.dtype == dtype
        # Rounding of A alone leaves this much of K A.
        rounding = torch.finfo(dtype).eps * float(kernel.abs().max()) * c * 10
        assert violation(kernel.double(), members, c, alpha.double()) < 1e-5 + 2 * rounding


def test_svm_dual_solves_episodes_of_any_condition_together():
    kernels, labels = [], []
    for seed, scale in enumerate((1.0, 100.0, 1000.0)):
        x, members = problem(m=10, n=5, seed=seed)
        kernels.append(scale**2 * x @ x.T + torch.eye(len(x), **DOUBLE))
        labels.append(members)
    together = torch.vmap(lambda k, y: svm_dual(k, y, 0.1))(
        torch.stack(kernels), torch.stack(labels)
    )
    alone = [svm_dual(k, y, 0.1) for k, y in zip(kernels, labels, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-8, rtol=1e-6)


def test_svm_dual_is_differentiated_exactly_at_an_ill_conditioned_kernel():
    x, members = problem(m=6)

    def dual(x):
        return svm_dual(10000 * x @ x.T + torch.eye(len(x), **DOUBLE), members, 0.1)

    assert torch.autograd.gradcheck(dual, x.requires_grad_(), eps=1e-7, atol=1e-4)


def test_svm_dual_warns_if_it_has_not_converged(monkeypatch):
    monkeypatch.setattr(closed_form, "ROUNDS", 1)
    monkeypatch.setattr(closed_form, "NEWTON_STEPS", 0)
    x, members = problem(m=10, n=5)
    kernel = 1e4 * x @ x.T + torch.eye(len(x), **DOUBLE)
    with pytest.warns(RuntimeWarning, match="1 of 1 episodes has not converged"):
        svm_dual(kernel, members, 0.1)


@pytest.mark.parametrize("c", [0.05, 0.5])
def test_svm_dual_is_differentiated_exactly(c):
    x, members = problem(m=4)

    def dual(x):
        return svm_dual(x @ x.T + torch.eye(len(x), **DOUBLE), members, c, 150)

    assert torch.autograd.gradcheck(dual, x.requires_grad_(), atol=1e-5)


def test_svm_bound_is_active_in_these_tests():
    x, members = problem(m=5)
    kernel = x @ x.T + torch.eye(5, **DOUBLE)
    small, large = (svm_dual(kernel, members, c, 500) for c in (0.05, 10.0))
    assert ((0.05 * members - small) < 1e-9).any() and not torch.allclose(small, large)

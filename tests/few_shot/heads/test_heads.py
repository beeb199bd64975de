import math

import pytest
import torch
from few_shot_cases import MadeUp
from scipy.optimize import minimize
from torch.func import vmap

from meta_train.few_shot.heads.closed_form import RidgeHead, SVMHead, project, ridge, svm_dual
from meta_train.few_shot.heads.metric import (
    Matching,
    NearestNeighbour,
    Prototypical,
    Relation,
    Siamese,
    squared_distances,
)
from meta_train.few_shot.heads.task import METHODS, ScoredEpisodes
from meta_train.inner.state import stack
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.networks import make_network
from meta_train.tasks.episodes.sampler import Episode

CPU = torch.device("cpu")
DOUBLE = {"dtype": torch.float64}

# Two classes in the plane, one of them with two support points.
SUPPORT = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0]], **DOUBLE)
LABELS = torch.tensor([0, 1, 1])
QUERY = torch.tensor([[2.0, 0.0], [1.0, 1.0]], **DOUBLE)


def method(cls, ways=2, **settings):
    torch.manual_seed(0)
    return cls(make_network("conv4", ways, hidden=2), ways=ways, **settings).double()


def test_prototypes_are_class_means_and_scores_squared_distances():
    proto = method(Prototypical)
    means = torch.tensor([[1.0, 0.0], [0.0, 2.0]], **DOUBLE)
    torch.testing.assert_close(proto.prototypes(SUPPORT, LABELS), means)
    expected = -torch.tensor([[1.0, 8.0], [1.0, 2.0]], **DOUBLE)
    torch.testing.assert_close(proto.scores(SUPPORT, LABELS, QUERY), expected)


def test_prototypical_loss_is_the_cross_entropy():
    loss = method(Prototypical).loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([0]))
    assert loss == pytest.approx(math.log(4))


def test_matching_attention_by_hand():
    scores = method(Matching).scores(SUPPORT, LABELS, QUERY)
    e, r = math.e, math.exp(math.sqrt(0.5))
    expected = torch.tensor([[e / (e + 2), 2 / (e + 2)], [r / (3 * r), 2 * r / (3 * r)]], **DOUBLE)
    torch.testing.assert_close(scores.exp(), expected)


def test_nearest_neighbour_takes_the_largest_cosine():
    scores = method(NearestNeighbour).scores(SUPPORT, LABELS, QUERY)
    half = math.sqrt(0.5)
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.0], [half, half]], **DOUBLE))


def test_siamese_scores_are_mean_log_odds_of_weighted_distances():
    siamese = method(Siamese)
    with torch.no_grad():
        siamese.compare.weight.copy_(torch.tensor([[-1.0, -2.0]]))
        siamese.compare.bias.fill_(0.5)
    scores = siamese.scores(SUPPORT, LABELS, QUERY)
    first = [0.5 - 1, 0.5 - (2 + 6 + 2 + 2) / 2]
    second = [0.5 - 2, 0.5 - (1 + 4 + 1 + 0) / 2]
    torch.testing.assert_close(scores, torch.tensor([first, second], **DOUBLE))
    odds = torch.zeros(1, 2, **DOUBLE)
    assert siamese.loss(odds, torch.tensor([0])) == pytest.approx(math.log(2))


def test_relation_compares_the_sum_of_a_class_with_the_query():
    relation = method(Relation).eval()
    support = torch.randn(3, 2, 2, 2, **DOUBLE)
    query = torch.randn(4, 2, 2, 2, **DOUBLE)
    summed = torch.stack([support[0], support[1] + support[2]])
    pairs = torch.stack([torch.cat([c, q]) for q in query for c in summed])
    expected = relation.relation(pairs).reshape(4, 2)
    torch.testing.assert_close(relation.scores(support, LABELS, query), expected)
    loss = relation.loss(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    assert loss == pytest.approx(0.25)


def test_relation_needs_maps():
    with pytest.raises(ValueError, match="need architecture conv4"):
        Relation(make_network("dense", 5), ways=5)


def test_squared_distances_have_a_derivative_at_zero():
    point = torch.ones(1, 2, requires_grad=True)
    squared_distances(point, point.detach()).sum().backward()
    assert not point.grad.any()


# Closed forms.


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
    head = method(RidgeHead, strength=0.5, scale=3.0)
    with torch.no_grad():
        head.bias.fill_(-1.0)
    w = ridge(SUPPORT, head.one_hot(LABELS, SUPPORT), torch.tensor(0.5, **DOUBLE))
    torch.testing.assert_close(head.scores(SUPPORT, LABELS, QUERY), 3 * QUERY @ w - 1)


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


# All methods.


def test_closed_forms_count_the_weights_that_they_solve_for():
    solved = {
        name: made(make_network("conv4", 5, hidden=2), ways=5) for name, made in METHODS.items()
    }
    found = {name: one.solved_parameters for name, one in solved.items()}
    weights = ridge(torch.ones(7, solved["r2d2"].features), torch.ones(7, 5), torch.ones(()))
    assert found == {
        **dict.fromkeys(METHODS, 0),
        "r2d2": weights.numel(),
        "metaoptnet": weights.numel(),
    }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("batch_norm", ["batch", "support"])
def test_every_method_is_the_same_under_vmap_and_has_finite_gradients(name, batch_norm):
    task = ScoredEpisodes(MadeUp(ways=3, shots=2, queries=2, batch_norm=batch_norm), name)
    problems = [task.sample(generator(seed), CPU) for seed in range(3)]
    parameters = {k: v.clone().requires_grad_() for k, v in problems[0].parameters.items()}
    episodes = [p.draw_validation(generator(0)) for p in problems]
    alone = torch.stack(
        [task.loss(parameters, p.buffers, e)[0] for p, e in zip(problems, episodes, strict=True)]
    )
    buffers = stack([p.buffers for p in problems])
    together, _ = vmap(task.loss, (None, 0, 0))(parameters, buffers, stack(episodes))
    torch.testing.assert_close(together, alone)
    gradients = torch.autograd.grad(together.sum(), list(parameters.values()), allow_unused=True)
    for key, gradient in zip(parameters, gradients, strict=True):
        assert gradient is not None and gradient.isfinite().all(), key
    scores = vmap(task.score, (None, 0, 0))(parameters, buffers, stack(episodes))
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"nearest-neighbour"}))
def test_every_method_with_a_loss_learns(name):
    quick = {"iterations": 40} if name == "metaoptnet" else {}
    task = ScoredEpisodes(MadeUp(ways=3, shots=2, queries=2), name, **quick)
    problems = [task.sample(generator(seed), CPU) for seed in range(6)]
    parameters = {k: v.clone().requires_grad_() for k, v in problems[0].parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), 1e-2)
    losses = []
    for _ in range(15):
        loss = torch.stack([task.loss(parameters, p.buffers, p.full())[0] for p in problems]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_names_of_the_body_are_those_of_the_network(name):
    task = MadeUp(ways=3)
    body = {key: value for key, value in task.template().items() if key.startswith("body.")}
    own = ScoredEpisodes(task, name).template()
    assert {k: v.shape for k, v in own.items() if k.startswith("body.")} == {
        k: v.shape for k, v in body.items()
    }


def test_order_of_support_rows_does_not_matter():
    task = ScoredEpisodes(MadeUp(ways=3, shots=2, queries=2), "metaoptnet")
    episode = task.sample(generator(0), CPU).full()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    mixed = Episode(episode[0][order], episode[1][order], *episode[2:])
    parameters = task.template()
    torch.testing.assert_close(
        task.predict(parameters, {}, mixed),
        task.predict(parameters, {}, episode),
        atol=1e-4,
        rtol=1e-3,
    )


def test_support_statistics_make_no_method_transductive():
    for name in METHODS:
        if METHODS[name].mixes_queries:
            continue
        task = ScoredEpisodes(MadeUp(ways=3, shots=2, queries=2, batch_norm="support"), name)
        drawn = task.sample(generator(0), CPU)
        episode = drawn.full()
        half = Episode(*episode[:2], episode[2][:3], episode[3][:3])
        whole = task.predict(drawn.parameters, drawn.buffers, episode)
        part = task.predict(drawn.parameters, drawn.buffers, half)
        torch.testing.assert_close(whole[:3], part, atol=1e-5, rtol=1e-4)


def test_unknown_methods_and_settings_are_refused():
    with pytest.raises(ValueError, match="did you mean 'prototypical'"):
        ScoredEpisodes(MadeUp(), "prototype")
    with pytest.raises(ValueError, match="did you mean 'strength'"):
        ScoredEpisodes(MadeUp(), "r2d2", strenght=1.0)
    with pytest.raises(ValueError, match="strength must be positive, got 0"):
        ScoredEpisodes(MadeUp(), "r2d2", strength=0)
    with pytest.raises(ValueError, match="must be positive, got -1"):
        method(SVMHead, c=-1)

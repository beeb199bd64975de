import dataclasses

import pytest
import torch
from conftest import make_rule, same
from torch import nn

from learned_opt.rules import CoordinateRule, UpdateRule
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.tasks import DigitsMLP, ModuleTask, Problem, Quadratic

CPU = torch.device("cpu")
PLANNED = 50
"""Steps, for rules that need to know."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def quadratics(count, dtype=torch.float64):
    """Problems with parameters to differentiate by."""
    task, problems = Quadratic(dimensions=3), []
    for seed in range(count):
        problem = task.sample(generator(seed), CPU)
        batch = [tensor.to(dtype) for tensor in problem.full()]
        parameters = {k: v.to(dtype).requires_grad_() for k, v in problem.parameters.items()}
        problems.append(Problem(parameters, {}, task.loss, None, lambda batch=batch: batch))
    return problems


def run(rule, problems, steps, vectorize, **settings):
    """Losses and `alive` of each step, `[steps, *runs]`, and the last state."""
    loop = InnerLoop(rule, problems[0].loss, vectorize, total_steps=PLANNED, **settings)
    inner = start(rule, problems, vectorize=vectorize)
    batch = stack([p.full() for p in problems]) if vectorize else problems[0].full()
    losses, alive = [], []
    for _ in range(steps):
        inner, loss = loop.step(inner, batch)
        losses.append(loss)
        alive.append(inner.alive)
    return torch.stack(losses), torch.stack(alive), inner


def test_runs_at_once_equal_runs_one_by_one(rule_name):
    rule = make_rule(rule_name, torch.float64, spread=0.2)
    problems = quadratics(3)
    together, _, inner = run(rule, problems, 10, True, lr=0.01)
    for k, problem in enumerate(problems):
        alone, _, one = run(rule, [problem], 10, False, lr=0.01)
        torch.testing.assert_close(together[:, k], alone, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(inner.parameters["theta"][k], one.parameters["theta"])


def test_each_run_can_have_its_own_lr():
    rule, problems = make_rule("sgd", torch.float64), quadratics(2)
    rates = torch.tensor([0.001, 0.01], dtype=torch.float64)
    together, _, _ = run(rule, problems, 5, True, lr=rates)
    for k, problem in enumerate(problems):
        alone, _, _ = run(rule, [problem], 5, False, lr=float(rates[k]))
        torch.testing.assert_close(together[:, k], alone)


def test_truncation_leaves_the_trajectory_as_it_was(rule_name):
    rule = make_rule(rule_name, torch.float64, spread=0.2)
    (problem,) = quadratics(1)
    expected, _, last = run(rule, [problem], 9, False, lr=0.01)
    loop = InnerLoop(rule, problem.loss, False, lr=0.01, total_steps=PLANNED)
    inner, losses = start(rule, [problem], vectorize=False), []
    for k in range(9):
        if k % 3 == 0:
            inner = inner.detach()
            assert not any(value.requires_grad for value in inner.parameters.values())
            assert not any(v.requires_grad for s in inner.states.values() for v in s.values())
        inner, loss = loop.step(inner, problem.full())
        losses.append(loss)
    assert same(torch.stack(losses), expected)
    assert same(inner.parameters, last.parameters)
    assert same(inner.states, last.states)


def test_without_differentiation_the_numbers_are_the_same_and_no_graph_is_kept(rule_name):
    rule = make_rule(rule_name, torch.float64, spread=0.2)
    problems = quadratics(2)
    results = [run(rule, problems, 5, True, lr=0.01, differentiable=d) for d in (True, False)]
    assert same(results[0][0], results[1][0])
    assert same(results[0][2].parameters, results[1][2].parameters)
    assert not results[1][0].requires_grad
    assert not results[1][2].parameters["theta"].requires_grad


def exploding(how, dtype):
    """A third problem that cannot be trained: at once, or from its second step on."""
    problems = quadratics(3, dtype)
    w, y = problems[2].full()
    bad = {"inf at once": w * 1e200, "nan at once": w * torch.nan, "later": w}[how]
    problems[2] = dataclasses.replace(problems[2], full=lambda: [bad, y])
    rates = torch.full((3,), 0.01, dtype=dtype)
    if how == "later":
        rates[2] = 1e308
    return problems, rates


def meta_gradients(losses, rule, problems):
    leaves = [*rule.parameters(), *(p.parameters["theta"] for p in problems[:2])]
    return torch.autograd.grad(losses[:, :2].sum(), leaves)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("how", ["inf at once", "nan at once", "later"])
def test_a_diverged_run_dies_alone(rule_name, how, second_order):
    rule = make_rule(rule_name, torch.float64, spread=0.2)
    problems, rates = exploding(how, torch.float64)
    losses, alive, inner = run(rule, problems, 6, True, lr=rates, second_order=second_order)
    assert alive[:, :2].all()
    first_dead = 0 if "at once" in how else 1
    assert alive[:, 2].tolist() == [k < first_dead for k in range(6)]

    expected, _, healthy = run(rule, problems[:2], 6, True, lr=rates[:2], second_order=second_order)
    torch.testing.assert_close(losses[:, :2], expected)
    torch.testing.assert_close(inner.parameters["theta"][:2], healthy.parameters["theta"])
    torch.testing.assert_close(
        meta_gradients(losses, rule, problems), meta_gradients(expected, rule, problems)
    )


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("how", ["inf at once", "nan at once"])
def test_losses_of_dead_runs_can_be_masked_without_harm(rule_name, how, second_order):
    rule = make_rule(rule_name, torch.float64, spread=0.2)
    problems, rates = exploding(how, torch.float64)
    losses, alive, _ = run(rule, problems, 4, True, lr=rates, second_order=second_order)
    leaves = [*rule.parameters(), *(p.parameters["theta"] for p in problems)]
    total = torch.where(alive, losses, 0.0).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_dead_run_stands_still_for_good(rule_name, vectorize):
    rule = make_rule(rule_name, torch.float64, spread=0.2)
    (problem,) = quadratics(1)
    loop = InnerLoop(rule, problem.loss, vectorize, total_steps=PLANNED)
    inner = start(rule, [problem], vectorize=vectorize)
    w, y = problem.full()
    for bad in (w * torch.nan, w, w):
        batch = [bad, y]
        inner, _ = loop.step(inner, stack([batch]) if vectorize else batch)
        assert not inner.alive.any()
        assert same(inner.parameters["theta"].reshape(3), problem.parameters["theta"])


def test_a_loss_far_above_the_first_is_a_divergence():
    rule, problems = make_rule("sgd", torch.float64), quadratics(1)
    kept = run(rule, problems, 6, False, lr=1.0, divergence=1e30)[1]
    dropped, alive, inner = run(rule, problems, 6, False, lr=1.0, divergence=1e3)
    assert kept.all()
    first = alive.tolist().index(False)
    assert dropped[first] > 1e3 * dropped[0] >= dropped[first - 1] * 1e-6
    assert inner.first_loss == dropped[0]


@pytest.mark.parametrize("second_order", [False, True])
def test_meta_gradients_are_finite_where_inputs_are_dead(rule_name, second_order):
    rule = make_rule(rule_name, torch.float64, spread=0.05)
    inputs = torch.randn(8, 4, generator=generator(), dtype=torch.float64)
    inputs[:, 0] = 0.0
    task = ModuleTask(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double(),
        nn.functional.cross_entropy,
        (inputs, torch.arange(8) % 2),
    )
    problem = task.sample(generator(), CPU)
    parameters = {k: v.requires_grad_() for k, v in problem.parameters.items()}
    dead = parameters["0.weight"][:, 0].detach().clone()
    losses, _, inner = run(rule, [problem], 20, False, second_order=second_order)
    leaves = [*rule.parameters(), *parameters.values()]
    for gradient in torch.autograd.grad(losses.sum(), leaves):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    assert same(inner.parameters["0.weight"][:, 0].detach(), dead)


def test_buffers_are_carried_and_nothing_is_changed_in_place():
    def make_module():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    data = torch.randn(20, 3, generator=generator()), torch.arange(20) % 2
    task = ModuleTask(make_module, nn.functional.cross_entropy, data)
    rule, problem = make_rule("sgd"), task.sample(generator(), CPU)
    inner = start(rule, [problem], vectorize=False)
    kept = {key: value.clone() for key, value in problem.buffers.items()}
    loop = InnerLoop(rule, task.loss, False)
    moved, _ = loop.step(inner, problem.full())
    assert moved.buffers["1.num_batches_tracked"] == 1
    assert same(inner.buffers, kept)
    loop.evaluate(inner, problem.full())
    assert same(problem.buffers, kept)


def test_evaluation_is_the_loss_without_history(rule_name):
    rule, problems = make_rule(rule_name, torch.float64), quadratics(2)
    loop = InnerLoop(rule, problems[0].loss, True, total_steps=PLANNED)
    inner = start(rule, problems, vectorize=True)
    batch = stack([p.full() for p in problems])
    losses = loop.evaluate(inner, batch)
    assert same(losses, loop.step(inner, batch)[1])
    assert not losses.requires_grad


def test_problems_that_cannot_run_together_are_refused():
    rule = make_rule("sgd")
    digits = DigitsMLP(hidden=(2,), batch_size=4).sample(generator(), CPU)
    other = Quadratic().sample(generator(), CPU)
    with pytest.raises(ValueError, match="vectorize=True"):
        start(rule, [other, other], vectorize=False)
    with pytest.raises(ValueError, match="different tasks"):
        start(rule, [digits, other], vectorize=True)


class Listener(CoordinateRule):
    """Notes what it is told of the loss; stands still."""

    def __init__(self, needs=()):
        super().__init__()
        self.told, self.own_needs = [], frozenset(needs)

    def required_context(self):
        return self.own_needs

    def coordinate_state(self):
        return {}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        self.told.append(context.loss)
        return 0 * gradient, {}


@pytest.mark.parametrize("vectorize", [False, True])
def test_the_loss_can_be_kept_from_rules_that_can_do_without(vectorize):
    problems = quadratics(2 if vectorize else 1)
    for needs, hears in (((), False), (("loss",), True)):
        rule = Listener(needs).double()
        loop = InnerLoop(rule, problems[0].loss, vectorize)
        inner = start(rule, problems, vectorize=vectorize)
        batch = stack([p.full() for p in problems]) if vectorize else problems[0].full()
        loop.step(inner, batch)
        _, losses = dataclasses.replace(loop, hide_loss=True).step(inner, batch)
        told = rule.told
        assert told[0] is not None
        assert (told[1] is not None) == hears
        assert losses.isfinite().all()


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_loss_that_is_no_single_number_is_refused(vectorize):
    """Its sum would be trained in silence."""

    def losses(parameters, buffers, batch):
        return parameters["theta"].square(), buffers

    problems = [dataclasses.replace(one, loss=losses) for one in quadratics(2)]
    with pytest.raises(ValueError, match=r"must be a 0-dim tensor, got shape \[3\]"):
        run(make_rule("sgd", torch.float64), problems[: 1 + vectorize], 1, vectorize)


def test_a_loss_that_is_no_tensor_is_refused():
    def loss(parameters, buffers, batch):
        return 1.0, buffers

    problems = [dataclasses.replace(one, loss=loss) for one in quadratics(1)]
    with pytest.raises(ValueError, match="the loss of a task must be a 0-dim tensor, got float"):
        run(make_rule("sgd", torch.float64), problems, 1, False)


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_rule_that_returns_another_shape_is_refused_by_the_name_of_the_parameter(vectorize):
    class Mean(UpdateRule):
        def init_tensor_state(self, parameter):
            return {}

        def update(self, gradients, parameters, states, context):
            return [-gradient.mean() for gradient in gradients], states

    said = r"rule Mean returned a delta of shape \[\] for parameter theta, \[3\]"
    with pytest.raises(ValueError, match=said):
        run(Mean(), quadratics(1 + vectorize)[: 1 + vectorize], 1, vectorize)


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_loss_that_depends_on_no_parameter_is_refused(vectorize):
    def loss(parameters, buffers, batch):
        return parameters["w"].detach().square().sum(), buffers

    problem = Problem({"w": torch.ones(2)}, {}, loss, None, None)
    loop = InnerLoop(make_rule("sgd"), loss, vectorize)
    inner = start(loop.rule, [problem], vectorize=vectorize)
    with pytest.raises(ValueError, match="depends on none of its parameters"):
        loop.step(inner, torch.zeros(1))


def test_a_loop_says_what_a_wrong_argument_is():
    with pytest.raises(ValueError, match=r"got 'sgd': give create_rule\('sgd'\)"):
        InnerLoop("sgd", lambda *_: None, True)
    with pytest.raises(TypeError, match=r"loss must be a function .*, got 3"):
        InnerLoop(make_rule("sgd"), 3, True)

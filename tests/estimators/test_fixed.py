"""Parameters that inner training does not change, runs of zero steps, evaluating the end alone."""

import pytest
import torch
from estimator_cases import (
    CPU,
    F64,
    begin,
    close,
    estimate,
    make_runs,
    meta_objective,
    plan_of,
    small_rule,
    vector,
)

from learned_opt.rules.per_tensor_rates import LayerStepRates
from meta_train.estimators import create_estimator
from meta_train.estimators.differentiate import differentiate
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.settings import TrainSettings
from meta_train.tasks.base import Problem, Task
from meta_train.tasks.reparametrized import Reparametrized

HEAD, BODY = vector(0.5, -0.3), torch.tensor([[0.7, 0.2, -0.4], [0.1, -0.6, 0.9]], dtype=F64)
INITIALIZATION = {"head": HEAD, "body": BODY}
EVERY = ("full", "first-order")


class TwoLayers(Task):
    """Regression by head . tanh(body x); the head alone is adapted, or both are."""

    adapted = ("head",)

    def sample(self, generator, device):
        def draw(source):
            inputs = torch.randn(5, 3, generator=source, dtype=F64)
            return inputs, (inputs @ truth).sin()

        truth = torch.randn(3, generator=generator, dtype=F64)
        support, query = draw(generator), draw(generator)
        start = {key: torch.zeros_like(value) for key, value in INITIALIZATION.items()}
        return Problem(
            {key: value for key, value in start.items() if key in self.adapted},
            {},
            self.loss,
            lambda _: support,
            lambda: support,
            lambda _: query,
            {key: value for key, value in start.items() if key not in self.adapted},
        )

    @staticmethod
    def loss(parameters, buffers, batch):
        inputs, targets = batch
        outputs = (inputs @ parameters["body"].T).tanh() @ parameters["head"]
        return (outputs - targets).square().mean(), buffers


class AllAdapted(TwoLayers):
    adapted = ("head", "body")


def meta_parameters_at(initialization, rule="sgd"):
    return MetaParameters(small_rule(rule), initialization).double()


def gradients(name, how, *, rule="sgd", task=None, steps=4, settings=None, plan=None, **loop):
    meta_parameters = meta_parameters_at(INITIALIZATION, rule)
    estimator = create_estimator(name, **(settings or {}))
    runs = make_runs(meta_parameters, task or TwoLayers(), steps, **(plan or {}))
    found = estimate(estimator, meta_parameters, runs, how=how, lr=0.3, **loop)
    return found, found.gradients[-2:]


def by_hand(initialization, how, steps=4, first_order=False, lr=0.3, runs=3):
    """The mean objective after plain SGD on the head, and its gradient by the initialisation."""
    initialization = {key: value.clone().requires_grad_() for key, value in initialization.items()}
    drawn = make_runs(meta_parameters_at(INITIALIZATION), TwoLayers(), steps, runs=runs)
    begin(drawn)
    terms = []
    for problem in drawn.problems:
        head = initialization["head"]
        losses = []
        for step in range(steps + 1):
            if step:
                given = {"head": head, "body": initialization["body"]}
                loss, _ = TwoLayers.loss(given, {}, problem.full())
                (slope,) = torch.autograd.grad(loss, head, create_graph=True)
                head = head - lr * (slope.detach() if first_order else slope)
            if step or not steps:
                given = {"head": head, "body": initialization["body"]}
                losses.append(TwoLayers.loss(given, {}, problem.draw_validation(None))[0])
        terms.append(how.objective.terms(torch.stack(losses)[:, None]).mean())
    value = torch.stack(terms).mean()
    return value.detach(), torch.autograd.grad(value, list(initialization.values()))


@pytest.mark.parametrize("vectorize", ["always", "never"])
@pytest.mark.parametrize("checkpoint_steps", [None, 2, 3])
@pytest.mark.parametrize("objective", ["sum", "last", "log-last"])
@pytest.mark.parametrize("name", EVERY)
def test_the_derivative_by_what_stays_is_exact(name, objective, checkpoint_steps, vectorize):
    how = meta_objective(objective, "validation")
    found, own = gradients(
        name, how, settings={"checkpoint_steps": checkpoint_steps}, plan={"vectorize": vectorize}
    )
    value, expected = by_hand(INITIALIZATION, how, first_order=name == "first-order")
    close(found.meta_loss, value)
    close(own, list(expected))
    assert found.inner_steps == 12


def test_it_is_the_finite_difference():
    how = meta_objective("sum", "validation")
    _, (_, body) = gradients("full", how)
    direction, epsilon = torch.randn(BODY.shape, dtype=F64), 1e-5
    ends = [
        by_hand({**INITIALIZATION, "body": BODY + sign * epsilon * direction}, how)[0]
        for sign in (1, -1)
    ]
    close((body * direction).sum(), (ends[0] - ends[1]) / (2 * epsilon), 1e-7)


def test_evaluation_on_training_batches_equals_evaluation_on_other_data():
    # Every batch is the support set: the loss before the next step is the loss after this one.
    for name in EVERY:
        _, plain = gradients(name, meta_objective("sum"))
        _, fresh = gradients(name, meta_objective("sum", "fresh"))
        close(plain, fresh)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_all_adapted_with_the_rate_of_the_rest_at_zero(name):
    how = meta_objective("last", "validation")
    _, own = gradients(name, how)
    rates = LayerStepRates(
        shapes=[list(value.shape) for value in INITIALIZATION.values()], init=0.3
    )
    rates.rates.data[1] = 0
    meta_parameters = MetaParameters(rates.double(), INITIALIZATION).double()
    runs = make_runs(meta_parameters, AllAdapted(), 4)
    found = estimate(name, meta_parameters, runs, how=how, lr=1.0)
    close(own, found.gradients[-2:], 1e-7)


@pytest.mark.parametrize("name", ["full", "truncated", "es", "pes", "first-order"])
def test_a_rule_is_trained_along_with_it(name):
    how = meta_objective("sum", "validation")
    estimator = create_estimator(name)
    meta_parameters = meta_parameters_at(INITIALIZATION, "lstm")
    runs = make_runs(meta_parameters, TwoLayers(), 4, **plan_of(estimator, 2))
    for outer_step in range(3):  # windowed runs go on, and follow the initialisation all the same
        found = estimate(estimator, meta_parameters, runs, how=how, outer_step=outer_step)
        assert found.counted == 3
        assert all(gradient.isfinite().all() and gradient.any() for gradient in found.gradients)
        for value in meta_parameters.parameters():
            value.data += 0.01
        body = begin(runs, outer_step=outer_step + 1).state_with_grad().fixed["body"]
        assert torch.equal(body[1], meta_parameters.initialization()["body"])


def test_evolution_strategies_find_it():
    class Same(TwoLayers):
        def sample(self, generator, device):
            return super().sample(torch.Generator().manual_seed(0), device)

    how = meta_objective("last", "validation")
    _, exact = gradients("full", how, task=Same())
    plan = {"runs": 3000, "copies": 2}
    _, drawn = gradients("es", how, task=Same(), settings={"sigma": 1e-3}, plan=plan)
    assert torch.cosine_similarity(drawn[1].flatten(), exact[1].flatten(), dim=0) > 0.98


def test_the_implicit_gradient_follows_the_minimum():
    strength, how = 0.8, meta_objective("last", "validation")
    found, own = gradients(
        "implicit", how, steps=300, settings={"proximal": strength, "cg_steps": 2}
    )

    def value(initialization):
        runs = make_runs(meta_parameters_at(INITIALIZATION), TwoLayers(), 300)
        begin(runs)
        terms = []
        for problem in runs.problems:
            inputs, targets = problem.full()
            hidden = (
                inputs @ initialization["body"].T
            ).tanh()  # ridge regression towards the initialisation
            matrix = 2 * hidden.T @ hidden / 5 + strength * torch.eye(2, dtype=F64)
            head = torch.linalg.solve(
                matrix, 2 * hidden.T @ targets / 5 + strength * initialization["head"]
            )
            given = {"head": head, "body": initialization["body"]}
            terms.append(TwoLayers.loss(given, {}, problem.draw_validation(None))[0])
        return torch.stack(terms).mean()

    initialization = {key: v.clone().requires_grad_() for key, v in INITIALIZATION.items()}
    expected = torch.autograd.grad(value(initialization), list(initialization.values()))
    close(found.meta_loss, value(initialization).detach(), 1e-9)
    close(own, list(expected), 1e-8)


def test_reptile_refuses_what_it_cannot_learn():
    with pytest.raises(ValueError, match=r"does not change \['body'\]"):
        gradients("reptile", meta_objective("last", "validation"))


def test_units_are_of_what_is_adapted():
    task = Reparametrized(TwoLayers(), 1.0)
    problem = task.sample(torch.Generator().manual_seed(0), CPU)
    own = TwoLayers().sample(torch.Generator().manual_seed(0), CPU)
    assert set(problem.buffers) == {"scale of head"}
    body = {"body": BODY}
    loss, _ = task.loss({**body, **problem.parameters}, problem.buffers, problem.full())
    close(loss, TwoLayers.loss({**body, **own.parameters}, {}, own.full())[0])


# No step at all.


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("vectorize", ["always", "never"])
@pytest.mark.parametrize("checkpoint_steps", [None, 0])
def test_no_step_is_joint_training(name, vectorize, checkpoint_steps):
    how = meta_objective("sum", "validation")
    found, own = gradients(
        name,
        how,
        steps=0,
        plan={"vectorize": vectorize},
        settings={"checkpoint_steps": checkpoint_steps},
    )
    value, expected = by_hand(INITIALIZATION, how, steps=0)
    close(found.meta_loss, value)
    close(own, list(expected))
    assert found.inner_steps == 0 and found.counted == 3


def test_no_step_by_evolution_strategies():
    found, own = gradients("es", meta_objective("sum", "fresh"), steps=0, plan={"copies": 2})
    assert found.counted == 3 and all(gradient.any() for gradient in own)


def test_zero_steps_need_outer_data():
    with pytest.raises(ValueError, match="zero inner steps needs outer data"):
        gradients("full", meta_objective("sum"), steps=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "truncated", "objective_data": "validation"},
        {"estimator": "reptile", "objective_data": "validation"},
        {"estimator": "full"},
        {"estimator": "full", "objective_data": "fresh", "imitate": "adam"},
    ],
)
def test_settings_refuse_no_step_elsewhere(settings):
    with pytest.raises(ValueError, match="a horizon of 0 needs"):
        TrainSettings(horizons=(0, 3), **settings)
    TrainSettings(horizons=(0, 3), estimator="full", objective_data="fresh")


# The end alone.


def test_only_the_end_is_evaluated_if_only_it_counts(monkeypatch):
    meta_parameters = meta_parameters_at(INITIALIZATION)
    runs = make_runs(meta_parameters, TwoLayers(), 6)
    how = meta_objective("last", "validation")
    window = begin(runs, "validation", last_only=True, lr=0.3)
    data = window.data
    drawn = []
    draw = data.outer_batches.next
    monkeypatch.setattr(data.outer_batches, "next", lambda: drawn.append(1) or draw())
    every = begin(runs, "validation").data
    start, leaves = window.state_with_grad(), list(meta_parameters.parameters())
    for checkpoint_steps in (None, 4):
        del drawn[:]
        found = differentiate(window.loop, start, data, 6, how, leaves, checkpoint_steps)
        assert found.losses.shape == (1, 3) and len(drawn) == 1
        whole = differentiate(window.loop, start, every, 6, how, leaves, checkpoint_steps)
        assert whole.losses.shape == (6, 3)
        close(found.losses[0], whole.losses[-1])
        close(found.gradients, whole.gradients)


def test_training_batches_evaluate_every_step():
    assert not OBJECTIVES["sum"].reads_last_only
    found, _ = gradients("full", meta_objective("last"))
    whole, _ = gradients("full", meta_objective("sum"))
    close(found.mean_loss, whole.mean_loss)

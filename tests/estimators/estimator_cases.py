"""What the estimators' tests share: small problems in float64 whose answers can be worked out."""

import dataclasses

import torch
from conftest import make_rule

from learned_opt import list_rules
from learned_opt.rules import CoordinateRule
from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import Quadratic
from meta_train.tasks.base import Problem, Task

F64 = torch.float64
CPU = torch.device("cpu")
ALONE = DistributedContext()

SMALL = {
    "lstm": {"hidden_sizes": (3,)},
    "gated-lstm": {"hidden_size": 3},
    "momentum-gated-lstm": {"hidden_size": 3},
    "adam-lstm": {"hidden_size": 3},
    "step-size-lstm": {"hidden_size": 3},
}
"""Settings that keep rules small."""
TRAINABLE = [name for name in list_rules() if list(make_rule(name).parameters())]


def small_rule(name, spread=0.2, **settings):
    return make_rule(name, F64, spread=spread, **{**SMALL.get(name, {}), **settings})


def vector(*values):
    return torch.tensor(values, dtype=F64)


class Fixed(Task):
    """One problem, the same for all runs: `loss(theta, batch)`.

    Args:
        start: where training starts without a learned initialisation.
        loss: of `(theta, batch)`.
        batch: what is trained on.
        validation: the validation batch.
    """

    def __init__(self, start, loss, batch=(), validation=None):
        self.start, self.function, self.batch, self.validation = start, loss, batch, validation

    def loss(self, parameters, buffers, batch):
        return self.function(parameters["theta"], batch), buffers

    def sample(self, generator, device):
        return Problem(
            {"theta": self.start},
            {},
            self.loss,
            lambda _: self.batch,
            lambda: self.batch,
            lambda _: self.validation,
        )


class Quadratics(Quadratic):
    """Random quadratics in float64, to the last bit."""

    def sample(self, generator, device):
        problem = super().sample(generator, device)
        batch = tuple(t.double() for t in problem.full())
        parameters = {k: v.double() for k, v in problem.parameters.items()}
        return dataclasses.replace(
            problem, parameters=parameters, draw=lambda _: batch, full=lambda: batch
        )


def make_meta_parameters(rule="sgd", initialization=None, **settings):
    rule = small_rule(rule, **settings) if isinstance(rule, str) else rule
    return MetaParameters(
        rule, None if initialization is None else {"theta": initialization}
    ).double()


def make_runs(
    meta_parameters, task, steps=4, *, indices=None, runs=3, truncation_length=None, seed=0, **plan
):
    plan = RunPlan(Horizons([[steps]]), truncation_length=truncation_length, dtype=F64, **plan)
    indices = range(runs) if indices is None else indices
    return Runs(meta_parameters, task, plan, indices=indices, total=runs, seed=seed, device=CPU)


def plan_of(estimator, truncation_length):
    """How runs begin and end for an estimator, as the trainer says it."""
    return {
        "copies": estimator.copies,
        "truncation_length": truncation_length if estimator.continues else None,
    }


def loop_settings(lr=0.05, second_order=True, **settings):
    return LoopSettings(lr=lr, second_order=second_order, **settings)


def begin(runs, outer_data="training", *, outer_step=0, last_only=False, **settings):
    """A window of the runs."""
    settings = loop_settings(**settings)
    return runs.begin(settings, outer_step, outer_data=outer_data, last_only=last_only)


def meta_objective(objective="sum", data="training", imitation=0.0):
    return MetaObjective(OBJECTIVES[objective], data, imitation)


def estimate(
    estimator, meta_parameters, runs, *, how=None, outer_step=0, distributed=ALONE, **loop
):
    """One estimate as the trainer would draw it, second derivatives as the estimator says."""
    if isinstance(estimator, str):
        estimator = create_estimator(estimator)
    if estimator.second_order is not None:
        loop["second_order"] = estimator.second_order
    return estimator.estimate(
        meta_parameters,
        loop_settings(**loop),
        runs,
        how or meta_objective(),
        outer_step,
        distributed,
    )


def close(left, right, tolerance=1e-12):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


class NoisyRegression(Task):
    """Linear regression on batches that are drawn anew: a problem with randomness in it."""

    def sample(self, generator, device):
        truth = torch.randn(3, generator=generator, dtype=F64)
        start = torch.randn(3, generator=generator, dtype=F64)

        def draw(source):
            inputs = torch.randn(4, 3, generator=source, dtype=F64)
            return inputs, inputs @ truth

        return Problem({"theta": start}, {}, self.loss, draw, lambda: draw(generator), draw)

    @staticmethod
    def loss(parameters, buffers, batch):
        inputs, targets = batch
        return (inputs @ parameters["theta"] - targets).square().mean(), buffers


class SometimesHopeless(Quadratics):
    """Quadratics, some of which no rule can train: their first gradient overflows.

    With a smaller `factor` they diverge after they have moved.
    """

    factor = 1e200

    def sample(self, generator, device):
        problem = super().sample(generator, device)
        hopeless = float(torch.rand((), generator=generator)) < 0.4
        w, y = problem.full()
        batch = (w * self.factor, y) if hopeless else (w, y)
        return dataclasses.replace(problem, draw=lambda _: batch, full=lambda: batch)


class LearnedRate(CoordinateRule):
    """delta = -rate g, and the rate is a weight."""

    default_lr = 1.0

    def __init__(self, rate=0.1):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(rate, dtype=F64))

    def coordinate_state(self):
        return {}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        return -self.rate * gradient, {}


class Drift(CoordinateRule):
    """delta = w: losses that are quadratic in theta are quadratic in w too."""

    default_lr = 1.0

    def __init__(self, w=0.1):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w, dtype=F64))

    def coordinate_state(self):
        return {}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        return self.w.expand_as(gradient), {}

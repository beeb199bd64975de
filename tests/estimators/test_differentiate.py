"""Gradient checkpointing changes the memory of a meta-gradient and nothing else."""

import itertools
import weakref
from dataclasses import replace

import pytest
import torch
from conftest import make_rule, same
from torch import nn

from learned_opt import list_rules
from meta_train.estimators import MetaObjective
from meta_train.estimators.differentiate import best_checkpoint_steps, differentiate
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.imitation import Teacher
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.tasks import ModuleTask, Quadratic

TRAINABLE = [name for name in list_rules() if list(make_rule(name).parameters())]
STEPS = 7


class Case:
    """Three runs of a rule on a task, and the derivative of an objective of them."""

    def __init__(
        self,
        task,
        rule="gated-lstm",
        *,
        dtype=torch.float64,
        initialization=False,
        imitate=False,
        **loop,
    ):
        self.rule = make_rule(rule, dtype, spread=0.2 if "lstm" in rule else 0.0)
        start = None
        if initialization:
            problem = task.sample(torch.Generator().manual_seed(9), torch.device("cpu"))
            start = problem.parameters
        self.meta_parameters = MetaParameters(self.rule, start).to(dtype)
        teacher = Teacher(make_rule("adam", dtype), 1e-3) if imitate else None
        plan = RunPlan(
            Horizons(((STEPS,),)), dtype=dtype if dtype != torch.float32 else None, teacher=teacher
        )
        device = torch.device("cpu")
        self.runs = Runs(
            self.meta_parameters, task, plan, indices=[0, 1, 2], total=3, seed=0, device=device
        )
        self.settings = LoopSettings(**{"lr": 0.01, "teacher": teacher, **loop})
        self.window = self.begin()

    def begin(self, outer_data="training"):
        return self.runs.begin(self.settings, 0, outer_data=outer_data)

    def differentiate(
        self,
        checkpoint_steps,
        *,
        outer_data="training",
        objective="log-tail",
        imitation=0.0,
        data=None,
    ):
        return differentiate(
            self.window.loop,
            self.window.state_with_grad(),
            data or self.begin(outer_data).data,
            STEPS,
            MetaObjective(OBJECTIVES[objective], outer_data, imitation),
            list(self.meta_parameters.parameters()),
            checkpoint_steps,
        )


def network(dropout=0.3, norm=True):
    data = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3

    def make_module():
        middle = [nn.BatchNorm1d(5)] if norm else []
        middle += [nn.Tanh(), nn.Dropout(dropout)]
        return nn.Sequential(nn.Linear(4, 5), *middle, nn.Linear(5, 3))

    return ModuleTask(make_module, nn.functional.cross_entropy, data, 8, examples=20)


def distance(found, expected):
    """Relative, in the norm of all of them together."""
    total = sum(b.square().sum() for b in expected).sqrt()
    assert total > 0
    pairs = zip(found, expected, strict=True)
    return float(sum((a - b).square().sum() for a, b in pairs).sqrt() / total)


def check(case, checkpoint_steps, tolerance=1e-12, **how):
    plain = case.differentiate(None, **how)
    found = case.differentiate(checkpoint_steps, **how)
    assert all(gradient.isfinite().all() for gradient in plain.gradients)
    assert distance(found.gradients, plain.gradients) < tolerance
    for name in ("value", "losses"):
        torch.testing.assert_close(
            getattr(found, name), getattr(plain, name), rtol=tolerance, atol=0, equal_nan=True
        )
    assert same(dict(found.inner.named_tensors()), dict(plain.inner.named_tensors()))
    assert not any(value.requires_grad for _, value in found.inner.named_tensors())
    return plain


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("rule", TRAINABLE)
def test_every_rule_has_the_same_derivative(rule, second_order):
    check(Case(Quadratic(dimensions=3), rule, second_order=second_order), 3)


@pytest.mark.parametrize("checkpoint_steps", [1, 2, 3, 6, STEPS, 100])
def test_every_segment(checkpoint_steps):
    check(Case(network(norm=False)), checkpoint_steps)


@pytest.mark.parametrize("checkpoint_steps", [1, 3])
@pytest.mark.parametrize("outer_data", ["training", "fresh", "validation"])
def test_every_kind_of_outer_data(outer_data, checkpoint_steps):
    check(Case(network()), checkpoint_steps, outer_data=outer_data)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective(objective):
    check(Case(Quadratic(dimensions=3)), 3, objective=objective)


@pytest.mark.parametrize("outer_data", ["training", "fresh"])
@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "gated-lstm"])
def test_learned_initialisations(rule, second_order, outer_data):
    case = Case(network(norm=False), rule, initialization=True, second_order=second_order)
    plain = check(case, 3, outer_data=outer_data, objective="last")
    assert all(gradient.abs().max() > 0 for gradient in plain.gradients[-2:])


def test_only_runs_that_begin_reach_the_initialisation():
    case = Case(network(), "sgd", initialization=True, second_order=True)
    inner = case.window.inner
    inner = replace(inner, parameters={k: v + 0.1 for k, v in inner.parameters.items()})
    started = torch.tensor([True, False, True])
    case.window = replace(case.window, inner=inner, just_started=started)
    check(case, 2)


@pytest.mark.parametrize("second_order", [False, True])
def test_imitation(second_order):
    case = Case(network(norm=False), imitate=True, second_order=second_order)
    alone = case.differentiate(None)
    plain = check(case, 3, imitation=0.5)
    assert distance(plain.gradients, alone.gradients) > 1e-3


@pytest.mark.parametrize("outer_data", ["training", "fresh"])
@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("checkpoint_steps", [1, 3, 4, 5])
def test_a_run_that_diverges_in_the_middle(checkpoint_steps, second_order, outer_data):
    rates = torch.tensor([0.01, 100.0, 0.01], dtype=torch.float64)
    task = Quadratic(dimensions=3)
    case = Case(task, "lstm", lr=rates, second_order=second_order, divergence=25.0)
    plain = check(case, checkpoint_steps, outer_data=outer_data, objective="log")
    growth = plain.losses[:, 1] / plain.inner.first_loss[1]
    assert growth[2] < 25 < growth[3] == growth[-1]  # where it stands still
    assert plain.inner.alive.tolist() == [True, False, True]


@pytest.mark.parametrize("second_order", [False, True])
def test_in_single_precision(second_order):
    case = Case(network(), "lstm", dtype=torch.float32, second_order=second_order)
    check(case, 3, tolerance=1e-6)


def test_batch_statistics_and_dropout_take_part():
    plain = Case(network()).differentiate(None)
    assert int(plain.inner.buffers["1.num_batches_tracked"][0]) == STEPS
    calm = Case(network(dropout=0.0)).differentiate(None)
    assert not same(plain.losses, calm.losses)


def test_batches_are_drawn_again_and_never_kept():
    case, alive, drawn = Case(network(norm=False)), weakref.WeakSet(), itertools.count()
    data = case.begin().data
    draw = data.training.next

    def watched():
        batch = draw()
        alive.update(batch)
        next(drawn)
        assert len(alive) <= 2 * 2  # inputs and targets, of the last batch and of this one
        return batch

    data.training.next = watched
    found = case.differentiate(3, data=data)
    assert distance(found.gradients, case.differentiate(None).gradients) < 1e-12
    # Seven steps, the evaluation of the last one, and the six of the first two segments again.
    assert next(drawn) == 7 + 1 + 6


def test_a_segment_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="checkpoint_steps must be at least 1, got 0"):
        Case(Quadratic()).differentiate(0)


@pytest.mark.parametrize(("state", "step"), [(1, 1), (1, 5), (5, 1), (3, 1000), (1000, 3)])
def test_the_best_checkpoint_steps_is_the_best(state, step):
    for steps in (1, 2, 7, 20, 100, 1000):

        def weight(k, steps=steps):
            return -(-steps // k) * state + k * step

        assert weight(best_checkpoint_steps(steps, state, step)) == min(
            map(weight, range(1, steps + 1))
        )


def test_states_and_graphs_of_a_size_are_cut_at_the_square_root():
    assert best_checkpoint_steps(100) == 10

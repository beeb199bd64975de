"""Runs one by one are the runs at once; which of the two is taken follows from shapes."""

from dataclasses import replace

import pytest
import torch
from conftest import make_rule, same
from few_shot_cases import MadeUp
from torch import nn

from learned_opt.c_library import load_library
from meta_train.estimators.base import MetaObjective
from meta_train.estimators.differentiate import differentiate
from meta_train.estimators.differentiate_one_by_one import differentiate_one_by_one
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.inner import vectorize
from meta_train.inner.batches import BatchStream, InnerData
from meta_train.inner.imitation import Teacher
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.inner.vectorize import (
    Work,
    choose_chunk,
    choose_vectorize,
    measure_update,
    measure_work,
)
from meta_train.tasks import DigitsMLP, ModuleTask

CPU = torch.device("cpu")
RUNS, STEPS = 3, 4
RULES = ["sgd", "lstm", "adam-lstm", "step-size-lstm"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_task(width=4):
    def make_module():
        # No bias before the normalisation: its gradient would be nothing but rounding.
        first = nn.Linear(3, width, bias=False)
        return nn.Sequential(first, nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 2)).double()

    data = torch.randn(40, 3, generator=generator(), dtype=torch.float64), torch.arange(40) % 2
    return ModuleTask(make_module, nn.functional.cross_entropy, data, batch_size=8)


def both(
    rule,
    *,
    objective="sum",
    outer_batches=False,
    checkpoint_steps=None,
    imitation=0.0,
    last_only=False,
    **settings,
):
    """The two results, and where both streams of data stood after each."""
    task = make_task()
    problems = [task.sample(generator(seed), CPU) for seed in range(RUNS)]
    teacher = Teacher(make_rule("sgd", torch.float64), 0.1) if imitation else None
    loop = InnerLoop(rule, task.loss, True, teacher=teacher, **{"total_steps": 10, **settings})
    inner = start(rule, problems, vectorize=True, teacher=None if teacher is None else teacher.rule)
    initialization = {
        key: value.clone().requires_grad_() for key, value in problems[0].parameters.items()
    }
    results = []
    for function in (differentiate, differentiate_one_by_one):
        draws = [problem.draw for problem in problems]
        streams = [
            BatchStream(draws, [generator(100 * place + run) for run in range(RUNS)])
            for place in (1, 2)
        ]
        outer = streams[1] if outer_batches else None
        data = InnerData(streams[0], outer, seed=0, last_only=last_only)
        leaves = [*rule.parameters(), *initialization.values()]
        meta_objective = MetaObjective(OBJECTIVES[objective], imitation=imitation)
        begin = linked(inner, initialization)
        found = function(loop, begin, data, STEPS, meta_objective, leaves, checkpoint_steps)
        results.append((found, data.mark()))
    return results


def linked(inner, initialization):
    """All runs start at the initialisation but the last, which goes on from somewhere else."""
    begins = torch.arange(RUNS) < RUNS - 1
    parameters = {
        key: torch.where(
            begins.reshape(-1, *[1] * initialization[key].dim()), initialization[key], value
        )
        for key, value in inner.parameters.items()
    }
    return replace(inner, parameters=parameters)


def check_equal(results):
    (expected, expected_marks), (found, marks) = results

    def close(left, right):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10, equal_nan=True)

    close(found.gradients, expected.gradients)
    close(found.value, expected.value)
    alive = expected.inner.alive
    close(found.losses[:, alive], expected.losses[:, alive])
    close(dict(found.inner.named_tensors()), dict(expected.inner.named_tensors()))
    assert not any(value.requires_grad for _, value in found.inner.named_tensors())
    close(marks, expected_marks)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_one_by_one_is_at_once(name, second_order):
    rule = make_rule(name, torch.float64, spread=0.2)
    results = both(rule, second_order=second_order)
    check_equal(results)
    assert all(gradient.abs().max() > 0 for gradient in results[0][0].gradients)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "last", "outer_batches": True},
        {"objective": "last", "outer_batches": True, "last_only": True},
        {"objective": "log-tail", "checkpoint_steps": 2},
        {"imitation": 0.3},
        {"lr": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)},
        {"total_steps": torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64)},
        {"hide_loss": True, "weight_decay": 0.01},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("name", ["sgd", "step-size-lstm"])
def test_one_by_one_is_at_once_with_every_setting(name, settings):
    check_equal(both(make_rule(name, torch.float64, spread=0.2), second_order=True, **settings))


@pytest.mark.parametrize("kill", [(1,), (0, 1, 2)], ids=["one", "all"])
@pytest.mark.parametrize("second_order", [False, True])
def test_diverged_runs_do_not_count(kill, second_order, monkeypatch):
    rule = make_rule("lstm", torch.float64, spread=0.2)
    rates = torch.ones(RUNS, dtype=torch.float64)
    rates[list(kill)] = 1e308
    results = both(rule, second_order=second_order, lr=rates)
    assert results[0][0].inner.alive.tolist() == [run not in kill for run in range(RUNS)]
    check_equal(results)


@pytest.mark.parametrize("lr", [0.1, 1e308])
@pytest.mark.parametrize("name", RULES)
def test_a_traceable_loop_gives_the_same_numbers(name, lr):
    rule = make_rule(name, torch.float64, spread=0.2)
    rates = torch.tensor([lr, 0.1, 0.1], dtype=torch.float64)
    plain, traceable = (
        both(rule, lr=rates, second_order=True, traceable=traceable)[0][0]
        for traceable in (False, True)
    )
    assert plain.inner.alive.all() == (lr == 0.1)
    torch.testing.assert_close(plain.gradients, traceable.gradients, rtol=1e-12, atol=1e-12)
    assert same(dict(plain.inner.named_tensors()), dict(traceable.inner.named_tensors()))


def test_copies_of_a_run_read_the_same_batches():
    rule, task = make_rule("lstm", torch.float64, spread=0.2), make_task()
    problems = [task.sample(generator(seed), CPU) for seed in (0, 1)]
    inner = start(rule, problems * 2, vectorize=True)
    loop = InnerLoop(rule, task.loss, True)
    results = []
    for function in (differentiate, differentiate_one_by_one):
        draws, sources = [p.draw for p in problems], [generator(1), generator(2)]
        data = InnerData(BatchStream(draws, sources, copies=2), None, seed=0)
        meta_objective = MetaObjective(OBJECTIVES["sum"])
        found = function(loop, inner, data, STEPS, meta_objective, list(rule.parameters()))
        results.append((found, data.mark()))
    check_equal(results)


def test_one_by_one_needs_several_runs():
    rule, task = make_rule("sgd", torch.float64), make_task()
    loop = InnerLoop(rule, task.loss, False)
    inner = start(rule, [task.sample(generator(), CPU)], vectorize=False)
    with pytest.raises(ValueError, match="vectorised loop"):
        differentiate_one_by_one(loop, inner, None, 1, None, [])


def sample(hidden, **settings):
    return DigitsMLP(hidden=hidden, **settings).sample(generator(), CPU)


@pytest.mark.parametrize(
    ("name", "hidden", "at_once"),
    [
        ("sgd", (20,), True),
        ("adam-lstm", (20,), True),
        ("step-size-lstm", (32, 32, 32), True),
        ("lstm", (256,), False),
        ("step-size-lstm", (512, 512), False),
    ],
)
def test_small_work_is_done_at_once_and_large_work_one_by_one(name, hidden, at_once):
    choice = choose_vectorize(make_rule(name), sample(hidden), 8, CPU)
    assert choice.vectorize == at_once
    assert "KiB" in choice.reason
    assert choice == choose_vectorize(make_rule(name, seed=1), sample(hidden), 8, CPU)


def test_work_is_that_of_shapes_and_draws_nothing():
    rule, problem = make_rule("lstm"), sample((20,))
    before = torch.random.get_rng_state()
    work = measure_work(rule, problem)
    assert measure_work(make_rule("lstm", seed=3), problem) == work
    assert measure_work(rule, sample((40,))).bytes > work.bytes
    assert measure_work(rule, sample((20, 20))).operations > work.operations
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_needs_no_measurement():
    rule, problem = make_rule("sgd"), sample((2,))
    assert choose_vectorize(rule, problem, 8, CPU, mode="always").vectorize
    assert not choose_vectorize(rule, problem, 8, CPU, mode="never").vectorize
    assert not choose_vectorize(rule, problem, 1, CPU).vectorize
    assert choose_vectorize(rule, problem, 8, torch.device("cuda")).vectorize
    with pytest.raises(ValueError, match="mode must be one of .* got 'sometimes'"):
        choose_vectorize(rule, problem, 8, CPU, mode="sometimes")


@pytest.mark.skipif(load_library() is None, reason="only C computes networks together")
def test_runs_that_the_task_computes_together_go_at_once_however_large_their_losses_are():
    """C splits the runs itself; a large update of the rule still goes one by one."""
    task = EmbeddingEpisodes(MadeUp(ways=12, shots=4, queries=4, hidden=64), "prototypical")
    problem, sgd = task.sample(generator(), CPU), make_rule("sgd")
    plain = replace(problem, loss=task.loss)
    assert not choose_vectorize(sgd, plain, 8, CPU).vectorize
    choice = choose_vectorize(sgd, problem, 8, CPU)
    assert choice.vectorize and "the task computes all losses together" in choice.reason
    assert not choose_vectorize(make_rule("lstm"), problem, 8, CPU).vectorize
    # C knows float32 alone.
    doubles = {key: value.double()[None] for key, value in problem.parameters.items()}
    batch = stack([[part.double() for part in problem.draw(generator())]])
    assert not problem.loss.suits(doubles, {}, batch)


def test_an_update_is_a_step_without_loss_and_gradient():
    """SGD reads each gradient and parameter once; a larger batch makes only the loss larger."""
    few, many = (DigitsMLP(hidden=(8,), batch_size=size) for size in (4, 64))
    works = [measure_update(make_rule("sgd"), one.sample(generator(), CPU)) for one in (few, many)]
    assert works[0] == works[1]
    steps = [measure_work(make_rule("sgd"), one.sample(generator(), CPU)) for one in (few, many)]
    assert works[0].bytes < steps[0].bytes < steps[1].bytes
    numbers = 64 * 8 + 8 + 8 * 10 + 10
    assert works[0].bytes >= 4 * 3 * numbers  # gradient, parameter and the new parameter


@pytest.fixture
def step_of(monkeypatch):
    """Pretends that every operation of a step has a size in KiB."""

    def pretend(kib):
        monkeypatch.setattr(vectorize, "measure_work", lambda *_: Work(10, int(10 * 1024 * kib)))

    return pretend


@pytest.mark.parametrize(("kib", "at_once"), [(95, True), (96, False)])
def test_runs_go_one_by_one_from_96_kib_an_operation(kib, at_once, step_of):
    step_of(kib)
    choice = choose_vectorize(make_rule("sgd"), sample((2,)), 8, CPU)
    assert choice.vectorize == at_once


@pytest.mark.parametrize(("kib", "runs"), [(1, 50), (48, 5), (64, 4), (65, 3), (256, 1), (999, 1)])
def test_runs_are_evaluated_together_up_to_256_kib_an_operation(kib, runs, step_of):
    step_of(kib)
    assert choose_chunk(make_rule("sgd"), sample((2,)), 50, CPU) == runs
    assert choose_chunk(make_rule("sgd"), sample((2,)), 50, torch.device("cuda")) == 50

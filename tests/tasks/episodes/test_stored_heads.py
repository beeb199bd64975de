"""Stored heads of recurring few-shot tasks."""

import pytest
import torch
from few_shot_cases import MadeUp

from learned_opt.rules import create_rule
from meta_train.inner.loop import InnerLoop
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.episodes.stored_heads import STORED, StoredHeads

CPU = torch.device("cpu")


def make_sine(tasks=3, **settings):
    return StoredHeads(
        Sine(hidden=(4,), shots=5, queries=6, **{"fresh": "nothing", **settings}), tasks
    )


def test_a_number_always_gives_the_same_task_with_other_examples():
    task = StoredHeads(MadeUp(ways=3, shots=1, queries=1, fresh="nothing"), 4)
    drawn: dict = {}
    for seed in range(30):
        images, _, number = task.sample(generator(seed), CPU).full()
        drawn.setdefault(int(number), []).append(images)
    assert sorted(drawn) == [0, 1, 2, 3]
    for episodes in drawn.values():
        # The made-up images of a class differ by a shade only.
        assert all((one - episodes[0]).abs().max() < 0.2 for one in episodes)
        assert not all(torch.equal(one, episodes[0]) for one in episodes)
    assert (drawn[0][0] - drawn[1][0]).abs().max() > 0.2


def test_an_inner_step_trains_the_head_from_where_it_is_stored():
    task = make_sine()
    problem = task.sample(generator(0), CPU)
    batch = problem.draw(generator(1))
    number = int(batch[2])
    loop = InnerLoop(create_rule("sgd"), task.loss, False, lr=0.1)
    from meta_train.inner.state import start

    inner, _ = loop.step(start(loop.rule, [problem], vectorize=False), batch)
    head = {k: problem.fixed[STORED + k][number] for k in ("head.weight", "head.bias")}
    plain = {**task.episodes.template(), **head}
    loss, _ = task.episodes.loss({k: v.requires_grad_() for k, v in plain.items()}, {}, batch[:2])
    for key, gradient in zip(plain, torch.autograd.grad(loss, list(plain.values())), strict=True):
        begin = head[key] if key in head else 0
        torch.testing.assert_close(begin + inner.parameters[key], plain[key] - 0.1 * gradient)


def test_meta_gradients_reach_the_heads_of_the_drawn_tasks():
    task = make_sine(tasks=50)
    settings = TrainSettings(
        estimator="full", horizons=(2,), runs=3, outer_steps=1, inner_lr=0.1,
        param_rescale_range=0.0, objective="last", objective_data="validation", gates_every=0,
    )  # fmt: skip
    learned = {k: v for k, v in task.template().items() if not k.startswith("head.")}
    trainer = MetaTrainer(create_rule("sgd"), task, settings, initialization=learned, device=CPU)
    runs = trainer.groups.runs[0]
    reduced = trainer.take_outer_step().estimate
    gradients = dict(zip(learned, reduced.gradients, strict=True))
    came = {int(problem.full()[2]) for problem in runs.problems}
    touched = gradients["stored.head.weight"].flatten(1).abs().sum(1).nonzero().flatten().tolist()
    assert set(touched) == came
    assert gradients["body.0.weight"].abs().sum() > 0


def test_unseen_tasks_have_fresh_heads():
    task = make_sine()
    other = task.validation()
    problem = other.sample(generator(0), CPU)
    assert problem.parameters["head.weight"].abs().sum() > 0
    changed = {k: v + 1 for k, v in problem.fixed.items()}
    losses = [
        other.loss({**problem.parameters, **fixed}, {}, problem.full())[0]
        for fixed in (problem.fixed, changed)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [(0, {}, "tasks must be at least 1, got 0"), (2, {"fresh": "head"}, "stored heads need")],
)
def test_unsuitable_settings_are_refused(tasks, settings, message):
    with pytest.raises(ValueError, match=message):
        make_sine(tasks, **settings)

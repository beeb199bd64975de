import math

import pytest
import torch
from few_shot_cases import MadeUp

from learned_opt import create_rule
from meta_train.few_shot.evaluation import adapt_once, evaluate
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.scores import Evaluation
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.sine import Sine

CPU = torch.device("cpu")


def by_hand(task, initial, steps, index, seed, lr):
    """MSE of one episode after every step, by a plain loop."""
    problem = task.sample(generator(seed, "episode", index), CPU)
    parameters = {k: initial.get(k, v).clone() for k, v in problem.parameters.items()}
    query = problem.draw_validation(generator(0))
    scores = [task.score(parameters, {}, query)]
    for _ in range(steps):
        leaves = {k: v.detach().requires_grad_() for k, v in parameters.items()}
        loss, _ = task.loss(leaves, {}, problem.full())
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        parameters = {k: v - lr * g for (k, v), g in zip(leaves.items(), gradients, strict=True)}
        scores.append(task.score(parameters, {}, query).detach())
    return torch.stack(scores)


def test_is_a_plain_loop_over_episodes():
    task = Sine(shots=5, queries=7)
    initial = {k: 10 * v for k, v in task.template().items() if k != "head.weight"}
    found = evaluate(
        create_rule("sgd"), initial, task, steps=(0, 1, 3), episodes=5, seed=3, lr=0.02
    )
    expected = torch.stack([by_hand(task, initial, 3, k, 3, 0.02) for k in range(5)], 1)
    torch.testing.assert_close(found.values, expected[[0, 1, 3]])
    assert found.metric == "MSE" and found.steps == (0, 1, 3) and found.diverged == 0


def test_chunks_do_not_matter_and_random_numbers_are_left_alone():
    task = MadeUp(ways=3, inner_batch=2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = (
        evaluate(
            create_rule("sgd"), task.template(), task, steps=(2,), episodes=7, lr=0.1, chunk=chunk
        )
        for chunk in (3, 7)
    )
    torch.testing.assert_close(first.values, second.values)
    assert torch.equal(before, torch.get_rng_state())


def test_mean_and_interval():
    evaluation = Evaluation("accuracy", (0, 4), torch.tensor([[0.0, 0, 0, 0], [1, 0, 1, 0.5]]), 0)
    assert evaluation.mean(4) == pytest.approx(0.625)
    std = math.sqrt((2 * 0.375**2 + 0.625**2 + 0.125**2) / 3)
    assert evaluation.interval(4) == pytest.approx(1.96 * std / 2)
    with pytest.raises(ValueError, match="step 1 was not evaluated"):
        evaluation.mean(1)


def test_an_embedding_is_evaluated_without_inner_steps():
    task = EmbeddingEpisodes(MadeUp(ways=3, queries=2), "nearest-neighbour")
    found = evaluate(create_rule("sgd"), {}, task, steps=(0,), episodes=6)
    assert found.values.shape == (1, 6) and found.mean(0) > 0.5


def test_statistics_of_the_support_set_are_of_the_adapted_weights():
    # Statistics of the support set serve training and testing alike: accuracy is high.
    task = MadeUp(ways=3, shots=4, queries=4, batch_norm="support")
    found = evaluate(create_rule("sgd"), task.template(), task, steps=(0, 20), episodes=4, lr=0.1)
    assert found.mean(20) > found.mean(0) and found.mean(20) > 0.8


def test_learned_rules_and_fresh_heads_go_through(seed=0):
    torch.manual_seed(0)
    rule = create_rule("gated-lstm")
    task = MadeUp(ways=3, fresh="head")
    body = {key: value for key, value in task.template().items() if key.startswith("body.")}
    found = evaluate(rule, body, task, steps=(0, 2), episodes=3)
    assert found.values.isfinite().all() and found.diverged == 0


def test_the_body_stays_where_only_the_head_is_adapted():
    initial = {k: 10 * v for k, v in Sine().template().items()}
    found = evaluate(
        create_rule("sgd"), initial, Sine(adapted="head"), steps=(0, 1), episodes=3, lr=0.1
    )
    whole = Sine()
    for index in range(3):
        problem = whole.sample(generator(0, "episode", index), CPU)
        leaves = {k: v.clone().requires_grad_() for k, v in initial.items()}
        loss, _ = whole.loss(leaves, {}, problem.full())
        for name in ("head.weight", "head.bias"):
            (gradient,) = torch.autograd.grad(loss, [leaves[name]], retain_graph=True)
            leaves[name] = leaves[name] - 0.1 * gradient
        score = whole.score(leaves, {}, problem.draw_validation(generator(0)))
        torch.testing.assert_close(found.values[1, index], score.detach())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": (-1,)}, "steps must be numbers of at least 0"),
        ({"episodes": 0}, "must be at least 1, got 0"),
        ({"initial": {"tail.weight": torch.zeros(1)}}, "no parameter 'tail.weight'; it has body.0"),
        (
            {"initial": {"head.bias": torch.zeros(4)}},
            r"\[4\] in the initialisation and \[1\] in the",
        ),
    ],
)
def test_impossible_arguments_are_refused(settings, message):
    settings = {"initial": {}, **settings}
    with pytest.raises(ValueError, match=message):
        evaluate(create_rule("sgd"), settings.pop("initial"), Sine(), **settings)


def test_inner_training_is_held_at_the_initialisation():
    """iMAML's pull in testing, by hand: theta' = theta - lr (g + lambda (theta - initial))."""
    task = Sine(hidden=(4,), shots=6, queries=5, fresh="nothing")
    initial = task.template()
    rate, strength = 0.1, 2.0
    problem, states = adapt_once(
        create_rule("sgd"), initial, task, 3, steps=(0, 1, 2), lr=rate, proximal=strength
    )
    theta = initial
    for step in (1, 2):
        leaves = {key: value.clone().requires_grad_() for key, value in theta.items()}
        loss, _ = task.loss(leaves, {}, problem.full())
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        theta = {
            key: theta[key] - rate * (gradient + strength * (theta[key] - initial[key]))
            for key, gradient in zip(initial, gradients, strict=True)
        }
        for key, value in theta.items():
            torch.testing.assert_close(states[step][key], value)
    pulled, free = (
        evaluate(create_rule("sgd"), initial, task, steps=(8,), episodes=5, lr=rate, proximal=held)
        for held in (strength, None)
    )
    assert not torch.equal(pulled.values, free.values)

"""Many episodes at once by convolutions in C: every head, on images and on signals."""

import pytest
import torch
from few_shot_cases import MadeUp

from meta_train.few_shot.heads.episodes import HEADS, EmbeddingEpisodes
from meta_train.inner.state import stack
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.signals import SignalEpisodes

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("made", [MadeUp, SignalEpisodes])
def test_a_head_on_many_episodes_is_the_head_on_each(name, made):
    task = EmbeddingEpisodes(made(ways=3, shots=2, queries=2, hidden=64), name)
    problems = [task.sample(generator(seed), CPU) for seed in range(2)]
    noisy = {k: v + 0.02 * torch.randn(v.shape) for k, v in problems[0].parameters.items()}
    parameters = {k: v.requires_grad_() for k, v in noisy.items()}
    batches = stack([problem.full() for problem in problems])
    many = {k: v.expand(2, *v.shape) for k, v in parameters.items()}
    losses, _ = task.losses(many, {}, batches)
    one = [task.loss(parameters, {}, problem.full())[0] for problem in problems]
    torch.testing.assert_close(losses, torch.stack(one), rtol=1e-3, atol=1e-4)
    alone = [problem.loss(parameters, {}, problem.full())[0] for problem in problems]
    torch.testing.assert_close(torch.stack(alone), torch.stack(one), rtol=1e-3, atol=1e-4)
    scores = [task.score(parameters, {}, problem.full()) for problem in problems]
    torch.testing.assert_close(task.scores(many, {}, batches), torch.stack(scores))
    if name == "hallucination":  # Its generator must take part.
        (gradient,) = torch.autograd.grad(losses.sum(), [parameters["generator.layers.0.weight"]])
        assert gradient.abs().max() > 1e-6


def test_episodes_of_signals_at_once_are_those_one_by_one():
    task = SignalEpisodes(ways=3, shots=2, queries=2)
    problems = [task.sample(generator(seed), CPU) for seed in range(3)]
    batches = stack([problem.full() for problem in problems])
    many = stack([problem.parameters for problem in problems])
    losses, _ = task.losses(many, {}, batches)
    one = [task.loss(p.parameters, {}, p.full())[0] for p in problems]
    torch.testing.assert_close(losses, torch.stack(one), rtol=1e-4, atol=1e-5)

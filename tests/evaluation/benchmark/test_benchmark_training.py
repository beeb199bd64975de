"""A run of the benchmark is an ordinary loop, measured in evaluation mode."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from learned_opt import LearnedOptimizer
from meta_train.evaluation.benchmark import games
from meta_train.evaluation.benchmark.contestants.contestant import Contestant
from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS, learned
from meta_train.evaluation.benchmark.games import GAMES, CartPoles, play_once
from meta_train.evaluation.benchmark.training import train_once
from meta_train.evaluation.benchmark.workload import BenchmarkTask, Workload, squared_error
from meta_train.runtime.seeding import generator, seeded

TRUTH = torch.tensor([[2.0, -1.0]])


def line():
    """Linear regression on 200 fixed examples."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 2, generator=random)
    targets = inputs @ TRUTH.T + 0.1 * torch.randn(200, 1, generator=random)
    data = inputs, targets
    return Workload(
        nn.Linear(2, 1), data, (inputs[:50], targets[:50]), squared_error, squared_error
    )


def with_batch_norm():
    workload = line()
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    return Workload(model, workload.train, workload.test, squared_error, squared_error)


LINE = BenchmarkTask("line", "line", line, 50, 8, "loss")
NORMALISED = BenchmarkTask("normalised", "normalised", with_batch_norm, 50, 8, "loss")


def by_hand(task, make, seed, steps):
    """The same run, written out: the model as it is evaluated in the end."""
    with seeded(torch.device("cpu"), "benchmark", task.name, seed):
        workload = task.make()
        optimizer = make(workload.model)
        batches = generator("benchmark", task.name, seed, "batches")
        for _ in range(steps):
            chosen = torch.randint(200, (8,), generator=batches)
            inputs, targets = (values[chosen] for values in workload.train)
            optimizer.zero_grad()
            nn.functional.mse_loss(workload.model(inputs), targets).backward()
            optimizer.step()
    return workload, optimizer


def test_the_losses_are_those_of_an_ordinary_loop():
    run = train_once(LINE, CONTESTANTS["adamw"], {"lr": 0.05}, seed=3, steps=50)
    workload, _ = by_hand(
        LINE, lambda m: torch.optim.AdamW(m.parameters(), lr=0.05, weight_decay=0.01), 3, 50
    )
    inputs, targets = workload.train
    expected = nn.functional.mse_loss(workload.model(inputs), targets).item()
    assert run.losses[-1] == pytest.approx(expected, rel=1e-6)
    assert run.error == pytest.approx(
        nn.functional.mse_loss(workload.model(inputs[:50]), targets[:50]).item(), rel=1e-6
    )
    assert len(run.losses) == 26 and run.parameters == 3 and not run.diverged
    assert run.state == pytest.approx(8.0)  # two float32 numbers a parameter
    assert 0 < run.step_seconds < run.seconds


def test_an_average_is_evaluated_where_the_optimizer_keeps_one():
    run = train_once(LINE, learned("orthogonal-momentum"), {"lr": 1.0}, seed=3, steps=50)
    workload, optimizer = by_hand(LINE, lambda m: LearnedOptimizer(m.parameters()), 3, 50)
    inputs, targets = workload.train
    raw = nn.functional.mse_loss(workload.model(inputs), targets).item()
    optimizer.eval()
    averaged = nn.functional.mse_loss(workload.model(inputs), targets).item()
    assert run.losses[-1] == pytest.approx(averaged, rel=1e-5)
    assert abs(averaged - raw) > 1e-3 * raw


def test_running_statistics_are_those_of_the_evaluated_weights():
    run = train_once(NORMALISED, CONTESTANTS["sgd"], {"lr": 0.01}, seed=0, steps=25)
    contestant = CONTESTANTS["sgd"]
    with seeded(torch.device("cpu"), "benchmark", "normalised", 0):
        workload = with_batch_norm()
        optimizer, scheduler = contestant.build(workload, {"lr": 0.01}, 25)
        batches = generator("benchmark", "normalised", 0, "batches")
        for _ in range(25):
            chosen = torch.randint(200, (8,), generator=batches)
            inputs, targets = (values[chosen] for values in workload.train)
            optimizer.zero_grad()
            nn.functional.mse_loss(workload.model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
        inputs, targets = workload.train
        update_bn(inputs.split(128), workload.model)
        workload.model.eval()
        expected = nn.functional.mse_loss(workload.model(inputs), targets).item()
    assert run.losses[-1] == pytest.approx(expected, rel=1e-5)


def test_a_run_that_blows_up_is_diverged():
    run = train_once(LINE, CONTESTANTS["sgd"], {"lr": 1e9}, seed=0, steps=50)
    assert run.diverged and run.error == math.inf and len(run.losses) < 26
    worse = train_once(LINE, CONTESTANTS["adamw"], {"lr": 50.0}, seed=0, steps=3)
    assert worse.diverged and worse.losses[-1] > worse.losses[0]


def test_a_mis_stated_number_of_steps_changes_a_schedule_only():
    def final(contestant, told):
        found = train_once(
            LINE, CONTESTANTS[contestant], {"lr": 0.05}, seed=0, steps=50, told_steps=told
        )
        return found.losses[-1]

    assert final("adamw", 25) == final("adamw", 100)
    assert final("adamw-cosine", 25) != final("adamw-cosine", 100)


def test_a_cart_moves_as_its_equations_say():
    poles = CartPoles(2)
    poles.state = torch.tensor([[0.1, 0.2, 0.05, -0.3], [2.39, 1.0, 0.0, 0.0]])
    before = poles.state[0].double()
    fell, ended = poles.step(torch.tensor([1, 1]))
    _, _, angle, turning = before.tolist()
    pull = (10 + 0.05 * turning**2 * math.sin(angle)) / 1.1
    turn = (9.8 * math.sin(angle) - math.cos(angle) * pull) / (
        0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1)
    )
    rush = pull - 0.05 * turn * math.cos(angle) / 1.1
    expected = [0.1 + 0.02 * 0.2, 0.2 + 0.02 * rush, 0.05 - 0.02 * 0.3, -0.3 + 0.02 * turn]
    assert poles.state[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert fell.tolist() == ended.tolist() == [False, True]
    assert poles.state[1].abs().max() <= 0.05 and poles.age.tolist() == [1, 0]


def test_an_episode_ends_at_its_limit_without_a_fall():
    poles = CartPoles(1)
    poles.age[0] = 199
    fell, ended = poles.step(torch.tensor([0]))
    assert not fell.item() and ended.item()


def test_a_game_does_not_work_without_training():
    still = Contestant(
        "still", "still", lambda w, s, n: (torch.optim.SGD(w.model.parameters(), 0.0), None), {}
    )
    for game in GAMES.values():
        played = play_once(game, still, {}, seed=0, steps=2)
        assert not played.works
        assert played == play_once(game, still, {}, seed=0, steps=2)
    assert 10 < play_once(GAMES["cart-pole"], still, {}, seed=1, steps=1).figure < 60


def test_samples_on_the_ring_are_a_perfect_score(monkeypatch):
    class Ring(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, noise):
            return games._centres()[torch.arange(len(noise)) % 8] + 0 * self.unused

    made = []

    def mlp(sizes, activation=None):
        made.append(Ring() if not made else nn.Linear(2, 1))
        return made[-1]

    monkeypatch.setattr(games, "mlp", mlp)
    played = games.play_ring(lambda m: (torch.optim.SGD(m.parameters(), 0.0), None), 1)
    assert played.figure == 1.0 and played.works


@pytest.mark.slow
def test_adamw_learns_to_balance_the_pole():
    played = play_once(GAMES["cart-pole"], CONTESTANTS["adamw"], {"lr": 3e-3}, seed=0, steps=500)
    assert played.works

"""Two games, in which the loss says little: a small GAN, and an actor-critic on a cart-pole.

An optimizer passes if it works. Each game has its own figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from meta_train.evaluation.benchmark.contestants.contestant import (
    Built,
    Contestant,
    HasModes,
    Setting,
)
from meta_train.evaluation.benchmark.tasks.models import mlp
from meta_train.evaluation.benchmark.workload import Batch, Workload
from meta_train.runtime.seeding import seeded

MODES, SPREAD, NEAR = 8, 0.05, 0.2
"""Points of the ring, their standard deviation, and how near a sample must be to one."""

PENALTY = 0.3
"""Weight of the mean squared slope of the critic at real samples."""

ENVIRONMENTS, MOMENT, LIMIT = 16, 16, 200
"""Cart-poles at once, steps before each update, and the longest episode."""

GOOD_RETURN = 150.0
"""Mean return of a policy that works; a random one has about 22, the limit is 200."""


@dataclass(frozen=True)
class Played:
    """The result of a game.

    Attributes:
        figure: the game's own figure; higher is better.
        works: whether that is good enough.
    """

    figure: float
    works: bool


@dataclass(frozen=True)
class Game:
    """A game.

    Attributes:
        name: key in results.
        title: name in tables.
        figure: what the figure is.
        play: trains with the optimizers that its argument makes, and measures.
        steps: updates.
    """

    name: str
    title: str
    figure: str
    play: Callable[[Callable[[nn.Module], Built], int], Played]
    steps: int


def play_once(
    game: Game, contestant: Contestant, setting: Setting, *, seed: int, steps: int
) -> Played:
    """Play a game once; equal seeds give equal initial weights."""

    def build(model: nn.Module) -> Built:
        built = contestant.build(Workload(model, (), (), _unused, _unused), setting, steps)
        if isinstance(built[0], HasModes):
            built[0].train()  # Schedule-Free's refuses to step before
        return built

    with seeded(torch.device("cpu"), "benchmark", game.name, seed):
        return game.play(build, steps)


def _unused(model: nn.Module, batch: Batch) -> Tensor:
    raise NotImplementedError


def _take(built: Built, loss: Tensor) -> None:
    optimizer, scheduler = built
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if scheduler is not None:
        scheduler.step()


def _use_evaluation_weights(optimizer: Optimizer) -> None:
    if isinstance(optimizer, HasModes):
        optimizer.eval()


def _centres() -> Tensor:
    angles = torch.arange(MODES) * (2 * math.pi / MODES)
    return torch.stack([angles.cos(), angles.sin()], 1)


def play_ring(build: Callable[[nn.Module], Built], steps: int) -> Played:
    """A GAN (Goodfellow et al. 2014) of a ring of eight points, with a gradient penalty.

    The penalty is that of Mescheder et al. 2018 (arXiv 1801.04406), on real samples.

    The figure is the share of the points that get at least a quarter of their samples, times the
    share of samples near any point. It works from 0.4 on.
    """
    centres = _centres()
    generator, critic = mlp((8, 64, 64, 2)), mlp((2, 64, 64, 1), lambda: nn.LeakyReLU(0.2))
    makers, critics = build(generator), build(critic)

    def real(count: int) -> Tensor:
        return centres[torch.randint(MODES, (count,))] + SPREAD * torch.randn(count, 2)

    for _ in range(steps):
        fake = generator(torch.randn(128, 8))
        true = real(128).requires_grad_()
        verdict = critic(true)
        slope = torch.autograd.grad(verdict.sum(), true, create_graph=True)[0]
        wrong = F.softplus(critic(fake.detach())).mean() + F.softplus(-verdict).mean()
        _take(critics, wrong + PENALTY * slope.square().sum(1).mean())
        _take(makers, F.softplus(-critic(generator(torch.randn(128, 8)))).mean())
    _use_evaluation_weights(makers[0])
    with torch.no_grad():
        distances = torch.cdist(generator(torch.randn(2000, 8)), centres)
    nearest, point = distances.min(1)
    near = nearest < NEAR
    counts = torch.bincount(point[near], minlength=MODES)
    covered = float((counts >= 2000 / MODES / 4).float().mean())
    figure = covered * float(near.float().mean())
    return Played(figure, figure >= 0.4)


class CartPoles:
    """Carts that balance a pole (Barto, Sutton & Anderson 1983), many at once.

    The state is `[environments, 4]`: place, speed, angle, angular speed; an action is 0 (push to
    the left) or 1. An episode ends beyond 2.4 units or 12 degrees, or after `LIMIT` steps.

    Args:
        count: environments.
    """

    def __init__(self, count: int) -> None:
        self.state = self._start(count)
        self.age = torch.zeros(count)

    def _start(self, count: int) -> Tensor:
        return torch.rand(count, 4) * 0.1 - 0.05

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Push; which episodes fell, and which ended, `[environments]`. Those begin anew."""
        place, speed, angle, turning = self.state.unbind(1)
        push = 10.0 * (2.0 * actions - 1)
        pole, total, length = 0.1, 1.1, 0.5
        pull = (push + pole * length * turning.square() * angle.sin()) / total
        turn = (9.8 * angle.sin() - angle.cos() * pull) / (
            length * (4 / 3 - pole * angle.cos().square() / total)
        )
        rush = pull - pole * length * turn * angle.cos() / total
        change = torch.stack([speed, rush, turning, turn], 1)
        self.state = self.state + 0.02 * change
        self.age += 1
        fell = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > math.radians(12))
        ended = fell | (self.age >= LIMIT)
        self.state = torch.where(ended[:, None], self._start(len(ended)), self.state)
        self.age[ended] = 0
        return fell, ended


def play_cart_pole(build: Callable[[nn.Module], Built], steps: int) -> Played:
    """Advantage actor-critic (Mnih et al. 2016) on the cart-pole.

    The figure is the mean return of the policy over 32 new episodes, at most 200.
    """
    model = mlp((4, 64, 64, 3), nn.Tanh)  # two logits and a value
    built = build(model)
    poles = CartPoles(ENVIRONMENTS)
    scale = torch.tensor([1.0, 1.0, 5.0, 1.0])
    for _ in range(steps):
        outputs, chosen, falls, ends = [], [], [], []
        for _ in range(MOMENT):
            outputs.append(model(poles.state * scale))
            chosen.append(torch.multinomial(outputs[-1][:, :2].detach().softmax(1), 1)[:, 0])
            fell, ended = poles.step(chosen[-1])
            falls.append(fell)
            ends.append(ended)
        with torch.no_grad():
            value = model(poles.state * scale)[:, 2]
        targets: list[Tensor] = []
        for output, fell, ended in zip(outputs[::-1], falls[::-1], ends[::-1], strict=True):
            # Where the limit ended an episode, its value stands for the rest of it.
            beyond = torch.where(ended, output[:, 2].detach(), value)
            value = 0.05 + 0.95 * torch.where(fell, 0.0, beyond)
            targets.append(value)
        every, wanted = torch.cat(outputs), torch.cat(targets[::-1])
        advantage = wanted - every[:, 2].detach()
        logs = every[:, :2].log_softmax(1)
        taken = logs.gather(1, torch.cat(chosen)[:, None])[:, 0]
        entropy = -(logs.exp() * logs).sum(1).mean()
        error = (every[:, 2] - wanted).square().mean()
        _take(built, error - (taken * advantage).mean() - 0.01 * entropy)
    _use_evaluation_weights(built[0])
    figure = _mean_return(model, scale)
    return Played(figure, figure >= GOOD_RETURN)


@torch.no_grad()
def _mean_return(model: nn.Module, scale: Tensor) -> float:
    poles = CartPoles(32)
    alive, steps = torch.ones(32, dtype=torch.bool), torch.zeros(32)
    for _ in range(LIMIT):
        steps += alive
        logits = model(poles.state * scale)[:, :2]
        alive &= ~poles.step(torch.multinomial(logits.softmax(1), 1)[:, 0])[1]
    return float(steps.mean())


GAMES: Mapping[str, Game] = MappingProxyType(
    {
        "gan-ring": Game("gan-ring", "GAN, ring of 8", "samples on all modes", play_ring, 3000),
        "cart-pole": Game("cart-pole", "actor-critic, cart-pole", "return", play_cart_pole, 500),
    }
)
"""The games by name."""

"""How well a rule learns from few examples: a score on the query set, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vmap
from tqdm import tqdm

from learned_opt.rules.base import UpdateRule
from meta_train.estimators.implicit import Proximal, anchors_at, split_anchors
from meta_train.few_shot.heads.task import ScoredEpisodes
from meta_train.inner.batches import BatchStream, cast
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState, stack, start
from meta_train.inner.vectorize import choose_chunk
from meta_train.runtime.seeding import generator, own_randomness
from meta_train.tasks.base import Batch, Loss, Problem, Tensors
from meta_train.tasks.episodes.base import EpisodeTask

Z = 1.96
"""Standard errors to each side of a 95% confidence interval."""

MOST = 50
"""Episodes at once."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of query sets.

    Attributes:
        metric: "accuracy" or "MSE".
        steps: inner steps after which query sets were judged.
        values: of each episode, `[steps, episodes]`, on the CPU.
        diverged: episodes whose inner training diverged; they stand still from there on.
    """

    metric: str
    steps: tuple[int, ...]
    values: Tensor
    diverged: int

    @property
    def episodes(self) -> int:
        """How many."""
        return self.values.shape[1]

    def mean(self, steps: int) -> float:
        """The mean over episodes after so many steps."""
        return float(self._row(steps).mean())

    def interval(self, steps: int) -> float:
        """Half the 95% confidence interval of the mean, 1.96 std / sqrt(episodes)."""
        row = self._row(steps)
        return Z * float(row.std()) / math.sqrt(len(row)) if len(row) > 1 else math.nan

    def _row(self, steps: int) -> Tensor:
        if steps not in self.steps:
            raise ValueError(f"step {steps} was not judged, only {self.steps}")
        return self.values[self.steps.index(steps)].double()


def evaluate(
    rule: UpdateRule,
    initialization: Mapping[str, Tensor],
    task: EpisodeTask | ScoredEpisodes,
    *,
    steps: Sequence[int] = (0, 1, 5, 10),
    episodes: int = 600,
    seed: int = 0,
    lr: float | None = None,
    total_steps: int | None = None,
    proximal: float | None = None,
    chunk: int | None = None,
    device: torch.device | None = None,
    progress: bool = False,
) -> Evaluation:
    """Adapt to many episodes and judge each after every number of steps that is asked for.

    Equal seeds draw equal episodes, whatever is evaluated. Nothing of an outer gradient is kept.

    Args:
        rule: takes the inner steps.
        initialization: phi by name; parameters that are not here start as the task says.
        task: episodes, such as `OmniglotEpisodes(split="test", ...)`.
        steps: numbers of inner steps, 0 for none.
        episodes: how many.
        seed: of episodes, and of what inner training draws.
        lr: the inner rate; by default the rule's own.
        total_steps: what a rule is told that reads it; by default the most of `steps`.
        proximal: hold inner training at the initialisation so strongly (iMAML's lambda).
        chunk: episodes at once under vmap; by default as many as is fast, at most 50.
        device: where to compute; by default where the rule is.
        progress: show a bar.

    Raises:
        ValueError: a number out of range, or names that the task does not have.
    """
    wanted = tuple(sorted(set(steps)))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"steps must be numbers of at least 0, got {list(steps)}")
    if episodes < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"episodes and chunk must be at least 1, got {episodes} and {chunk}")
    device = rule.device if device is None else device
    if chunk is None:
        chunk = choose_chunk(rule, task.sample(generator(seed), device), MOST, device)
    phi = {key: value.detach().to(device) for key, value in initialization.items()}
    loop = InnerLoop(
        rule,
        task.loss,
        vectorize=True,
        lr=lr,
        differentiable=False,
        total_steps=max(wanted[-1], 1) if total_steps is None else total_steps,
    )
    values, diverged = [], 0
    bar = tqdm(total=episodes, unit="episode", dynamic_ncols=True, disable=not progress)
    # Losses may draw from torch's global generator, which is left as it was.
    with bar, own_randomness(device):
        for first in range(0, episodes, chunk):
            indices = range(first, min(first + chunk, episodes))
            torch.manual_seed(seed + first)
            scores, alive = _judge_chunk(loop, task, phi, wanted, proximal, seed, indices, device)
            values.append(scores.cpu())
            diverged += int((~alive).sum())
            bar.update(len(indices))
    return Evaluation(task.metric, wanted, torch.cat(values, 1), diverged)


def adapt_once(
    rule: UpdateRule,
    initialization: Mapping[str, Tensor],
    task: EpisodeTask,
    seed: int,
    *,
    steps: Sequence[int],
    lr: float | None = None,
    total_steps: int | None = None,
    proximal: float | None = None,
) -> tuple[Problem, dict[int, Tensors]]:
    """Adapt to the episode of a seed, as `evaluate` does.

    Returns:
        The episode, and all parameters by name after every number of steps asked for.
    """
    problem = task.sample(generator(seed), rule.device)
    phi = {key: value.detach().to(rule.device) for key, value in initialization.items()}
    _check_names(problem, phi)
    dtype = _dtype_of(phi)
    fixed = cast({key: phi.get(key, value) for key, value in problem.fixed.items()}, dtype)
    loop = InnerLoop(
        rule,
        _WithFixed(task.loss, fixed),
        vectorize=True,
        lr=lr,
        differentiable=False,
        total_steps=max(max(steps), 1) if total_steps is None else total_steps,
    )
    loop, inner = _begin(loop, [_starting_at(problem, phi)], proximal)
    source = generator(seed, "batches")
    found = {}
    for step in range(max(steps) + 1):
        if step:
            inner, _ = loop.step(inner, cast(stack([problem.draw(source)]), dtype))
        if step in steps:
            found[step] = {**fixed, **{k: v[0].detach() for k, v in inner.parameters.items()}}
    return problem, found


def _judge_chunk(
    loop: InnerLoop,
    task: EpisodeTask | ScoredEpisodes,
    phi: Tensors,
    wanted: Sequence[int],
    proximal: float | None,
    seed: int,
    indices: range,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Scores `[steps, episodes]`, and which episodes are alive at the end."""
    drawn = [task.sample(generator(seed, "episode", index), device) for index in indices]
    _check_names(drawn[0], phi)
    # The same for all: it need not be stacked.
    dtype = _dtype_of(phi)
    fixed = cast({key: phi.get(key, value) for key, value in drawn[0].fixed.items()}, dtype)
    _check_shared(drawn, phi)
    problems = [_starting_at(problem, phi) for problem in drawn]
    loop = replace(loop, loss=_WithFixed(task.loss, fixed))
    loop, inner = _begin(loop, problems, proximal)
    sources = [generator(seed, "batches", index) for index in indices]
    stream = BatchStream([problem.draw for problem in problems], sources, dtype=dtype)
    support = cast(stack([problem.full() for problem in problems]), dtype)
    query = cast(stack([_query(problem) for problem in problems]), dtype)
    scores = []
    with torch.no_grad():
        for step in range(wanted[-1] + 1):
            if step:
                inner, _ = loop.step(inner, stream.next())
            if step in wanted:
                scores.append(_score(task, loop, fixed, inner, support, query))
    return torch.stack(scores), inner.alive


def _begin(
    loop: InnerLoop, problems: Sequence[Problem], proximal: float | None
) -> tuple[InnerLoop, InnerState]:
    inner = start(loop.rule, problems, vectorize=True)
    if proximal is None:
        return loop, inner
    buffers = {**inner.buffers, **anchors_at(inner.parameters)}
    return replace(loop, loss=Proximal(loop.loss, proximal)), replace(inner, buffers=buffers)


def _score(
    task: EpisodeTask | ScoredEpisodes,
    loop: InnerLoop,
    fixed: Tensors,
    inner: InnerState,
    support: Batch,
    query: Batch,
) -> Tensor:
    buffers, anchors = split_anchors(inner.buffers)
    if buffers:  # statistics of the support set at these very weights
        loss = vmap(loop.loss, randomness="different")
        _, buffers = loss(inner.parameters, {**buffers, **anchors}, support)
        buffers, _ = split_anchors(buffers)

    def score(parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        return task.score({**fixed, **parameters}, buffers, batch)

    scores: Tensor = vmap(score, randomness="different")(inner.parameters, buffers, query)
    return scores


@dataclass(frozen=True)
class _WithFixed:
    """A loss that reads parameters which inner training leaves as they are."""

    loss: Loss
    fixed: Tensors

    def __call__(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        return self.loss({**self.fixed, **parameters}, buffers, batch)


def _starting_at(problem: Problem, phi: Tensors) -> Problem:
    parameters = {key: phi.get(key, value) for key, value in problem.parameters.items()}
    own = cast({"parameters": parameters, "buffers": problem.buffers}, _dtype_of(phi))
    return replace(problem, **own, fixed={})


def _dtype_of(phi: Tensors) -> torch.dtype | None:
    """What episodes are cast to; None leaves them as they are."""
    return next((value.dtype for value in phi.values()), None)


def _query(problem: Problem) -> Batch:
    if problem.draw_validation is None:
        raise ValueError("the task has no query set: its problems have no validation data")
    return problem.draw_validation(generator("query"))


def _check_names(problem: Problem, phi: Tensors) -> None:
    known = {**problem.fixed, **problem.parameters}
    for name, value in phi.items():
        if name not in known:
            raise ValueError(f"the task has no parameter {name!r}; it has {', '.join(known)}")
        if known[name].shape != value.shape:
            raise ValueError(
                f"parameter {name!r} is {list(value.shape)} in the initialisation and "
                f"{list(known[name].shape)} in the task"
            )


def _check_shared(problems: Sequence[Problem], phi: Tensors) -> None:
    for name, value in problems[0].fixed.items():
        if name not in phi and any(p.fixed[name] is not value for p in problems):
            raise ValueError(
                f"{name!r} is drawn anew for each episode but is not adapted: learn it, or set "
                'fresh="head"'
            )

"""Evaluates a rule and an initialisation on few-shot episodes, inner step by inner step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vmap

from learned_opt.rules.base import UpdateRule
from meta_train.estimators.implicit import Proximal, anchors_at, split_anchors
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.scores import Evaluation
from meta_train.inner.batches import BatchStream, cast
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState, stack, start
from meta_train.inner.vectorize import choose_chunk
from meta_train.runtime.progress import progress_bar
from meta_train.runtime.seeding import generator, own_randomness
from meta_train.tasks.base import Batch, BatchedLoss, Loss, Problem, Tensors
from meta_train.tasks.episodes.base import EpisodeTask

MAX_CHUNK = 50
"""Most episodes at once under vmap."""


def evaluate(
    rule: UpdateRule,
    initialization: Mapping[str, Tensor],
    task: EpisodeTask | EmbeddingEpisodes,
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
    """Adapt to many episodes, and score each query set after given numbers of inner steps.

    Equal seeds draw equal episodes for every rule and initialisation. No outer gradient is kept.

    Args:
        rule: the update rule that takes the inner steps.
        initialization: initial values by name; other parameters start as the task draws them.
        task: episodes, such as `OmniglotEpisodes(split="test", ...)`.
        steps: numbers of inner steps; 0 evaluates the initialisation.
        episodes: number of episodes.
        seed: seed of episodes and of batches in inner training.
        lr: inner learning rate; by default the rule's own.
        total_steps: planned number of steps, for rules that read it; by default the largest of
            `steps`.
        proximal: strength of the pull towards the initialisation (iMAML's lambda).
        chunk: episodes at once under vmap; by default a fast number, at most 50.
        device: device of inner training; by default the rule's.
        progress: show a progress bar.

    Raises:
        ValueError: a number out of range, or names that the task does not have.

    Examples:
        >>> task = Sine(shots=10, queries=100)
        >>> scores = evaluate(create_rule("sgd"), {}, task, steps=(0, 10), episodes=100, lr=0.01)
        >>> scores.mean(10)
    """
    wanted = tuple(sorted(set(steps)))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"steps must be numbers of at least 0, got {list(steps)}")
    if episodes < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"episodes and chunk must be at least 1, got {episodes} and {chunk}")
    device = rule.device if device is None else device
    if chunk is None:
        chunk = choose_chunk(rule, task.sample(generator(seed), device), MAX_CHUNK, device)
    initial = {key: value.detach().to(device) for key, value in initialization.items()}
    loop = InnerLoop(
        rule,
        task.loss,
        vectorize=True,
        lr=lr,
        differentiable=False,
        total_steps=max(wanted[-1], 1) if total_steps is None else total_steps,
    )
    values, diverged = [], 0
    bar = progress_bar(episodes, "episode", show=progress)
    # Losses may draw from torch's global generator: restore it afterwards.
    with bar, own_randomness(device):
        for first in range(0, episodes, chunk):
            indices = range(first, min(first + chunk, episodes))
            torch.manual_seed(seed + first)
            scores, alive = _evaluate_chunk(
                loop, task, initial, wanted, proximal, seed, indices, device
            )
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

    Arguments are those of `evaluate`.

    Returns:
        The episode, and all parameters by name after each number of inner steps in `steps`.
    """
    problem = task.sample(generator(seed), rule.device)
    initial = {key: value.detach().to(rule.device) for key, value in initialization.items()}
    _check_names(problem, initial)
    dtype = dtype_of(initial)
    fixed = cast({key: initial.get(key, value) for key, value in problem.fixed.items()}, dtype)
    loop = InnerLoop(
        rule,
        _with_fixed(problem.loss, fixed),
        vectorize=True,
        lr=lr,
        differentiable=False,
        total_steps=max(max(steps), 1) if total_steps is None else total_steps,
    )
    loop, inner = _begin(loop, [_starting_at(problem, initial)], proximal)
    source = generator(seed, "batches")
    found = {}
    for step in range(max(steps) + 1):
        if step:
            inner, _ = loop.step(inner, cast(stack([problem.draw(source)]), dtype))
        if step in steps:
            found[step] = {**fixed, **{k: v[0].detach() for k, v in inner.parameters.items()}}
    return problem, found


def _evaluate_chunk(
    loop: InnerLoop,
    task: EpisodeTask | EmbeddingEpisodes,
    initial: Tensors,
    wanted: Sequence[int],
    proximal: float | None,
    seed: int,
    indices: range,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Scores `[steps, episodes]`, and the episodes that did not diverge, `[episodes]`."""
    drawn = [task.sample(generator(seed, "episode", index), device) for index in indices]
    _check_names(drawn[0], initial)
    dtype = dtype_of(initial)
    _check_shared(drawn, initial)
    # All episodes share the parameters that are not adapted.
    fixed = cast({key: initial.get(key, value) for key, value in drawn[0].fixed.items()}, dtype)
    problems = [_starting_at(problem, initial) for problem in drawn]
    loop = replace(loop, loss=_with_fixed(drawn[0].loss, fixed))
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
    task: EpisodeTask | EmbeddingEpisodes,
    loop: InnerLoop,
    fixed: Tensors,
    inner: InnerState,
    support: Batch,
    query: Batch,
) -> Tensor:
    buffers, anchors = split_anchors(inner.buffers)
    if buffers:  # Statistics of the support set at the current weights.
        loss = vmap(loop.loss, randomness="different")
        _, buffers = loss(inner.parameters, {**buffers, **anchors}, support)
        buffers, _ = split_anchors(buffers)

    everything = {**_for_each_run(fixed, inner.parameters), **inner.parameters}
    return task.scores(everything, buffers, query)


def _with_fixed(loss: Loss, fixed: Tensors) -> Loss:
    """A loss with the parameters that inner training does not adapt."""
    if not isinstance(loss, BatchedLoss):
        return _WithFixed(loss, fixed)

    def many(parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        return loss.many({**_for_each_run(fixed, parameters), **parameters}, buffers, batch)

    return BatchedLoss(_WithFixed(loss.one, fixed), many)


def _for_each_run(fixed: Tensors, parameters: Tensors) -> Tensors:
    """Fixed parameters with an axis of runs, of which there are as many as in `parameters`."""
    runs = len(next(iter(parameters.values())))
    return {key: value.expand(runs, *value.shape) for key, value in fixed.items()}


@dataclass(frozen=True)
class _WithFixed:
    loss: Loss
    fixed: Tensors

    def __call__(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        return self.loss({**self.fixed, **parameters}, buffers, batch)


def _starting_at(problem: Problem, initial: Tensors) -> Problem:
    parameters = {key: initial.get(key, value) for key, value in problem.parameters.items()}
    own = cast({"parameters": parameters, "buffers": problem.buffers}, dtype_of(initial))
    return replace(problem, **own, fixed={})


def dtype_of(initial: Tensors) -> torch.dtype | None:
    """Dtype to cast episodes to; None keeps theirs."""
    return next((value.dtype for value in initial.values()), None)


def _query(problem: Problem) -> Batch:
    if problem.draw_validation is None:
        raise ValueError("the task has no query set: its problems have no validation data")
    return problem.draw_validation(generator("query"))


def _check_names(problem: Problem, initial: Tensors) -> None:
    known = {**problem.fixed, **problem.parameters}
    for name, value in initial.items():
        if name not in known:
            raise ValueError(f"the task has no parameter {name!r}; it has {', '.join(known)}")
        if known[name].shape != value.shape:
            raise ValueError(
                f"parameter {name!r} is {list(value.shape)} in the initialisation and "
                f"{list(known[name].shape)} in the task"
            )


def _check_shared(problems: Sequence[Problem], initial: Tensors) -> None:
    for name, value in problems[0].fixed.items():
        if name not in initial and any(p.fixed[name] is not value for p in problems):
            raise ValueError(
                f'{name!r} is drawn for each episode but not adapted: learn it, or set fresh="head"'
            )

"""Verification: tells whether two images have the same class, measured by the equal error rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_train.few_shot.episodes import evaluation_task
from meta_train.few_shot.evaluation import dtype_of
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.scores import Z
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.trained import TrainedMethod
from meta_train.inner.batches import cast
from meta_train.runtime.checks import check_at_least
from meta_train.runtime.seeding import derive_seed, generator
from meta_train.tasks.base import Batch, Tensors

RESAMPLES = 200
"""How often the bootstrap draws the episodes again."""


@dataclass(frozen=True)
class Verification:
    """How well the score of two images tells whether they have the same class.

    Attributes:
        equal_error_rate: in [0, 1]; see `equal_error_rate`. One threshold serves all episodes.
        interval: half its 95% interval, by bootstrap over episodes; nan for one episode.
        same: number of pairs of one class.
        different: number of pairs of two classes.

    Examples:
        >>> f"{found.equal_error_rate:.3f} +- {found.interval:.3f}"
    """

    equal_error_rate: float
    interval: float
    same: int
    different: int


def equal_error_rate(scores: Tensor, same: Tensor) -> float:
    """The error rate at the threshold where both kinds of error are equally frequent.

    A pair is accepted if its score reaches the threshold. As the threshold falls, the fraction of
    wrongly accepted pairs rises and that of wrongly rejected ones falls. Between two neighbouring
    thresholds both are interpolated, as if a coin decided for some pairs: equal scores have no
    order.

    Args:
        scores: scores of pairs, `[pairs]`; higher for pairs of one class.
        same: whether a pair has one class, bool, `[pairs]`.

    Returns:
        In [0, 1]: 0 for scores that separate, 0.5 for chance; nan if a score is not a number.

    Raises:
        ValueError: no pair of one class, or none of two.

    Examples:
        >>> equal_error_rate(torch.tensor([0.9, 0.4, 0.6, 0.1]), torch.tensor([1, 1, 0, 0]) == 1)
        0.5
    """
    return _Ranked(scores, same, torch.zeros_like(same, dtype=torch.int64)).error_rate()


class _Ranked:
    """Pairs in the order of their scores, from the highest.

    Args:
        scores: `[pairs]`.
        same: `[pairs]`.
        episodes: number of each pair's episode, from 0, `[pairs]`.

    Raises:
        ValueError: no pair of one class, or none of two.
    """

    def __init__(self, scores: Tensor, same: Tensor, episodes: Tensor) -> None:
        if not same.any() or same.all():
            raise ValueError(
                f"an error rate needs pairs of one class and of two, got {int(same.sum())} and "
                f"{int((~same).sum())}"
            )
        self.are_numbers = not bool(scores.isnan().any())
        order = scores.argsort(descending=True)
        ranked = scores[order]
        self.same = same[order].double()
        self.episodes = episodes[order]
        # The last pair of each group of equal scores: no threshold lies within a group.
        self.ends = torch.cat([ranked[1:] != ranked[:-1], ranked.new_ones(1, dtype=torch.bool)])

    def error_rate(self, weights: Tensor | None = None) -> float:
        """The equal error rate; `weights` count each episode's pairs, `[episodes]`."""
        if not self.are_numbers:
            return math.nan
        weight = torch.ones_like(self.same) if weights is None else weights[self.episodes]
        accepted = (weight * self.same).cumsum(0)
        wrong = (weight * (1 - self.same)).cumsum(0)
        zero = accepted.new_zeros(1)
        false_accept = torch.cat([zero, (wrong / wrong[-1])[self.ends]])
        false_reject = 1 - torch.cat([zero, (accepted / accepted[-1])[self.ends]])
        gap = false_reject - false_accept  # from 1 to -1, falling
        after = int((gap <= 0).nonzero()[0])
        before = after - 1
        part = gap[before] / (gap[before] - gap[after])
        return float(false_accept[before] + part * (false_accept[after] - false_accept[before]))


def verify(
    initialization: Mapping[str, Tensor],
    task: EmbeddingEpisodes,
    *,
    episodes: int = 600,
    seed: int = 0,
    device: torch.device | None = None,
) -> Verification:
    """Verify pairs of a query and a support image of one episode.

    Equal seeds draw equal episodes, those of `meta_train.few_shot.evaluation.evaluate`. Images are
    normalised with their episode, as in classification. A network that gives no numbers has the
    rate nan.

    Args:
        initialization: parameters by name; others start as the task makes them.
        task: episodes, with a head that has a score of two images.
        episodes: number of episodes.
        seed: seed of episodes and of the bootstrap.
        device: device of the network; by default the CPU.

    Raises:
        ValueError: a number out of range, or a head that does not compare pairs of images.

    Examples:
        >>> episodes = OmniglotEpisodes(ways=5, shots=1, queries=15, split="test")
        >>> verify(learned.parameters, EmbeddingEpisodes(episodes, "siamese")).equal_error_rate
    """
    check_at_least(1, episodes=episodes)
    device = torch.device("cpu") if device is None else device
    scores, same = [], []
    with torch.no_grad():
        for index in range(episodes):
            source = generator(seed, "episode", index)
            parameters, buffers, batch = draw_at(initialization, task, source, device)
            scores.append(task.score_pairs(parameters, buffers, batch).flatten().cpu())
            episode = task.episode_of(batch)
            alike = episode.query_y.unsqueeze(1) == episode.support_y.unsqueeze(0)
            same.append(alike.flatten().cpu())
    numbers = torch.arange(episodes).repeat_interleave(torch.tensor([len(one) for one in same]))
    ranked = _Ranked(torch.cat(scores), torch.cat(same), numbers)
    count = int(torch.cat(same).sum())
    return Verification(
        ranked.error_rate(), _interval(ranked, episodes, seed), count, len(numbers) - count
    )


def draw_at(
    initialization: Mapping[str, Tensor],
    task: EmbeddingEpisodes,
    source: torch.Generator,
    device: torch.device,
) -> tuple[Tensors, Tensors, Batch]:
    """Draw an episode for a network with an initialisation, in its dtype.

    Args:
        initialization: parameters by name; others start as the task makes them.
        task: the episodes.
        source: the source of randomness.
        device: device of the tensors.

    Returns:
        The parameters, the buffers and the episode.
    """
    problem = task.sample(source, device)
    initial = {key: value.detach().to(device) for key, value in initialization.items()}
    drawn = {**problem.parameters, **initial}, problem.buffers, tuple(problem.full())
    parameters, buffers, batch = cast(drawn, dtype_of(initial))
    return parameters, buffers, batch


def verify_trained(
    trained: TrainedMethod, config: FewShotConfig, device: torch.device
) -> Verification | None:
    """Verify pairs of images with a trained method, on its test episodes.

    Args:
        trained: the method.
        config: the job.
        device: device of the network.

    Returns:
        None for a method that has no score of two images.
    """
    task = evaluation_task(trained.method, config)
    if not isinstance(task, EmbeddingEpisodes) or not task.verifies:
        return None
    seed = derive_seed(config.seed, "test")
    return verify(trained.initialization, task, episodes=config.episodes, seed=seed, device=device)


def _interval(ranked: _Ranked, episodes: int, seed: int) -> float:
    """1.96 standard deviations of the rate when episodes are drawn again with replacement."""
    if episodes < 2:
        return math.nan
    source = generator(seed, "bootstrap")
    rates = []
    for _ in range(RESAMPLES):
        drawn = torch.randint(episodes, (episodes,), generator=source)
        rates.append(ranked.error_rate(torch.bincount(drawn, minlength=episodes).double()))
    return Z * float(torch.tensor(rates, dtype=torch.float64).std())

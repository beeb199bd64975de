"""Evaluates networks that read the training set: accuracy by instance of a class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meta_train.few_shot.readers.episodes import SequenceEpisodes
from meta_train.few_shot.scores import Evaluation
from meta_train.runtime.checks import check_at_least
from meta_train.runtime.progress import progress_bar
from meta_train.runtime.seeding import generator

CHUNK = 50
"""Sequences at once."""


def evaluate_by_instance(
    task: SequenceEpisodes,
    parameters: Mapping[str, Tensor],
    *,
    episodes: int = 600,
    seed: int = 0,
    device: torch.device | None = None,
    progress: bool = False,
) -> Evaluation:
    """Classify sequences, and average by whether an image is the 1st, 2nd, ... of its class.

    The accuracy at the first image is chance for a network that cannot do better than guess, and
    above it for one that knows which classes it has not seen yet.

    Args:
        task: sequences, such as those of the test split.
        parameters: the network's, by name.
        episodes: number of sequences. Equal seeds draw equal ones.
        seed: seed of the sequences.
        device: device of the network; None for the CPU.
        progress: show a progress bar.

    Returns:
        Accuracies by instance, from 1, of each sequence: means over its classes.

    Raises:
        ValueError: `episodes` is below 1.
    """
    check_at_least(1, episodes=episodes)
    device = device or torch.device("cpu")
    placed = {key: value.detach().to(device) for key, value in parameters.items()}
    dtype = next(iter(placed.values())).dtype
    found = []
    with progress_bar(episodes, "sequence", show=progress) as bar, torch.no_grad():
        for first in range(0, episodes, CHUNK):
            indices = range(first, min(first + CHUNK, episodes))
            drawn = [task.draw_sequence(generator(seed, "episode", k), device) for k in indices]
            images, labels = (torch.stack(part) for part in zip(*drawn, strict=True))
            right = task.predict(placed, images.to(dtype), labels).argmax(-1) == labels
            found.append(by_instance(right, labels, task.instances).cpu())
            bar.update(len(indices))
    instances = tuple(range(1, task.instances + 1))
    return Evaluation(task.metric, instances, torch.cat(found, 1), 0, counts="instance")


def by_instance(right: Tensor, labels: Tensor, instances: int) -> Tensor:
    """Fraction of right answers by instance, `[instances, sequences]`.

    Args:
        right: whether each answer is right, `[sequences, T]`.
        labels: classes `[sequences, T]`; each class of a sequence has `instances` images.
        instances: images per class.
    """
    known = torch.nn.functional.one_hot(labels)
    number = (known.cumsum(1) * known).sum(-1)  # 1 for the first image of a class
    rows = [
        right.masked_fill(number != k, False).sum(1) / (number == k).sum(1)
        for k in range(1, instances + 1)
    ]
    return torch.stack(rows)

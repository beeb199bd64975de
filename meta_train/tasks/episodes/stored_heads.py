"""Episodes from a fixed set of few-shot tasks, each with its own head that is kept and reused."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from meta_train.runtime.checks import check_at_least
from meta_train.runtime.seeding import generator as seeded_generator
from meta_train.tasks.base import Batch, Problem, SampledTask, Task, Tensors
from meta_train.tasks.episodes.base import HEAD, EpisodeTask

STORED = "stored."


class StoredHeads(Task):
    """A fixed set of few-shot tasks that recur. Each keeps its own learned head.

    The heads are tensors `[tasks, *head]` in `Problem.fixed`. A learned initialisation that
    contains them learns them together with the body. An inner run adapts the difference from the
    stored head, which starts at zero; with SGD this equals training the stored head, because the
    gradients are the same.

    With `reuse=False` each episode draws a new head, as for a task that was never seen. Validation
    uses this.

    Args:
        episodes: draws the episodes; needs fresh="nothing" and adapted="all".
        tasks: number of different few-shot tasks.
        reuse: start from the stored head.

    Raises:
        ValueError: `tasks` is below 1, or `episodes` has other settings.
    """

    def __init__(self, episodes: EpisodeTask, tasks: int, *, reuse: bool = True) -> None:
        check_at_least(1, tasks=tasks)
        if episodes.fresh != "nothing" or episodes.adapted != "all":
            raise ValueError(
                'stored heads need episodes with fresh="nothing" and adapted="all", got '
                f"{episodes.fresh!r} and {episodes.adapted!r}"
            )
        self.episodes = episodes
        self.tasks = tasks
        self.reuse = reuse

    @cached_property
    def _stored(self) -> Tensors:
        """Initial values of the stored heads, drawn separately for each task."""
        drawn = [
            self.episodes.draw_parameters(seeded_generator("head", task), head_only=True)
            for task in range(self.tasks)
        ]
        return {STORED + key: torch.stack([head[key] for head in drawn]) for key in drawn[0]}

    def template(self, device: torch.device | None = None, seed: int = 0) -> Tensors:
        """Initial values of the body, of the stored heads, and of the difference from them (zero).

        The tasks and their initial heads do not depend on the seed.

        Args:
            device: the device of the tensors; None for the CPU.
            seed: random seed of the body.
        """
        plain = self.episodes.template(device, seed)
        zeros = {k: torch.zeros_like(v) for k, v in plain.items() if k.startswith(HEAD)}
        stored = {key: value.to(device or "cpu") for key, value in self._stored.items()}
        return {**plain, **zeros, **stored}

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a few-shot task and its examples."""
        task = int(torch.randint(self.tasks, (), generator=generator))
        identity = seeded_generator("task", task) if self.reuse else None
        support, query = self.episodes.draw_episode(generator, device, identity)
        parameters = self.template(device)
        fixed = {key: parameters.pop(key) for key in self._stored}
        if not self.reuse:
            fresh = self.episodes.draw_parameters(generator, head_only=True)
            parameters.update({key: value.to(device) for key, value in fresh.items()})
        number = torch.tensor(task, device=device)
        draw = self.episodes.drawer(support)
        return Problem(
            parameters=parameters,
            buffers=self.episodes.buffers(device),
            loss=self.loss,
            draw=lambda batches: (*draw(batches), number),
            full=lambda: (*support, number),
            draw_validation=lambda _: (*query, number),
            fixed=fixed,
        )

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss on a batch `(inputs, targets, task number)`, and the new buffers."""
        inputs, targets, task = batch
        own = {key: value for key, value in parameters.items() if not key.startswith(STORED)}
        if self.reuse:
            for key in self._stored:
                name = key.removeprefix(STORED)
                own[name] = own[name] + parameters[key][task]
        return self.episodes.loss(own, buffers, (inputs, targets))

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """See `Task`."""
        return self.episodes.sample_task(generator)._replace(task=self)

    def validation(self) -> StoredHeads:
        """Unseen few-shot tasks with new heads."""
        other = self.episodes.validation()
        assert isinstance(other, EpisodeTask)
        return StoredHeads(other, self.tasks, reuse=False)

    def held_out(self) -> dict[str, Task]:
        """Unseen few-shot tasks with new heads."""
        return {"same family": self.validation()}

"""Episodes out of a fixed number of tasks, each of which has a head of its own that is kept."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from meta_train.runtime.seeding import generator as seeded_generator
from meta_train.tasks.base import Batch, Problem, SampledTask, Task, Tensors
from meta_train.tasks.episodes.base import HEAD, EpisodeTask

STORED = "stored."


class StoredHeads(Task):
    """A task comes again and again, and its head starts from where meta-learning has brought it.

    The heads are tensors `[tasks, *head]` that problems are given as `Problem.fixed`: a learned
    initialisation that has them learns them with the body, and what an inner run adapts is the
    difference from the stored head, which starts at zero. A gradient is the same for both, so with
    SGD this is training the head from where it is stored.

    Without `reuse` every head is fresh, as it is for tasks that never came before: this is what
    validation draws.

    Args:
        episodes: a task as it is otherwise; its `fresh` must be "nothing".
        tasks: how many different ones there are to come again.
        reuse: start from the stored head.

    Raises:
        ValueError: fewer tasks than one, or episodes of other parameters.
    """

    def __init__(self, episodes: EpisodeTask, tasks: int, *, reuse: bool = True) -> None:
        if tasks < 1:
            raise ValueError(f"tasks must be at least 1, got {tasks}")
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
        """Where stored heads start: as drawn for each task alone."""
        drawn = [
            self.episodes.draw_parameters(seeded_generator("head", task), head_only=True)
            for task in range(self.tasks)
        ]
        return {STORED + key: torch.stack([head[key] for head in drawn]) for key in drawn[0]}

    def template(self, device: torch.device | None = None, seed: int = 0) -> Tensors:
        """Initial values of the body, of all stored heads, and of what is adapted of a head.

        The tasks and their first heads are the same for all seeds.
        """
        plain = self.episodes.template(device, seed)
        zeros = {k: torch.zeros_like(v) for k, v in plain.items() if k.startswith(HEAD)}
        stored = {key: value.to(device or "cpu") for key, value in self._stored.items()}
        return {**plain, **zeros, **stored}

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a task, and examples of it."""
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
        """The loss on `(inputs, targets, number of the task)`, and the buffers afterwards."""
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
        """Other tasks, none of which has come before."""
        other = self.episodes.validation()
        assert isinstance(other, EpisodeTask)
        return StoredHeads(other, self.tasks, reuse=False)

    def held_out(self) -> dict[str, Task]:
        """Other tasks, none of which has come before."""
        return {"same family": self.validation()}

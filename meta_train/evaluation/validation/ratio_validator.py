"""Validation beside a reference rule: the mean log ratio of final losses on fixed tasks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from learned_opt.checks.arguments import check_type
from learned_opt.checks.setting_types import fitted
from learned_opt.monitoring.figures import import_matplotlib
from learned_opt.rules import UpdateRule
from learned_opt.rules.rule_argument import check_rule
from learned_opt.weights import rule_digest
from meta_train.evaluation.curves import train_curves
from meta_train.evaluation.validation.validator import Validator
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.tasks.base import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIP = 0.7
"""Bound on a log ratio, so that a loss that falls to nothing decides no more than a factor of 2."""
SMALLEST = 1e-12
"""Lower limit of a loss before its logarithm is taken."""


class RatioValidator(Validator):
    """Mean over tasks of the log ratio of the final loss to a reference rule's.

    Both train the same problems on the same batches, at their own learning rates. The loss is that
    on all data, at the average for a rule that keeps one. Below 0 is better than the reference.

    Examples:
        >>> tasks = create_task("varied").held_out()
        >>> validator = RatioValidator(tasks, create_rule("adam"), steps=300, seeds=range(3))
        >>> trainer = MetaTrainer(rule, family, settings, validate=validator)

    Args:
        tasks: the tasks by name; neither trained on nor reported.
        reference: the rule to compare with.
        steps: inner steps.
        seeds: one problem of each task for every seed.
        device: device of training.

    Attributes:
        ratios: the mean over seeds of each task's log ratio, clipped to +-0.7, by name; empty
            before the first validation.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        reference: UpdateRule,
        *,
        steps: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        check_type("tasks", tasks, Mapping, "tasks by name")
        for name, task in tasks.items():
            check_type(f"tasks[{name!r}]", task, Task, "a Task")
        check_rule(reference)
        seeds = fitted("seeds", seeds, Sequence[int])
        steps = fitted("steps", steps, int)
        if not tasks or not seeds or steps < 1:
            raise ValueError(
                f"a validation needs tasks, seeds and steps, got {len(tasks)}, {len(seeds)} and "
                f"{steps}"
            )
        self.tasks = dict(tasks)
        self.reference = reference
        self.steps = steps
        self.seeds = list(seeds)
        self.device = device
        self.ratios: dict[str, float] = {}
        self._reference_logs: dict[str, torch.Tensor] = {}

    def __call__(self, meta_parameters: MetaParameters) -> float:
        """See `mean_log_ratio`."""
        return self.mean_log_ratio(copy.deepcopy(meta_parameters.rule))

    def mean_log_ratio(self, rule: UpdateRule) -> float:
        """Train all problems; the reference trains them at the first call only.

        Returns:
            The mean over tasks of the mean over seeds. A run that diverged counts as the bound.
        """
        for name in self.tasks:
            if name not in self._reference_logs:
                self._reference_logs[name] = self._final_logs(self.reference, name)
        for name, reference in self._reference_logs.items():
            difference = (self._final_logs(rule, name) - reference).nan_to_num(CLIP)
            self.ratios[name] = float(difference.clamp(-CLIP, CLIP).mean())
        return sum(self.ratios.values()) / len(self.ratios)

    def _final_logs(self, rule: UpdateRule, name: str) -> torch.Tensor:
        """Log losses on all data after the last step, `[seeds]`; infinite after divergence."""
        curves = train_curves(
            rule,
            self.tasks[name],
            seeds=self.seeds,
            steps=self.steps,
            check_every=self.steps,
            device=self.device,
        )
        return curves.final_losses(self.steps)[0].clamp_min(SMALLEST).log()

    def describe(self) -> dict[str, Any]:
        """The names of tasks and reference, the seeds and the number of steps."""
        learned = bool(list(self.reference.parameters()))
        weights = [rule_digest(self.reference)] if learned else []
        return {
            "steps": self.steps,
            "seeds": self.seeds,
            "tasks": list(self.tasks),
            "reference": [type(self.reference).__name__, self.reference.settings, *weights],
        }

    def figure(self) -> Figure:
        """The log ratio of each task, the worst on top."""
        import_matplotlib()
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 0.8 + 0.22 * len(self.ratios)), layout="constrained")
        axis = figure.subplots()
        ordered = sorted(self.ratios.items(), key=lambda item: item[1])
        axis.barh([name for name, _ in ordered], [value for _, value in ordered])
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_xlabel("log ratio of the final loss to the reference's")
        return figure

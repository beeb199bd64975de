"""The table of networks that read the training set: accuracy by instance of a class."""

from __future__ import annotations

from collections.abc import Mapping

from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.trained import TrainedMethod

SHOWN = (1, 2, 5, 10)
"""Instances in the table, where sequences have them; a file holds all."""
PUBLISHED = "  published"


def render_by_instance(methods: Mapping[str, tuple[TrainedMethod, Evaluation]], title: str) -> str:
    """A table of at most 80 characters per line: a row per method, then its paper's figures.

    Args:
        methods: methods and their evaluations by name.
        title: describes the data and the number of classes.
    """
    evaluations = [evaluation for _, evaluation in methods.values()]
    last = max(evaluation.steps[-1] for evaluation in evaluations)
    columns = list(dict.fromkeys(k for k in (*SHOWN, last) if k <= last))
    names = min(27, 80 - 12 * len(columns))
    lines = ["", f"{title}, sequences of {last} images per class"]
    lines.append(f"{'accuracy at image':<{names}}" + "".join(f"{_ordinal(k):>12}" for k in columns))
    for name, (trained, evaluation) in methods.items():
        cells = [_cell(evaluation, k) for k in columns]
        lines.append(f"{name:<{names}}" + "".join(f"{cell:>12}" for cell in cells))
        figures = trained.facts["published_by_instance"]
        if figures is not None:
            texts = [f"{figures[k]:.1f}" if k in figures else "-" for k in columns]
            lines.append(f"{PUBLISHED:<{names}}" + "".join(f"{text:>12}" for text in texts))
    count = evaluations[0].episodes
    lines.append(f"in percent, mean and 95% interval over {count} sequences")
    return "\n".join(lines)


def _cell(evaluation: Evaluation, instance: int) -> str:
    if instance not in evaluation.steps:
        return "-"
    mean, interval = evaluation.mean(instance), evaluation.interval(instance)
    text = f"{100 * mean:.1f}"
    return text if evaluation.episodes < 2 else f"{text}+-{100 * interval:.1f}"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"

"""A finished comparison in TensorBoard: curves, picture, texts, and figures that compare runs.

Needs tensorboard; import it where it is used.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from learned_opt.monitoring.custom_scalars import Lines, write_layout
from learned_opt.monitoring.event_writer import Disk, EventWriter, replace_run
from learned_opt.monitoring.figures import log_figure
from learned_opt.monitoring.summaries import Summaries
from meta_train.evaluation.comparison.compare import ComparedOptimizer, best_baseline
from meta_train.evaluation.comparison.report import FLOOR, curves_figure, smooth_curve
from meta_train.evaluation.comparison.trainings import ComparisonTask

RUN = "comparison"
"""Name of the run in TensorBoard; `comparison/<optimizer>` are the curves."""

CURVES = "comparison_log10"
"""Group of the tags of curves."""

POINTS = 100
"""Most points of a curve."""


def write_comparison(
    folder: Path,
    table: Mapping[str, Sequence[ComparedOptimizer]],
    tasks: Sequence[ComparisonTask],
    *,
    texts: Mapping[str, str],
    settings: Mapping[str, Any],
) -> None:
    """Write a comparison in place of an earlier one; a full disk is a warning.

    Curves, `comparison_log10/<title of task>`, are means over seeds of log10 of the training loss
    over inner steps, in a run for each optimizer. Each task has a picture, too: in a common one
    TensorBoard would show letters too small to read. The page "HParams" lists the settings and, for
    each task, the learned optimizer's final loss over the best baseline's, `final/<title>`, and
    likewise `mean/<title>`.

    Args:
        folder: folder of the events of the run.
        table: see `compare`.
        tasks: the tasks to show.
        texts: Markdown by title.
        settings: of the run; nested ones get names with dots.
    """
    disk = Disk(folder)
    writer = replace_run(folder / RUN, disk)
    if writer is None:
        return
    for place, result in enumerate(table[tasks[0].name]):
        name = f"{result.label}, tuned" if place else result.label
        curves = replace_run(folder / RUN / quote(name, safe=" ,+"), disk)
        if curves is None:
            return
        for task in tasks:
            _write_curve(curves, f"{CURVES}/{task.title}", table[task.name][place].curve)
    charts = [Lines(task.title, (f"^{CURVES}/{re.escape(task.title)}$",)) for task in tasks]
    title = "Learned against tuned optimizers on held-out tasks: log10 of the training loss"
    write_layout(writer, {title: charts}, 0)
    for task in tasks:
        draw = functools.partial(curves_figure, table, [task], dpi=200)
        log_figure(writer, f"comparison_pictures/{task.title}", draw, 0)
    for title, text in texts.items():
        writer.add_text(title, text, 0)
    _write_final_figures(writer, table, tasks, settings)
    writer.close()


def _write_curve(writer: EventWriter, tag: str, losses: Tensor) -> None:
    """Write the mean over seeds of the logarithm of losses, `[seeds, steps]`, until divergence."""
    steps = losses.shape[1]
    every = max(1, steps // POINTS)
    curve = smooth_curve(losses, max(1, steps // 50)).clamp_min(FLOOR).log10().mean(0)
    for step in range(every, steps + 1, every):
        values = Summaries()
        values.scalar(tag, float(curve[step - 1]))
        values.write(writer, step)


def _write_final_figures(
    writer: EventWriter,
    table: Mapping[str, Sequence[ComparedOptimizer]],
    tasks: Sequence[ComparisonTask],
    settings: Mapping[str, Any],
) -> None:
    figures: dict[str, float] = {}
    kinds: dict[str, Callable[[ComparedOptimizer], tuple[float, float]]] = {
        "final": lambda result: result.final_loss,
        "mean": lambda result: result.mean_loss,
    }
    for task in tasks:
        results = table[task.name]
        for figure, of in kinds.items():
            best = of(best_baseline(results, of))[0]
            figures[f"{figure}/{task.title}"] = max(of(results[0])[0], FLOOR) / max(best, FLOOR)
    write_figures(writer, settings, figures)


def write_figures(
    writer: EventWriter, settings: Mapping[str, Any], figures: Mapping[str, float]
) -> None:
    """Write final figures and the settings that led to them, for the page "HParams".

    Args:
        writer: of a run that has none yet.
        settings: nested ones get names with dots; None is left out.
        figures: numbers by name.
    """
    for summary in hparams(dict(_flat(settings)), dict(figures)):
        writer._get_file_writer().add_summary(summary, 0)
    values = Summaries()
    for tag, value in figures.items():
        values.scalar(tag, value)
    values.write(writer, 0)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str | float | bool]]:
    """Settings as pairs of a name with dots and a value; what is no number or text as JSON."""
    pairs: list[tuple[str, str | float | bool]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float, str)):
            pairs.append((prefix + key, value))
        elif value is not None:
            pairs.append((prefix + key, json.dumps(value)))
    return pairs

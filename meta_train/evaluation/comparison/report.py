"""A comparison as Markdown tables, as JSON, and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from learned_opt.files import expand, write_atomically
from learned_opt.monitoring.figures import import_matplotlib, save_figure
from meta_train.evaluation.comparison.compare import ComparedOptimizer, best_baseline
from meta_train.evaluation.comparison.trainings import ComparisonTask
from meta_train.evaluation.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#d1495b", "#2e4057", "#66a182", "#edae49", "#7d83b5")
FLOOR = 2e-7
"""Smallest loss that is shown: a smaller float32 cross entropy is mostly rounding."""
STYLES = ("-", "--", "-.", ":", (0, (1, 1)))


def render_table(
    table: Mapping[str, Sequence[ComparedOptimizer]], tasks: Sequence[ComparisonTask]
) -> str:
    """Markdown tables, one per task, and what their columns mean.

    Args:
        table: see `compare`.
        tasks: the tasks to show.
    """
    parts = [_render_task(task, table[task.name]) for task in tasks]
    notes = [
        "Losses: mean ± standard deviation over seeds.",
        "mean loss: over all steps, on batches; final loss: at the end, on all data.",
        "best lr: each baseline's learning rates of its best mean and best final loss,",
        "chosen on these same problems.",
        "steps: how many a baseline needs for the learned optimizer's final loss.",
    ]
    return "\n".join(["", *parts, *notes])


def _render_task(task: ComparisonTask, results: Sequence[ComparedOptimizer]) -> str:
    learned, *baselines = results
    rows = [
        [
            result.label,
            _mean_and_std(result.mean_loss, 3),
            _mean_and_std(result.final_loss, 2),
            "not tuned" if result is learned else _best_lr(result),
            _steps(result, task),
        ]
        for result in results
    ]
    mean = best_baseline(results, lambda result: result.mean_loss)
    final = best_baseline(results, lambda result: result.final_loss)
    lines = [
        f"{task.title}: {task.steps} steps, {len(learned.curve)} seeds",
        "",
        markdown_table(["optimizer", "mean loss", "final loss", "best lr", "steps"], rows),
        "",
        f"learned / best: mean {_ratio(learned.mean_loss, mean.mean_loss)} ({mean.label}), "
        f"final {_ratio(learned.final_loss, final.final_loss)} ({final.label})",
    ]
    for result in baselines:
        if result.label == "Adam" and not mean is final is result:
            lines.append(
                f"learned / Adam: mean {_ratio(learned.mean_loss, result.mean_loss)}, "
                f"final {_ratio(learned.final_loss, result.final_loss)}"
            )
    if any(result.at_edge for result in results):
        lines.append("* at the edge of the grid of learning rates: a wider grid may do better")
    return "\n".join([*lines, ""])


def _mean_and_std(figure: tuple[float, float], digits: int) -> str:
    mean, std = figure
    if not math.isfinite(mean):
        return "diverged"
    return f"< {FLOOR:g}" if mean < FLOOR else f"{mean:.{digits}g} ± {std:.1g}"


def _best_lr(result: ComparedOptimizer) -> str:
    mark = "*" if result.at_edge else ""
    return f"{result.mean_loss_lr:.2g} {result.final_loss_lr:.2g}{mark}"


def _steps(result: ComparedOptimizer, task: ComparisonTask) -> str:
    if math.isnan(result.steps_to_reach):
        return str(task.steps)
    if math.isinf(result.steps_to_reach):
        return f"> {max(task.steps, task.patience)}"
    return f"{result.steps_to_reach:.0f}"


def _ratio(ours: tuple[float, float], theirs: tuple[float, float]) -> str:
    # A baseline may end at a loss of 0.
    ratio = max(ours[0], FLOOR) / max(theirs[0], FLOOR)
    return f"{ratio:.2g}" if math.isfinite(ours[0]) else "diverged"


def as_json(
    table: Mapping[str, Sequence[ComparedOptimizer]], tasks: Sequence[ComparisonTask]
) -> dict[str, Any]:
    """The comparison as JSON-able data by task name; None for infinite and missing values."""
    found: dict[str, Any] = {}
    for task in tasks:
        results = table[task.name]
        found[task.name] = {
            "title": task.title,
            "steps": task.steps,
            "seeds": len(results[0].curve),
            "rows": [
                {
                    "optimizer": result.label,
                    "mean_loss": _finite(result.mean_loss[0]),
                    "mean_loss_std": _finite(result.mean_loss[1]),
                    "mean_loss_rate": result.mean_loss_lr,
                    "final_loss": _finite(result.final_loss[0]),
                    "final_loss_std": _finite(result.final_loss[1]),
                    "final_loss_rate": result.final_loss_lr,
                    "best_at_edge_of_grid": result.at_edge,
                    "steps_to_reach_learned": _finite(result.steps_to_reach),
                    "diverged_runs": result.diverged,
                }
                for result in results
            ],
        }
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_table(path: Path, data: Mapping[str, Any]) -> None:
    """Write the table as JSON."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def draw_curves(
    path: str | PathLike[str],
    table: Mapping[str, Sequence[ComparedOptimizer]],
    tasks: Sequence[ComparisonTask],
    *,
    names: Mapping[str, str] | None = None,
    across: int = 2,
    panel: tuple[float, float] = (4.6, 3.5),
    evaluated: bool = False,
) -> None:
    """Draw the loss against inner steps, one panel per task; a failure to draw is a warning.

    A line is the geometric mean over seeds, the band around it their 10% and 90% quantiles.

    Args:
        path: path of the PNG.
        table: see `compare`.
        tasks: the tasks to draw.
        names: names of optimizers in the legend, by label; by default every baseline is "tuned".
        across: panels side by side.
        panel: width and height of a panel, in inches.
        evaluated: draw the loss on all data, at the weights that are to be evaluated, in place of
            the training loss of each step.

    Raises:
        TypeError: not a path.
        OSError: the file cannot be written.
    """
    save_figure(
        expand(path),
        lambda: curves_figure(table, tasks, names, across, panel, evaluated=evaluated),
        dpi=130,
    )


def curves_figure(
    table: Mapping[str, Sequence[ComparedOptimizer]],
    tasks: Sequence[ComparisonTask],
    names: Mapping[str, str] | None = None,
    across: int = 2,
    panel: tuple[float, float] = (4.6, 3.5),
    *,
    evaluated: bool = False,
    dpi: int = 100,
) -> Figure:
    """See `draw_curves`."""
    import_matplotlib()
    from matplotlib.figure import Figure

    from meta_train.evaluation.loss_axis import show_losses

    names = {"learned": "learned"} if names is None else names
    width = min(across, len(tasks))
    height = -(-len(tasks) // width)
    size = panel[0] * width, panel[1] * height
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    axes = figure.subplots(height, width, squeeze=False)
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for k, (axis, task) in enumerate(zip(axes.flat, tasks, strict=False)):
        for result, color, style in zip(table[task.name], COLORS, STYLES, strict=False):
            if evaluated:
                curve, steps = result.full_curve.clamp_min(FLOOR), result.checked.tolist()
            else:
                curve = smooth_curve(result.curve, max(1, task.steps // 50)).clamp_min(FLOOR)
                steps = list(range(1, curve.shape[1] + 1))
            middle = curve.log().mean(0).exp()
            low, high = curve.quantile(0.1, dim=0), curve.quantile(0.9, dim=0)
            thickness = 2.4 if result is table[task.name][0] else 1.4
            label = names.get(result.label, f"{result.label}, tuned")
            axis.plot(steps, middle, color=color, linestyle=style, linewidth=thickness, label=label)
            axis.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        show_losses(axis, floor=FLOOR)
        axis.set_title(task.title, fontsize=11)
        axis.grid(True, which="major", alpha=0.3)
        if k % width == 0:
            axis.set_ylabel("loss on all data" if evaluated else "training loss")
        if k + width >= len(tasks):
            axis.set_xlabel("inner step")
    handles, labels = axes[0][0].get_legend_handles_labels()
    columns = 5 if width > 1 else 2
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9
    )
    return figure


def smooth_curve(curve: torch.Tensor, width: int) -> torch.Tensor:
    """The mean over the last `width` steps (fewer at the start), `[seeds, steps]`."""
    if width == 1:
        return curve
    total = curve.double().cumsum(-1)
    shifted = torch.nn.functional.pad(total, (width, 0))[..., :-width]
    count = torch.arange(1, curve.shape[-1] + 1).clamp_max(width)
    return (total - shifted) / count

"""A comparison as a table to read, as JSON, and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from learned_opt.files import write_atomically
from meta_train.evaluation.compare import Column, Row, best

COLORS = ("#d1495b", "#2e4057", "#66a182", "#edae49", "#7d83b5")
FLOOR = 2e-7
"""Below it a float32 cross entropy is mostly rounding, and is not drawn."""
STYLES = ("-", "--", "-.", ":", (0, (1, 1)))


def render_table(table: Mapping[str, Sequence[Row]], columns: Sequence[Column]) -> str:
    """A table of at most 80 characters' width."""
    lines = []
    for column in columns:
        rows = table[column.name]
        seeds = len(rows[0].curve)
        lines += [
            "",
            f"{column.title}: {column.steps} steps, {seeds} seeds",
            f"  {'optimizer':<15} {'mean loss':>15} {'final loss':>17} {'rates':>13} {'steps':>9}",
        ]
        for row in rows:
            lines.append(
                f"  {row.label:<15} {_spread(row.mean_loss, 3):>15} "
                f"{_spread(row.final_loss, 2):>17} {_rates(row, rows[0]):>13} "
                f"{_steps(row, column):>9}"
            )
        mean = best(rows, lambda row: row.mean_loss)
        final = best(rows, lambda row: row.final_loss)
        lines.append(
            f"  learned / best: mean {_ratio(rows[0].mean_loss, mean.mean_loss)} ({mean.label}), "
            f"final {_ratio(rows[0].final_loss, final.final_loss)} ({final.label})"
        )
        for row in rows[1:]:
            if row.label == "Adam" and not mean is final is row:
                lines.append(
                    f"  learned / Adam: mean {_ratio(rows[0].mean_loss, row.mean_loss)}, "
                    f"final {_ratio(rows[0].final_loss, row.final_loss)}"
                )
        if any(row.at_edge for row in rows):
            lines.append("  * best at the edge of its grid of rates: could do better still")
    lines += [
        "",
        "mean loss: over the steps, on batches; final loss: at the end, on all data.",
        "rates: each baseline's best for mean and final loss, chosen on these very tasks.",
        "steps: what a baseline needs to reach the learned one's final loss.",
    ]
    return "\n".join(lines)


def _spread(figure: tuple[float, float], digits: int) -> str:
    mean, spread = figure
    if not math.isfinite(mean):
        return "diverged"
    return f"< {FLOOR:g}" if mean < FLOOR else f"{mean:.{digits}g} +-{spread:.1g}"


def _rates(row: Row, learned: Row) -> str:
    if row is learned:
        return "none tuned"
    mark = "*" if row.at_edge else ""
    return f"{row.mean_rate:.2g} {row.final_rate:.2g}{mark}"


def _steps(row: Row, column: Column) -> str:
    if math.isnan(row.steps_to_reach):
        return str(column.steps)
    if math.isinf(row.steps_to_reach):
        return f"> {max(column.steps, column.patience)}"
    return f"{row.steps_to_reach:.0f}"


def _ratio(ours: tuple[float, float], theirs: tuple[float, float]) -> str:
    # Neither below the smallest that is shown: a baseline may well end at 0.
    ratio = max(ours[0], FLOOR) / max(theirs[0], FLOOR)
    return f"{ratio:.2g}" if math.isfinite(ours[0]) else "diverged"


def as_json(table: Mapping[str, Sequence[Row]], columns: Sequence[Column]) -> dict[str, Any]:
    """The comparison as JSON-able data (`null` for what is infinite or does not apply)."""
    result: dict[str, Any] = {}
    for column in columns:
        rows = table[column.name]
        result[column.name] = {
            "title": column.title,
            "steps": column.steps,
            "seeds": len(rows[0].curve),
            "rows": [
                {
                    "optimizer": row.label,
                    "mean_loss": _finite(row.mean_loss[0]),
                    "mean_loss_std": _finite(row.mean_loss[1]),
                    "mean_loss_rate": row.mean_rate,
                    "final_loss": _finite(row.final_loss[0]),
                    "final_loss_std": _finite(row.final_loss[1]),
                    "final_loss_rate": row.final_rate,
                    "best_at_edge_of_grid": row.at_edge,
                    "steps_to_reach_learned": _finite(row.steps_to_reach),
                    "diverged_runs": row.diverged,
                }
                for row in rows
            ],
        }
    return result


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_table(path: Path, data: Mapping[str, Any]) -> None:
    """Write the table as JSON."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def draw_curves(
    path: Path,
    table: Mapping[str, Sequence[Row]],
    columns: Sequence[Column],
    *,
    names: Mapping[str, str] | None = None,
    across: int = 2,
    panel: tuple[float, float] = (4.6, 3.5),
) -> None:
    """Draw training loss against steps, one panel per column, with a band over seeds.

    Args:
        path: of the PNG.
        table: see `compare`.
        columns: those to draw.
        names: of optimizers in the legend, by label; all but the learned one's by default say that
            they were tuned.
        across: panels side by side.
        panel: width and height of one, in inches.
    """
    from matplotlib.figure import Figure

    from meta_train.evaluation.axes import show_losses

    names = {"learned": "learned"} if names is None else names
    width = min(across, len(columns))
    height = -(-len(columns) // width)
    figure = Figure(figsize=(panel[0] * width, panel[1] * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for k, (axis, column) in enumerate(zip(axes.flat, columns, strict=False)):
        for row, color, style in zip(table[column.name], COLORS, STYLES, strict=False):
            curve = _smooth(row.curve, max(1, column.steps // 50)).clamp_min(FLOOR)
            steps = range(1, curve.shape[1] + 1)
            middle = curve.log().mean(0).exp()
            low, high = curve.quantile(0.1, dim=0), curve.quantile(0.9, dim=0)
            thickness = 2.4 if row.label == "learned" else 1.4
            label = names.get(row.label, f"{row.label}, tuned")
            axis.plot(steps, middle, color=color, linestyle=style, linewidth=thickness, label=label)
            axis.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        show_losses(axis, floor=FLOOR)
        axis.set_title(column.title, fontsize=11)
        axis.grid(True, which="major", alpha=0.3)
        if k % width == 0:
            axis.set_ylabel("training loss")
        if k + width >= len(columns):
            axis.set_xlabel("inner step")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _smooth(curve: torch.Tensor, width: int) -> torch.Tensor:
    """A trailing mean over `width` steps (fewer at the start), `[seeds, steps]`."""
    if width == 1:
        return curve
    total = curve.double().cumsum(-1)
    shifted = torch.nn.functional.pad(total, (width, 0))[..., :-width]
    count = torch.arange(1, curve.shape[-1] + 1).clamp_max(width)
    return (total - shifted) / count

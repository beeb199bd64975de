"""One picture of a benchmark: the final loss of every optimizer beside tuned AdamW's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from learned_opt.monitoring.figures import import_matplotlib, save_figure
from meta_train.evaluation.benchmark.contestants.registry import REFERENCE
from meta_train.evaluation.benchmark.plan import Entry, Plan
from meta_train.evaluation.benchmark.records import Records
from meta_train.evaluation.benchmark.reports.scores import all_scores, reference_scores, summaries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST = 4.0
"""Largest ratio on the axis, and its inverse; beyond it a point stands at the edge."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#7f5539")
MARKS = ("s", "^", "v", "D", "P", "X", "<", ">")
OWN = "#000000"


def draw(path: Path, plan: Plan, records: Records) -> None:
    """Draw the picture; a failure to draw is a warning.

    A row is a task. A point is an optimizer's final training loss divided by that of AdamW tuned
    for the task, so what stands left of the line is better. Nothing is drawn before tuned AdamW has
    results.

    Args:
        path: path of the PNG.
        plan: what was run.
        records: the results.

    Raises:
        OSError: the file cannot be written.
    """
    if reference_scores(all_scores(plan, records)):
        save_figure(path, lambda: _picture(plan, records), dpi=130)


def shown_entries(plan: Plan, records: Records) -> list[Entry]:
    """What the picture shows: rules of this package, AdamW and Muon twice, others by default."""
    shown = []
    for entry in all_scores(plan, records):
        name = entry.contestant.name
        if entry.tuned and name == REFERENCE:
            continue
        if not entry.tuned and name != "muon" or entry.tuned and name == "muon":
            shown.append(entry)
    return shown[: len(COLORS) + 1]


def _picture(plan: Plan, records: Records) -> Figure:
    import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    scores = all_scores(plan, records)
    reference, found = reference_scores(scores), summaries(scores)
    shown = shown_entries(plan, records)
    own = [entry for entry in shown if not entry.contestant.trials]
    peers = [entry for entry in shown if entry not in own]
    first = own[0] if own else shown[0]

    def ratio(entry: Entry, task: str) -> float:
        one = scores[entry].get(task)
        if one is None:
            return math.nan
        least, base = 1e-12, reference[task].final
        if one.final == base:
            return 1.0  # also where both diverged
        return max(one.final, least) / max(base, least)

    tasks = [task for task in plan.tasks if task.name in reference]
    tasks.sort(key=lambda task: -ratio(first, task.name))
    figure = Figure(figsize=(8.6, 1.5 + 0.3 * len(tasks)), layout="constrained")
    axis = figure.subplots()
    for k, entry in enumerate([*peers, *own]):
        mine = entry in own
        color = OWN if mine else COLORS[k % len(COLORS)]
        places = [min(max(ratio(entry, t.name), 1 / WIDEST), WIDEST) for t in tasks]
        label = entry.title
        if entry in found:
            label += f"  (mean {math.exp(found[entry].log_ratio):.2f})"
        axis.scatter(
            places,
            range(len(tasks)),
            marker="o" if mine else MARKS[k % len(MARKS)],
            s=80 if mine else 26,
            color=color,
            edgecolors="white",
            linewidths=0.5,
            # Small marks lie on the large ones, so that none is hidden.
            zorder=2 if mine else 3,
            label=label,
        )
    axis.axvline(1, color="black", linewidth=1)
    axis.axvspan(1 / (WIDEST * 1.15), 1, color="#009e73", alpha=0.07)
    axis.set_xscale("log")
    axis.set_xlim(1 / (WIDEST * 1.15), WIDEST * 1.15)
    ticks = [0.25, 0.5, 0.7, 1, 1.4, 2, 4]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.set_xticklabels(["≤ 0.25", "0.5", "0.7", "1", "1.4", "2", "≥ 4"])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(tasks)), [task.title for task in tasks])
    axis.set_ylim(-0.6, len(tasks) - 0.4)
    axis.grid(True, axis="both", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("final training loss, divided by that of AdamW tuned for the task")
    axis.set_title("left of the line: better than AdamW with a tuned learning rate", fontsize=10)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure

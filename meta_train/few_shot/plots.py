"""Draws few-shot regression: curves before and after inner steps, and errors by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from learned_opt.monitoring.figures import import_matplotlib, save_figure
from meta_train.few_shot.episodes import evaluation_task
from meta_train.few_shot.evaluation import adapt_once
from meta_train.few_shot.methods.registry import KINDS
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.table import RecordedEvaluation
from meta_train.few_shot.trained import TrainedMethod
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.sine import Sine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_STEPS = (0, 1, 10)
STYLES = {0: (":", "#999999"), 1: ("--", "#66a182"), 10: ("-", "#d1495b")}
COLUMNS = 4
COLORS = ("#d1495b", "#2e4057", "#66a182", "#edae49", "#8d6cab", "#3ea6c9", "#8c5a2b")
"""Colours of error curves in one panel, easy to tell apart; dashed from the eighth curve on."""
FEW = 10
"""Most methods whose errors are drawn in one panel."""
Scores: TypeAlias = Evaluation | RecordedEvaluation
MIN_AMPLITUDE = 3.0
"""Amplitude of the curve to show, where the task has such curves: a flat one shows nothing."""


@dataclass(frozen=True)
class _Fit:
    """A target curve, its support points, and the curves of a method by inner steps."""

    x: Tensor
    target: Tensor
    points: tuple[Tensor, Tensor]
    curves: dict[int, Tensor]


def draw_sine(
    path: Path, methods: Mapping[str, tuple[TrainedMethod, Scores]], config: FewShotConfig
) -> None:
    """Draw methods that were trained on sine curves; a failure to draw is a warning.

    Args:
        path: the PNG file to write.
        methods: methods and their evaluations by name.
        config: the job.
    """
    save_figure(path, lambda: _sine_figure(methods, config), dpi=120)


def _sine_figure(
    methods: Mapping[str, tuple[TrainedMethod, Scores]], config: FewShotConfig
) -> Figure:
    import_matplotlib()
    from matplotlib.figure import Figure  # Slow to import, and only used here.

    columns = min(COLUMNS, len(methods))
    lines = math.ceil(len(methods) / columns)
    kinds = _by_kind(methods)
    rows = math.ceil(len(kinds) / 2)
    heights = [1.8 * lines + 0.4, 4.2 if rows == 1 else 2.9 * rows]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    above, below = parts
    grid = above.add_gridspec(lines, columns)
    panels: list[Any] = []
    for k, (name, (trained, _)) in enumerate(methods.items()):
        shared = {"sharex": panels[0], "sharey": panels[0]} if panels else {}
        axis = above.add_subplot(grid[k // columns, k % columns], **shared)
        panels.append(axis)
        _draw_curves(axis, name, _fit(trained, config))
        axis.tick_params(labelleft=k % columns == 0, labelbottom=k + columns >= len(methods))
    panels[0].set_ylim(-6.5, 6.5)
    handles, labels = panels[0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    _draw_errors(below, methods, kinds)
    return figure


def _by_kind(methods: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of methods by kind; few methods stay together, without a title."""
    if len(methods) <= FEW:
        return {"": list(methods)}
    kinds = {title: [name for name in methods if name in kind] for title, kind in KINDS.items()}
    return {title: names for title, names in kinds.items() if names}


def _fit(trained: TrainedMethod, config: FewShotConfig) -> _Fit:
    task = evaluation_task(trained.method, config)
    assert isinstance(task, Sine)
    # All methods show the same curve and points.
    amplitudes = {seed: task.draw_curve(generator(seed))[0] for seed in range(100)}
    large = (seed for seed, amplitude in amplitudes.items() if amplitude >= MIN_AMPLITUDE)
    seed = next(large, max(amplitudes, key=lambda seed: amplitudes[seed]))
    amplitude, phase = task.draw_curve(generator(seed))
    dtype = next(iter(trained.initialization.values())).dtype
    x = torch.linspace(*task.domain, 200, dtype=dtype).unsqueeze(1)
    problem, states = adapt_once(
        trained.rule,
        trained.initialization,
        task,
        seed,
        steps=CURVE_STEPS,
        lr=trained.method.inner_lr,
        total_steps=max(trained.method.test_steps, 1),
        proximal=trained.method.proximal,
    )
    with torch.no_grad():
        curves = {k: task.predict(own, {}, x).squeeze(1) for k, own in states.items()}
    target = amplitude * torch.sin(x - phase)
    return _Fit(x.squeeze(1), target.squeeze(1), problem.full(), curves)


def _draw_curves(axis: Any, name: str, fit: _Fit) -> None:
    axis.plot(fit.x, fit.target, color="#2e4057", lw=3, alpha=0.3, label="target")
    for steps, curve in fit.curves.items():
        style, color = STYLES[steps]
        label = "before" if steps == 0 else f"{steps} step{'s' if steps > 1 else ''}"
        axis.plot(fit.x, curve, style, color=color, lw=1.3, label=label)
    inputs, targets = fit.points
    axis.plot(inputs.flatten(), targets.flatten(), "^", color="#2e4057", ms=4, label="points")
    axis.set_title(name, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_errors(
    figure: Any,
    methods: Mapping[str, tuple[TrainedMethod, Scores]],
    kinds: Mapping[str, Sequence[str]],
) -> None:
    """Draw errors by inner step: a panel for each kind, where the others are pale grey lines."""
    from meta_train.evaluation.loss_axis import show_losses

    columns = min(2, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    episodes = next(iter(methods.values()))[1].episodes
    for axis in axes.flat[len(kinds) :]:
        axis.set_visible(False)
    for axis, (title, names) in zip(axes.flat, kinds.items(), strict=False):
        for name, (_, scores) in methods.items():
            if name not in names:
                axis.plot(*_errors(scores)[:2], color="#d9d9d9", lw=0.8, zorder=1)
        for k, name in enumerate(names):
            steps, mean, half = _errors(methods[name][1])
            color, style = COLORS[k % len(COLORS)], ("-", "--")[k // len(COLORS) % 2]
            axis.plot(steps, mean, style, color=color, lw=1.4, marker=".", label=name)
            low = torch.maximum(mean - half, mean / 10)  # Zero has no logarithm.
            axis.fill_between(steps, low, mean + half, color=color, alpha=0.2, lw=0)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis in axes[-1]:
        axis.set_xlabel("inner steps")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"mean squared error, {episodes} tasks", fontsize=9 if rows > 1 else None)
    starts = [scores.mean(scores.steps[0]) for _, scores in methods.values()]
    if finite := [start for start in starts if math.isfinite(start)]:
        means = [float(one) for _, scores in methods.values() for one in _errors(scores)[1]]
        lowest = min((mean for mean in means if mean > 0), default=max(finite))
        show_losses(axes[0, 0], lowest / 2, 3 * max(finite))  # Curves above this limit diverge.


def _errors(scores: Scores) -> tuple[list[int], Tensor, Tensor]:
    """Inner steps, mean errors after them, and half their intervals."""
    steps = [step for step in scores.steps if step <= CURVE_STEPS[-1]]
    mean = torch.tensor([scores.mean(step) for step in steps], dtype=torch.float64)
    half = torch.tensor([scores.interval(step) for step in steps], dtype=torch.float64)
    return steps, mean, half

"""Gates of a rule while it adapts to test episodes: by layer, over the inner steps.

After figure 2 of Ravi & Larochelle 2017, which shows the forget and input gates of the meta-learner
for 1 shot beside those for 5 shots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.monitoring.figures import import_matplotlib
from learned_opt.monitoring.observation import Floats, observe
from learned_opt.monitoring.samples import CoordinateSamples
from learned_opt.rules.base import Context, UpdateRule
from meta_train.few_shot.evaluation import dtype_of
from meta_train.inner.batches import cast
from meta_train.runtime.seeding import generator
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes.base import EpisodeTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COORDINATES = 256
"""Coordinates of a tensor that are sampled in each episode."""

Bands: TypeAlias = dict[str, dict[str, NDArray[np.float64]]]
"""By gate and tensor: mean, 10% and 90% quantile at each inner step, `[steps, 3]`."""


def gate_bands(
    rule: UpdateRule,
    initialization: Mapping[str, Tensor],
    task: EpisodeTask,
    *,
    steps: int,
    episodes: int,
    seed: int = 0,
    lr: float | None = None,
) -> Bands:
    """Adapt to episodes, and read the gates of every inner step.

    Args:
        rule: the update rule.
        initialization: initial values by name; other parameters start as the task draws them.
        task: the episodes.
        steps: inner steps.
        episodes: number of episodes; equal seeds draw equal ones.
        seed: see `episodes`.
        lr: inner learning rate; by default the rule's own.

    Returns:
        Quantiles over episodes, sampled coordinates and units; empty for a rule without gates.
    """
    samples = CoordinateSamples(COORDINATES, seed)
    values: dict[tuple[str, str], list[list[Floats]]] = {}
    for episode in range(episodes):
        for step, gates in enumerate(
            _episode_gates(rule, initialization, task, steps, f"{seed} {episode}", lr, samples)
        ):
            for key, recorded in gates.items():
                by_step = values.setdefault(key, [[] for _ in range(steps)])
                by_step[step].append(recorded.ravel())
    bands: Bands = {}
    for (gate, tensor), by_step in values.items():
        joined = [np.concatenate(step).astype(np.float64) for step in by_step]
        rows = [[x.mean(), *np.quantile(x, (0.1, 0.9))] for x in joined]
        bands.setdefault(gate, {})[tensor] = np.array(rows)
    return bands


def _episode_gates(
    rule: UpdateRule,
    initialization: Mapping[str, Tensor],
    task: EpisodeTask,
    steps: int,
    seed: str,
    lr: float | None,
    samples: CoordinateSamples,
) -> list[dict[tuple[str, str], Floats]]:
    """Gates by name and tensor at each inner step of one episode."""
    problem = task.sample(generator("gates", seed), rule.device)
    source = generator("gates", seed, "batches")
    initial = {key: value.detach().to(rule.device) for key, value in initialization.items()}
    dtype = dtype_of(initial)
    parameters = cast({k: initial.get(k, v) for k, v in problem.parameters.items()}, dtype)
    fixed = cast({k: initial.get(k, v) for k, v in problem.fixed.items()}, dtype)
    buffers = cast(problem.buffers, dtype)
    states = [rule.init_state(value) for value in parameters.values()]
    names, lr = list(parameters), rule.default_lr if lr is None else lr
    found = []
    for _ in range(steps):
        batch = cast(problem.draw(source), dtype)
        loss, gradients, buffers = _gradients(task, parameters, fixed, buffers, batch)
        context = Context(loss=loss, total_steps=torch.tensor(float(steps), device=rule.device))
        values = list(parameters.values())
        observations = observe(
            rule, names, gradients, values, states, context, samples, lr=[lr] * len(names)
        )
        found.append({(gate, one.name): x for one in observations for gate, x in one.gates.items()})
        with torch.no_grad():
            deltas, states = rule(gradients, values, states, context)
            moved = [value + lr * delta for value, delta in zip(values, deltas, strict=True)]
        parameters = dict(zip(names, moved, strict=True))
    return found


def _gradients(
    task: EpisodeTask, parameters: Tensors, fixed: Tensors, buffers: Tensors, batch: Any
) -> tuple[Tensor, list[Tensor], Tensors]:
    leaves = {key: value.detach().requires_grad_() for key, value in parameters.items()}
    loss, after = task.loss({**fixed, **leaves}, buffers, batch)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return loss.detach(), list(gradients), {key: value.detach() for key, value in after.items()}


def draw_gate_bands(columns: Mapping[str, Bands], gates: Sequence[str] | None = None) -> Figure:
    """Draw gates by layer over the inner steps: a column for each title, a row for each gate.

    Lines are means, bands reach from the 10% to the 90% quantile. A gate that stays above 0.9 is
    shown by its distance from 1.

    Args:
        columns: gates by title, such as {"1 shot": ..., "5 shots": ...}.
        gates: names of gates; by default "forget" and "input" if the rule has them, else all.

    Raises:
        ValueError: there is nothing to draw.
    """
    known = list(dict.fromkeys(gate for bands in columns.values() for gate in bands))
    if gates is None:
        gates = [gate for gate in ("forget", "input") if gate in known] or known
    if not gates:
        raise ValueError("there are no gates to draw: the rule has none, or none were asked for")
    if set(gates) - set(known):
        raise ValueError(f"the rule has gates {known}, not {list(gates)}")
    import_matplotlib()
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    size = 1.8 + 4.6 * len(columns), 0.6 + 3.2 * len(gates)
    figure = Figure(size, dpi=110, layout="constrained")
    panels = figure.subplots(len(gates), len(columns), squeeze=False, sharex="col", sharey="row")
    for row, gate in zip(panels, gates, strict=True):
        rows = [one for bands in columns.values() for one in bands.get(gate, {}).values()]
        near_one = min(one.min() for one in rows) > 0.9
        for axis, bands in zip(row, columns.values(), strict=True):
            tensors = bands.get(gate, {})
            colors = colormaps["viridis"](np.linspace(0, 0.9, max(len(tensors), 1)))
            for color, (name, band) in zip(colors, tensors.items(), strict=False):
                shown = np.maximum(1 - band, 1e-8) if near_one else band
                steps = np.arange(1, len(band) + 1)
                style = "--" if name.endswith("bias") else "-"
                axis.plot(steps, shown[:, 0], style, color=color, label=name, linewidth=1.6)
                axis.fill_between(steps, shown[:, 1], shown[:, 2], color=color, alpha=0.12, lw=0)
            axis.grid(True, alpha=0.3)
            if near_one:
                axis.set_yscale("log")
        name = gate.replace("_", " ")
        row[0].set_ylabel(f"1 - {name} gate" if near_one else f"{name} gate", fontsize=12)
    for axis, title in zip(panels[0], columns, strict=True):
        axis.set_title(title, fontsize=13)
    for axis in panels[-1]:
        axis.set_xlabel("inner step", fontsize=12)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure

"""Writes the gates of a learned optimizer to TensorBoard while it trains a model.

The heat map is figure 2 of Ravi & Larochelle 2017 ("Optimization as a model for few-shot
learning"), gates of sampled coordinates over the inner steps, with a row of colour for each curve.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from learned_opt.files import expand
from learned_opt.monitoring.figures import log_figure
from learned_opt.monitoring.heat_maps import Column, Floats, HeatMaps
from learned_opt.monitoring.histograms import write_histogram
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer
from learned_opt.optimizer.wrappers import unwrapped
from learned_opt.rules.base import Context, CoordinateRule, State, UpdateRule
from learned_opt.updates import PendingUpdate, distinct_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


class GateMonitor:
    """Writes the gates of an update rule, for each parameter tensor, every `every` steps.

    Needs the extra "tensorboard". Each observation takes a fixed random sample of every tensor's
    coordinates, evaluates the rule on them once more, and writes

    - `gates/<tensor>/<gate>`: a histogram;
    - `saturated/<tensor>/<gate>`: the share of values below 0.05 or above 0.95 (`saturated`);
    - `update_rms/<tensor>`: the root mean square of `lr * delta` (without weight decay);
    - `heat_maps/<gate>`: sampled coordinates by steps, every `heat_map_every` observations and at
      the end. With `H` units per coordinate, row k shows unit k modulo H; if all coordinates share
      the gate, row k shows unit k.

    The sample may hold coordinates whose gradient has always been zero; their gates move nothing.
    Training is not affected: nothing changes, and no global random number is drawn. A rule that is
    not a `CoordinateRule` is evaluated on whole tensors; a rule without gates gets `update_rms`
    only.

    Args:
        writer: a `SummaryWriter`, or the folder to make one in.
        every: steps from one observation to the next.
        coordinates: most coordinates in the sample of a tensor.
        saturated: a gate outside these bounds counts as saturated.
        heat_map_coordinates: rows per tensor in a heat map.
        heat_map_columns: most observations in memory; when it is full, every second one is dropped,
            and from then on half as many are kept.
        heat_map_every: observations from one drawing to the next.
        seed: random seed of the samples.

    Raises:
        ValueError: a number below 1 (below 2 for `heat_map_columns`), or bounds out of order.
        ImportError: tensorboard or matplotlib is not installed.

    Example:
        >>> optimizer = LearnedOptimizer(model.named_parameters())
        >>> with GateMonitor("runs/gates", every=1) as monitor:
        ...     handle = monitor.attach(optimizer)
        ...     for _ in range(3):  # train as usual
        ...         optimizer.zero_grad()
        ...         nn.functional.cross_entropy(model(inputs), targets).backward()
        ...         optimizer.step()
    """

    def __init__(
        self,
        writer: SummaryWriter | str | PathLike[str],
        *,
        every: int = 200,
        coordinates: int = 256,
        saturated: tuple[float, float] = (0.05, 0.95),
        heat_map_coordinates: int = 32,
        heat_map_columns: int = 256,
        heat_map_every: int = 256,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("every", every, 1),
            ("coordinates", coordinates, 1),
            ("heat_map_coordinates", heat_map_coordinates, 1),
            ("heat_map_columns", heat_map_columns, 2),
            ("heat_map_every", heat_map_every, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= saturated[0] <= saturated[1] <= 1:
            raise ValueError(f"saturated must be two ordered bounds in [0, 1], got {saturated}")
        self._owns_writer = isinstance(writer, (str, PathLike))
        if isinstance(writer, (str, PathLike)):
            writer = _make_writer(writer)
        self.writer = writer
        self.every = every
        self.coordinates = coordinates
        self.saturated = saturated
        self.heat_map_coordinates = heat_map_coordinates
        self.heat_map_every = heat_map_every
        self.seed = seed
        self._samples: dict[tuple[str, int], Tensor] = {}
        self._handles: list[MonitorHandle] = []
        self._closed = False
        self._heat_maps = HeatMaps(heat_map_columns)

    def attach(self, optimizer: Optimizer, first_step: int = 0) -> MonitorHandle:
        """Observe the optimizer's next step, and then every `every` steps.

        Args:
            optimizer: a `LearnedOptimizer`, or what accelerate's `prepare` made of one. Give each
                optimizer its own monitor and folder.
            first_step: the number of its next step, for a resumed training.

        Returns:
            A handle that detaches the monitor.

        Raises:
            TypeError: not a `LearnedOptimizer`.
        """
        learned = unwrapped(optimizer)
        taken = 0

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def count(*_: object) -> None:
            nonlocal taken
            taken += 1

        # Not compiled, which would happen again at every count.
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def hook(source: LearnedOptimizer, updates: list[PendingUpdate], context: Context) -> None:
            if taken % self.every:
                return
            self.observe(
                source.rule,
                distinct_names(source, updates),
                [update.gradient for update in updates],
                [update.parameter for update in updates],
                [update.state for update in updates],
                context,
                first_step + taken,
                lr=[update.group["lr"] for update in updates],
                maximize=updates[0].group["maximize"],
            )

        # A step may call the update hook several times (devices, options), so it cannot count.
        handle = MonitorHandle(
            [learned.register_update_hook(hook), learned.register_step_post_hook(count)]
        )
        self._handles.append(handle)
        return handle

    @torch.no_grad()
    def observe(
        self,
        rule: UpdateRule,
        names: Sequence[str],
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
        step: int,
        *,
        lr: float | Tensor | Sequence[float | Tensor] | None = None,
        maximize: bool = False,
    ) -> None:
        """Write one observation: the gates and update of the next step. Changes no argument.

        Args:
            rule: the update rule.
            names: of the parameter tensors.
            gradients: `[*param]` each; of one run, without a leading axis of runs.
            parameters: `[*param]` each.
            states: the rule's state of each, before the step.
            context: see `Context`.
            step: the number of the step; going back begins new heat maps.
            lr: multiplies the deltas, one for all or one per tensor; by default the rule's own.
            maximize: the optimizer maximises.
        """
        lr = rule.default_lr if lr is None else lr
        lrs = lr if isinstance(lr, Sequence) else [lr] * len(names)
        sign = -1 if maximize else 1
        if context.loss is not None:
            context = replace(context, loss=sign * context.loss.detach().to(rule.device))
        if context.total_steps is not None:
            context = replace(context, total_steps=context.total_steps.to(rule.device))
        column = self._heat_map_column(step)
        tensors = zip(names, gradients, parameters, states, strict=True)
        samples = [self._take(rule, *tensor) for tensor in tensors]
        samples = [(sign * gradient, parameter, state) for gradient, parameter, state in samples]
        deltas, _ = rule(*([sample[k] for sample in samples] for k in range(3)), context)
        for name, factor, sample, delta in zip(names, lrs, samples, deltas, strict=True):
            if delta.numel() == 0:
                continue
            rms = float(factor) * delta.float().square().mean().sqrt().item()
            if math.isfinite(rms):  # else the optimizer skips the update
                self.writer.add_scalar(f"update_rms/{name}", rms, step)
            for gate, recorded in rule.gates(*sample, context).items():
                values = _by_coordinate(recorded, delta.dim())
                self._write_gate(f"{name}/{gate}", values, step)
                if column is not None:
                    rows = self._sample(name, len(values))[: self.heat_map_coordinates].numpy()
                    column[name, gate] = values[rows, np.arange(len(rows)) % values.shape[1]]

    def _sample(self, name: str, size: int) -> Tensor:
        """At most `coordinates` places out of `size`, always the same, in random order: `[n]`."""
        key = name, size
        if key not in self._samples:
            count = min(size, self.coordinates)
            places = random.Random(f"{self.seed} {name}").sample(range(size), count)
            self._samples[key] = torch.tensor(places, dtype=torch.long)
        return self._samples[key]

    def _take(
        self, rule: UpdateRule, name: str, gradient: Tensor, parameter: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """Gradient, parameter and state of a tensor's sample, `[n]`, or of the whole tensor."""
        tensors = {**state, "gradient": gradient, "parameter": parameter}
        if isinstance(rule, CoordinateRule):
            size, dims = parameter.numel(), parameter.dim()
            places = self._sample(name, size).to(parameter.device)
            for key, value in tensors.items():
                if key != "step":
                    tensors[key] = value.reshape(size, *value.shape[dims:])[places]
        tensors = {key: value.detach().to(rule.device) for key, value in tensors.items()}
        return tensors.pop("gradient"), tensors.pop("parameter"), tensors

    def _write_gate(self, tag: str, values: Floats, step: int) -> None:
        values = values[np.isfinite(values)]
        if not values.size:
            return
        low, high = self.saturated
        share = np.count_nonzero((values < low) | (values > high)) / values.size
        self.writer.add_scalar(f"saturated/{tag}", share, step)
        write_histogram(self.writer, f"gates/{tag}", values, step)

    def _heat_map_column(self, step: int) -> Column | None:
        maps = self._heat_maps
        if step < maps.last_step:
            maps.clear()
        if step != maps.last_step and maps.observed and maps.observed % self.heat_map_every == 0:
            self._draw()
        return maps.column(step)

    def _draw(self) -> None:
        for gate in self._heat_maps.gates():
            draw = functools.partial(self._heat_maps.figure, [gate])
            log_figure(self.writer, f"heat_maps/{gate}", draw, self._heat_maps.last_step)

    def figure(
        self, gates: Sequence[str] | None = None, tensors: Sequence[str] | None = None
    ) -> Figure:
        """Draw the heat maps that are in memory; see `HeatMaps.figure`."""
        return self._heat_maps.figure(gates, tensors)

    def close(self) -> None:
        """Detach, draw the heat maps, flush; close the writer if the monitor made it."""
        if self._closed:
            return
        self._closed = True
        for handle in self._handles:
            handle.remove()
        self._draw()
        self.writer.flush()
        if self._owns_writer:
            self.writer.close()

    def __enter__(self) -> GateMonitor:
        """Close at the end of a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class MonitorHandle:
    """Detaches a monitor from an optimizer: by `remove()`, or at the end of a `with` block."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Remove the hooks; a second call does nothing."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> MonitorHandle:
        """Stay attached inside the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach."""
        self.remove()


def _make_writer(folder: str | PathLike[str]) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "GateMonitor needs tensorboard, which is not installed: "
            "python -m pip install 'learned-opt[tensorboard]'"
        ) from error
    return SummaryWriter(str(expand(folder)))


def _by_coordinate(values: Tensor, dims: int) -> Floats:
    """Gate values `[*tensor, *units]` as `[coordinates, units]`, on the host."""
    values = values.float()
    table = values.flatten(dims) if values.dim() > dims else values.unsqueeze(-1)
    array: Floats = table.reshape(-1, table.shape[-1]).cpu().numpy()
    # One gate for the whole tensor: its units take the place of coordinates.
    return array.T if len(array) == 1 else array

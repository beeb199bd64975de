"""Writes the gates of a learned optimizer to TensorBoard while it trains a model.

The heat map is figure 2 of Ravi & Larochelle 2017 ("Optimization as a model for few-shot
learning"), gates of sampled coordinates over the inner steps, with a row of colour for each curve.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from learned_opt.monitoring.figures import log_figure
from learned_opt.monitoring.heat_maps import Column, Floats, HeatMaps
from learned_opt.monitoring.histograms import write_histogram
from learned_opt.monitoring.samples import CoordinateSamples
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer
from learned_opt.optimizer.wrappers import unwrapped
from learned_opt.rules import rule_name
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.updates import PendingUpdate, distinct_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


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
    Training is not affected: nothing changes, and no global random number is drawn. If the disk is
    full, the monitor stops with one warning, which names the folder. A rule that is not a
    `CoordinateRule` is evaluated on whole tensors. A rule without gates, such as the default one,
    gets `update_rms` only, and the first observation says so in the log ("learned_opt").

    Args:
        writer: the folder to write in; or a `SummaryWriter`, whose thread prints a traceback of its
            own if the disk is full.
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
        self.saturated = saturated
        self.heat_map_coordinates = heat_map_coordinates
        self.heat_map_every = heat_map_every
        self._samples = CoordinateSamples(coordinates, seed)
        self._handles: list[MonitorHandle] = []
        self._closed = False
        self._failed = False
        self._has_gates = False
        self._told = False
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
            self._tell_if_no_gates(source.rule)

        # A step may call the update hook several times (devices, options), so it cannot count.
        handle = MonitorHandle(
            [learned.register_update_hook(hook), learned.register_step_post_hook(count)]
        )
        self._handles.append(handle)
        return handle

    def _tell_if_no_gates(self, rule: UpdateRule) -> None:
        """Say so once: an empty dashboard is no sign of it."""
        if self._has_gates or self._failed or self._told:
            return
        self._told = True
        log.warning(
            "rule %s has no gates: GateMonitor writes only update_rms, the sizes of its updates",
            rule_name(rule),
        )

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
        if self._failed:
            return
        lr = rule.default_lr if lr is None else lr
        lrs = lr if isinstance(lr, Sequence) else [lr] * len(names)
        sign = -1 if maximize else 1
        if context.loss is not None:
            context = replace(context, loss=sign * context.loss.detach().to(rule.device))
        if context.total_steps is not None:
            context = replace(context, total_steps=context.total_steps.to(rule.device))
        tensors = zip(names, gradients, parameters, states, strict=True)
        samples = [self._samples.take(rule, *tensor) for tensor in tensors]
        samples = [(sign * gradient, parameter, state) for gradient, parameter, state in samples]
        deltas, _ = rule(*([sample[k] for sample in samples] for k in range(3)), context)
        with self._giving_up_on_full_disk():
            column = self._heat_map_column(step)
            sizes = [parameter.numel() for parameter in parameters]
            for name, size, factor, sample, delta in zip(
                names, sizes, lrs, samples, deltas, strict=True
            ):
                if size == 0:
                    continue
                rms = float(factor) * delta.float().square().mean().sqrt().item()
                if math.isfinite(rms):  # else the optimizer skips the update
                    self.writer.add_scalar(f"update_rms/{name}", rms, step)
                for gate, recorded in rule.gates(*sample, context).items():
                    self._has_gates = True
                    values = _by_coordinate(recorded, delta.dim())
                    self._write_gate(f"{name}/{gate}", values, step)
                    if column is not None:
                        self._heat_maps.sizes[name] = size
                        column[name, gate] = self._heat_map_rows(name, values)

    def _heat_map_rows(self, name: str, values: Floats) -> Floats:
        """The values of a gate that a heat map shows, `[rows]`: one unit of each coordinate."""
        places = self._samples.places(name, len(values))[: self.heat_map_coordinates].numpy()
        rows: Floats = values[places, np.arange(len(places)) % values.shape[1]]
        return rows

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
        _, gates = self._heat_maps.names()
        for gate in gates:
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
        self._detach()
        with self._giving_up_on_full_disk():
            if not self._failed:
                self._draw()
                self.writer.flush()
        if self._owns_writer:
            self.writer.close()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def _giving_up_on_full_disk(self) -> Iterator[None]:
        """Stop observing, with a warning, if a `SummaryWriter` of the user's cannot write."""
        try:
            yield
        except OSError as error:
            self._failed = True
            self._detach()
            warnings.warn(
                f"could not write to {self.writer.get_logdir()}: {error.strerror or error}; "
                "training goes on without GateMonitor",
                stacklevel=4,
            )

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
        from learned_opt.monitoring.event_writer import EventWriter
    except ImportError as error:
        raise ImportError(
            "GateMonitor needs tensorboard, which is not installed: "
            "python -m pip install 'learned-opt[tensorboard]'"
        ) from error
    return EventWriter(folder)


def _by_coordinate(values: Tensor, dims: int) -> Floats:
    """Gate values `[*tensor, *units]` as `[coordinates, units]`, on the host."""
    values = values.float()
    table = values.flatten(dims) if values.dim() > dims else values.unsqueeze(-1)
    array: Floats = table.reshape(-1, table.shape[-1]).cpu().numpy()
    # One gate for the whole tensor: its units take the place of coordinates.
    return array.T if len(array) == 1 else array

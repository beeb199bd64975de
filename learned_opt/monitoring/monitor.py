"""Writes the gates of a learned optimizer to TensorBoard while it trains a model.

The heat map is figure 2 of Ravi & Larochelle 2017 ("Optimization as a model for few-shot
learning"), gates of sampled coordinates over the inner steps, with a row of colour for each curve.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer

from learned_opt.checks.setting_types import fitted
from learned_opt.monitoring.attachment import Attachment, names_by_position
from learned_opt.monitoring.handle import MonitorHandle
from learned_opt.monitoring.heat_maps import HeatMaps
from learned_opt.monitoring.observation import observe, one_loss
from learned_opt.monitoring.observation_interval import ObservationInterval
from learned_opt.monitoring.open_board import open_board
from learned_opt.monitoring.samples import CoordinateSamples
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer
from learned_opt.optimizer.options import whole_number
from learned_opt.optimizer.wrappers import unwrapped
from learned_opt.rules import rule_name
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.updates import PendingUpdate

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


class GateMonitor:
    """Writes the gates of an update rule, for each parameter tensor, while it trains.

    Needs the extra "tensorboard". Each observation takes a fixed random sample of every tensor's
    coordinates, evaluates the rule on them once more, and writes

    - `curves/training_loss`, if it is known: `step` gets a closure, or you call `log_loss`;
    - for each of the 32 largest tensors, in a run `tensors/<name>` of its own, the scalars and
      histograms that `RuleCharts` lists (learned_opt/monitoring/charts.py);
    - a page of custom scalars, on which the tensors share a chart;
    - `heat_maps/<gate>`: sampled coordinates by steps, every `heat_map_every` observations and at
      the end. With `H` units per coordinate, row k shows unit k modulo H; if all coordinates share
      the gate, row k shows unit k.

    Of sharded tensors it shows the part of this process, as if it were the whole. The sample may
    hold coordinates whose gradient has always been zero; their gates move nothing.
    Training is not affected: nothing changes, and no global random number is drawn. If the disk is
    full, the monitor stops with one warning, which names the folder. A rule that is not a
    `CoordinateRule` is evaluated on whole tensors. A rule without gates and without a network that
    steers gets charts of its steps only, and the first observation says so in the log
    ("learned_opt").

    Args:
        writer: the folder to write in; or a `SummaryWriter`, whose thread prints a traceback of its
            own if the disk is full.
        every: steps from one observation to the next; None observes as often as costs 1% of the
            training's time, at least 10 steps apart.
        coordinates: most coordinates in the sample of a tensor.
        saturated: a gate outside these bounds counts as saturated.
        heat_map_coordinates: rows per tensor in a heat map.
        heat_map_columns: most observations in memory; when it is full, every second one is dropped,
            and from then on half as many are kept.
        heat_map_every: observations from one drawing to the next.
        seed: random seed of the samples.

    Raises:
        ValueError: neither a folder nor a writer, not a whole number of at least 1 (2 for
            `heat_map_columns`), or bounds out of order.
        ImportError: tensorboard or matplotlib is not installed.

    Examples:
        >>> optimizer = LearnedOptimizer(model.named_parameters())
        >>> with GateMonitor("runs/gates", every=1) as monitor:
        ...     handle = monitor.attach(optimizer)
        ...     for _ in range(3):  # train as usual
        ...         optimizer.zero_grad()
        ...         loss = nn.functional.cross_entropy(model(inputs), targets)
        ...         loss.backward()
        ...         monitor.log_loss(loss)
        ...         optimizer.step()
    """

    def __init__(
        self,
        writer: SummaryWriter | str | PathLike[str],
        *,
        every: int | None = None,
        coordinates: int = 256,
        saturated: tuple[float, float] = (0.05, 0.95),
        heat_map_coordinates: int = 32,
        heat_map_columns: int = 256,
        heat_map_every: int = 256,
        seed: int = 0,
    ) -> None:
        if every is not None:
            every = whole_number("every", every)
        coordinates = whole_number("coordinates", coordinates)
        rows = whole_number("heat_map_coordinates", heat_map_coordinates)
        columns = whole_number("heat_map_columns", heat_map_columns, least=2)
        heat_map_every = whole_number("heat_map_every", heat_map_every)
        saturated = fitted("saturated", saturated, tuple[float, float])
        seed = fitted("seed", seed, int)
        if not 0 <= saturated[0] <= saturated[1] <= 1:
            raise ValueError(f"saturated must be two ordered bounds in [0, 1], got {saturated}")
        self._owns_writer = isinstance(writer, (str, PathLike))
        self.every = every
        self._samples = CoordinateSamples(coordinates, seed)
        maps = HeatMaps(columns, rows, self._samples)
        self._board = open_board(writer, maps, heat_map_every=heat_map_every, saturated=saturated)
        self.writer: SummaryWriter = self._board.writer
        self._handles: list[MonitorHandle] = []
        self._closed = False
        self._failed = False
        self._told = False
        self._loss: Tensor | None = None

    def attach(
        self, optimizer: Optimizer, first_step: int = 0, *, model: nn.Module | None = None
    ) -> MonitorHandle:
        """Observe the optimizer's next step, and later ones as `every` says.

        Args:
            optimizer: a `LearnedOptimizer`, or what accelerate's `prepare` made of one. Give each
                optimizer its own monitor and folder.
            first_step: the number of its next step, for a resumed training. What earlier runs wrote
                of this and later steps in the folder is hidden.
            model: names the tensors of an optimizer that was made of `parameters()` without names.
                Otherwise "0.3" is the fourth tensor of group 0.

        Returns:
            A handle that detaches the monitor.

        Raises:
            TypeError: not a `LearnedOptimizer`.
            ValueError: the monitor is closed, or is attached already: lines would mix. Or
                `first_step` is not a whole number, or the optimizer does not train `model`.
        """
        first_step = whole_number("first_step", first_step, least=0)
        learned = unwrapped(optimizer)
        if self._closed:
            raise ValueError("this GateMonitor is closed: make a new one")
        if any(handle.attached for handle in self._handles):
            raise ValueError(
                "this GateMonitor is attached already: give each optimizer a monitor and a folder "
                "of its own, or remove the first handle"
            )
        names = {} if model is None else names_by_position(learned, model)
        if first_step > 0 and not self._handles:
            self._hide_from(first_step)

        def observe_step(
            source: LearnedOptimizer,
            names: list[str],
            updates: list[PendingUpdate],
            context: Context,
            taken: int,
        ) -> None:
            self.observe(
                source.rule,
                names,
                [update.gradient for update in updates],
                [update.parameter for update in updates],
                [update.state for update in updates],
                context,
                first_step + taken,
                lr=[update.group["lr"] for update in updates],
                maximize=updates[0].group["maximize"],
            )
            self._tell_if_no_gates(source.rule)

        attachment = Attachment(
            learned,
            ObservationInterval(self.every),
            names,
            observe_step,
            self._forget_loss,
        )
        handle = MonitorHandle(attachment.handles)
        self._handles.append(handle)
        return handle

    def log_loss(self, loss: Tensor | float) -> None:
        """Give the loss of the step that comes next; call it before `optimizer.step()`.

        It is written if the step is observed. Where `step` gets a closure, this call is not needed.

        Args:
            loss: a number, or a tensor of one element, which is not read before it is written.

        Raises:
            TypeError: neither.
        """
        self._loss = one_loss(loss)

    def _forget_loss(self) -> None:
        self._loss = None

    def _hide_from(self, step: int) -> None:
        """Hide the entries that a killed run wrote of steps that are now taken again."""
        from learned_opt.monitoring.event_writer import EventWriter

        self._board.tensors.first_step = step
        if isinstance(self.writer, EventWriter):
            self.writer.hide_from(step)

    def _tell_if_no_gates(self, rule: UpdateRule) -> None:
        """Warn once that the rule has no gates: an empty dashboard does not say why."""
        if self._board.has_gates or self._failed or self._told:
            return
        self._told = True
        log.warning(
            "rule %s has no gates: GateMonitor writes only the sizes of its updates",
            rule_name(rule),
        )

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
        observations = observe(
            rule,
            names,
            gradients,
            parameters,
            states,
            context,
            self._samples,
            lr=lr if isinstance(lr, Sequence) else [lr] * len(names),
            maximize=maximize,
        )
        loss = context.loss if self._loss is None else self._loss
        with self._giving_up_on_full_disk():
            self._board.write(observations, step, None if loss is None else loss.item())
        if self._board.tensors.disk.failed:  # it has warned
            self._failed = True
            self._detach()

    def figure(
        self, gates: Sequence[str] | None = None, tensors: Sequence[str] | None = None
    ) -> Figure:
        """Draw the heat maps that are in memory; see `HeatMaps.figure`."""
        return self._board.heat_maps.figure(gates, tensors)

    def close(self) -> None:
        """Detach, draw the heat maps, flush; close the writer if the monitor made it."""
        if self._closed:
            return
        self._closed = True
        self._detach()
        with self._giving_up_on_full_disk():
            if not self._failed:
                self._board.draw()
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

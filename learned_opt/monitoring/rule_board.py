"""Shows a rule in TensorBoard: charts with a line for each tensor, and heat maps of gates.

Needs tensorboard; import it where it is used.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from learned_opt.monitoring.charts import RuleCharts
from learned_opt.monitoring.custom_scalars import Lines, Page, write_layout
from learned_opt.monitoring.event_writer import Disk, EventWriter
from learned_opt.monitoring.figures import log_figure
from learned_opt.monitoring.heat_maps import HeatMaps
from learned_opt.monitoring.observation import TensorObservation
from learned_opt.monitoring.summaries import Summaries

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LONGEST_FOLDER = 100
"""Most characters of a tensor's name in the name of its folder."""


def folder_name(tensor: str) -> str:
    """A name of one folder for any tensor's name: no separator, not "..", not too long for a disk.

    Names that would be equal once they are shortened begin with a digest.
    """
    name = quote(tensor, safe=" ").replace("..", "%2E.") or "_"
    if len(name) <= LONGEST_FOLDER:
        return name
    digest = hashlib.sha256(tensor.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{digest}...{name[-(LONGEST_FOLDER - 11) :]}"


class TensorWriters:
    """A run of TensorBoard for each tensor, so that its lines have a colour of their own.

    Args:
        folder: the runs are made in it, `tensors/<name>`.
        disk: see `EventWriter`.
        first_step: see `EventWriter`.

    Attributes:
        disk: as given.
        first_step: of the runs that are made from now on.
    """

    def __init__(self, folder: Path, disk: Disk, first_step: int | None = None) -> None:
        self.disk = disk
        self._folder = folder / "tensors"
        self.first_step = first_step
        self._writers: dict[str, EventWriter] = {}

    def write(self, tensor: str, values: Summaries, step: int) -> None:
        """Write the values of a tensor in a step, unless the disk has failed."""
        if self.disk.failed:
            return
        if tensor not in self._writers:
            folder = self._folder / folder_name(tensor)
            try:
                self._writers[tensor] = EventWriter(folder, self.first_step, disk=self.disk)
            except OSError as error:
                self.disk.fail(error)
                return
        values.write(self._writers[tensor], step)


class RuleBoard:
    """Writes observations of one training, step by step.

    Args:
        writer: gets the values that belong to no single tensor, and the pictures.
        tensors: gets the values of each tensor.
        heat_maps: keeps the gates to draw.
        heat_map_every: observations from one drawing to the next.
        saturated: a gate outside these bounds counts as saturated.

    Attributes:
        heat_maps: as given.
    """

    def __init__(
        self,
        writer: SummaryWriter,
        tensors: TensorWriters,
        heat_maps: HeatMaps,
        *,
        heat_map_every: int,
        saturated: tuple[float, float],
    ) -> None:
        self.writer = writer
        self.tensors = tensors
        self.heat_maps = heat_maps
        self.heat_map_every = heat_map_every
        self._charts = RuleCharts(saturated)
        self._page: Page = {}

    @property
    def has_gates(self) -> bool:
        """Whether any observed rule had a gate or a network that steers."""
        return self._charts.has_gates

    def write(
        self, observations: Sequence[TensorObservation], step: int, loss: float | None
    ) -> None:
        """Write the observations of a step, and the loss if it is known.

        Several calls in a step add tensors. The loss and the schedule are those of the first call.
        """
        maps = self.heat_maps
        if step < maps.last_step:
            maps.clear()
        if step != maps.last_step and maps.observed and maps.observed % self.heat_map_every == 0:
            self.draw()
        if step != maps.last_step:  # once, though groups with other options come one by one
            values = self._charts.of_all(observations)
            if loss is not None:
                values.scalar("curves/training_loss", loss)
            values.write(self.writer, step)
        for seen in observations:
            self.tensors.write(seen.name, self._charts.of_tensor(seen), step)
        maps.add(step, observations)
        page = {
            "Training": [Lines("training loss", ("^curves/training_loss$",))],
            **self._charts.page(),
        }
        if page != self._page:
            self._page = page
            write_layout(self.writer, page, step)

    def draw(self) -> None:
        """Draw the heat maps, a picture for each gate."""
        _, gates = self.heat_maps.names()
        for gate in gates:
            draw = functools.partial(self.heat_maps.figure, [gate])
            log_figure(self.writer, f"heat_maps/{gate}", draw, self.heat_maps.last_step)

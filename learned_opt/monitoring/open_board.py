"""Opens the board of a monitor in a folder or a `SummaryWriter`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from learned_opt.checks.arguments import shown
from learned_opt.files import expand
from learned_opt.monitoring.heat_maps import HeatMaps

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from learned_opt.monitoring.rule_board import RuleBoard


def open_board(
    writer: SummaryWriter | str | PathLike[str],
    heat_maps: HeatMaps,
    *,
    heat_map_every: int,
    saturated: tuple[float, float],
) -> RuleBoard:
    """Open a board; of a folder, its run `training`.

    Args:
        writer: a folder, or a writer whose folder gets the runs of tensors.
        heat_maps: see `RuleBoard`.
        heat_map_every: see `RuleBoard`.
        saturated: see `RuleBoard`.

    Raises:
        ImportError: tensorboard is not installed.
        ValueError: neither a folder nor a writer.
    """
    try:
        from learned_opt.monitoring.event_writer import Disk, EventWriter
        from learned_opt.monitoring.rule_board import RuleBoard, TensorWriters
    except ImportError as error:
        raise ImportError(
            "GateMonitor needs tensorboard, which is not installed: "
            "python -m pip install 'learned-opt[tensorboard]'"
        ) from error
    if isinstance(writer, (str, PathLike)):
        folder = expand(writer)
        disk = Disk(folder)
        writer = EventWriter(folder / "training", disk=disk)
    else:
        try:
            folder = Path(writer.get_logdir())
        except AttributeError:
            raise ValueError(
                f"writer must be a folder or a SummaryWriter, got {shown(writer)}"
            ) from None
        disk = Disk(folder)
    tensors = TensorWriters(folder, disk)
    return RuleBoard(writer, tensors, heat_maps, heat_map_every=heat_map_every, saturated=saturated)

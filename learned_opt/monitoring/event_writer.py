"""A `SummaryWriter` that no full disk stops. Needs tensorboard; import it where it is used."""

from __future__ import annotations

import os
import shutil
import socket
import time
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from learned_opt.files import expand


class Disk:
    """Whether the folder of a training can be written; the first failure is a UserWarning.

    Args:
        folder: named in the warning.

    Attributes:
        failed: whether writing has failed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed = False

    def fail(self, error: OSError) -> None:
        """Warn, and write no more."""
        self.failed = True
        warnings.warn(
            f"could not write to {self.folder}: {error.strerror or error}; training goes on "
            "without TensorBoard",
            stacklevel=5,
        )


class EventWriter(SummaryWriter):
    """A `SummaryWriter` that writes in the calling thread, and gives up when the disk is full.

    torch's own writes in a thread of its own. On a full disk that thread dies with a traceback, and
    the next call raises its error in the middle of a training.

    Args:
        folder: folder of the events; it is created.
        first_step: entries of this and later steps in older files are hidden, since a resumed run
            writes them again; None hides none.
        disk: shared by the writers of one training, which fail together, with one warning; by
            default the writer's own.

    Attributes:
        disk: as given, or the writer's own.

    Raises:
        OSError: the folder cannot be created.

    Examples:
        >>> writer = EventWriter("runs/mine")
        >>> writer.add_scalar("loss", 0.5, 1)
        >>> writer.close()
        >>> writer.failed
        False
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        first_step: int | None = None,
        *,
        disk: Disk | None = None,
    ) -> None:
        self.disk = Disk(expand(folder)) if disk is None else disk
        super().__init__(str(expand(folder)), purge_step=first_step)

    @property
    def failed(self) -> bool:
        """Whether writing has failed: a UserWarning has named the folder; no more is written."""
        return self.disk.failed

    def _get_file_writer(self) -> _EventFile:
        """The open file. The one method that all others of `SummaryWriter` write through."""
        file: _EventFile | None = self.file_writer
        if file is None:
            file = _EventFile(Path(self.log_dir), self.disk)
            opened: Any = file, {self.log_dir: file}  # torch does not annotate what they are
            self.file_writer, self.all_writers = opened
            file.add_event(Event(file_version="brain.Event:2"))
            if self.purge_step is not None:
                file.hide_from(self.purge_step)
                self.purge_step = None
        return file

    def hide_from(self, step: int) -> None:
        """Hide entries of this and later steps in older files, as `first_step` does."""
        self._get_file_writer().hide_from(step)


def replace_run(folder: Path, disk: Disk) -> EventWriter | None:
    """Delete what a folder holds, and begin a run of TensorBoard in it.

    For runs that are written at once: a second copy would double their points, and TensorBoard
    would show the first copy's settings.

    Returns:
        The writer; None if the disk has failed, which has warned.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        return EventWriter(folder, disk=disk)
    except OSError as error:
        disk.fail(error)
        return None


class _EventFile:
    """One file of events; has those methods of torch's `FileWriter` that `SummaryWriter` calls.

    The file is opened for each event: a killed run loses none, a forked process writes none twice,
    and a monitor that is never closed leaves nothing open.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._disk = disk
        self._path = _new_file(folder)

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_summary(
        self, summary: Any, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        self.add_event(Event(summary=summary), global_step, walltime)

    def add_event(
        self, event: Event, step: int | None = None, walltime: float | None = None
    ) -> None:
        if self._disk.failed:
            return
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        try:
            with open(self._path, "ab") as file:
                RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            self._disk.fail(error)

    def hide_from(self, step: int) -> None:
        self.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)

    def flush(self) -> None:
        """Do nothing: nothing is pending."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


def _new_file(folder: Path) -> Path:
    """Create a file, named as TensorBoard looks for it: by time, host, process and a number."""
    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    number = 0
    while True:
        path = folder / f"{name}.{number}"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return path

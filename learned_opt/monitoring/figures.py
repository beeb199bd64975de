"""Draws figures without a backend of matplotlib; a failure to draw is a warning."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learned_opt.files import one_line, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


def import_matplotlib() -> None:
    """Import matplotlib, even if MPLBACKEND names a backend that is not installed.

    Notebooks pass their own backend on to the processes that they start.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def log_figure(
    writer: SummaryWriter, tag: str, draw: Callable[[], Figure | None], step: int
) -> None:
    """Draw a figure and write it to TensorBoard; `SummaryWriter.add_figure` needs a backend.

    Args:
        writer: where to write.
        tag: the name of the image.
        draw: makes the figure, or None for no figure. If it fails, this function warns.
        step: the number of the step.
    """
    try:
        figure = draw()
        image = None if figure is None else _pixels(figure)
    except Exception as error:
        _warn(tag, error)
        return
    if image is not None:
        writer.add_image(tag, image, step, dataformats="HWC")


def save_figure(path: Path, draw: Callable[[], Figure], dpi: int) -> None:
    """Draw a figure and write it to a PNG file.

    Args:
        path: the file; an existing one is replaced.
        draw: makes the figure. If it fails, this function warns and writes nothing.
        dpi: dots per inch.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.BytesIO()
    try:
        draw().savefig(buffer, dpi=dpi, format="png")
    except Exception as error:
        _warn(path, error)
        return
    write_atomically(path, buffer.getvalue())


def _pixels(figure: Figure) -> np.ndarray:
    """Red, green and blue, `[height, width, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # matplotlib does not annotate its methods
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _warn(name: object, error: Exception) -> None:
    warnings.warn(f"could not draw {name}: {type(error).__name__}: {one_line(error)}", stacklevel=3)

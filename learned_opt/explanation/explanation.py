"""The result of `explain`: holds measurements, draws and writes them."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from learned_opt.explanation.measurements.measured import Findings
from learned_opt.files import expand, write_atomically
from learned_opt.monitoring.figures import import_matplotlib, log_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

DPI = 160
"""Dots per inch of a PNG file: a page is 1536 dots wide."""


@dataclass(frozen=True, repr=False)  # its own would show every number
class Explanation:
    """Measurements of a rule, as numbers, sentences and pictures.

    Attributes:
        findings: the measurements.

    Examples:
        >>> explanation = explain("sgd", compare=())
        >>> explanation.numbers["own"]["scale"]["slope"]
        1.0
        >>> explanation.save("sgd.png")
    """

    findings: Findings

    def __repr__(self) -> str:
        """Show the sentences, a line each."""
        lines = [f"  {panel}: {text}" for panel, text in self.sentences.items()]
        return "\n".join([f"Explanation of {self.name} ({self.findings.subtitle})", *lines])

    @property
    def name(self) -> str:
        """The name of the rule."""
        return self.findings.name

    @property
    def sentences(self) -> dict[str, str]:
        """One or two sentences a panel, made of its numbers."""
        return self.findings.sentences

    @property
    def numbers(self) -> dict[str, Any]:
        """All numbers, as JSON can hold them: six significant digits, None if not finite."""
        return {**_plain(self.findings), "sentences": self.sentences}

    def figure(self, panel: str | None = None) -> Figure:
        """Draw the page, or one panel of it.

        Args:
            panel: a key of `sentences`, or None for the page.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: an unknown panel.
        """
        need_matplotlib()
        from learned_opt.explanation.drawing.page import draw_page, draw_panel

        return draw_page(self.findings) if panel is None else draw_panel(self.findings, panel)

    def save(self, path: str | PathLike[str], panel: str | None = None) -> None:
        """Write the page, or one panel, to a PNG file, completely or not at all.

        Raises:
            ImportError: matplotlib is not installed.
            TypeError: not a path.
            OSError: the file cannot be written.
        """
        path = expand(path)
        buffer = io.BytesIO()
        self.figure(panel).savefig(buffer, dpi=DPI, format="png", metadata={"Software": None})
        write_atomically(path, buffer.getvalue())

    def write(self, writer: SummaryWriter, step: int = 0) -> None:
        """Write images of the panels, scalars and sentences to TensorBoard.

        Args:
            writer: where to write.
            step: the number of the step, for explanations of a rule in training.

        Raises:
            ImportError: matplotlib is not installed.
        """
        need_matplotlib()
        for number, panel in enumerate(self.sentences, 1):
            draw = functools.partial(self.figure, panel)
            log_figure(writer, f"explain/{number}_{panel}", draw, step)
        for tag, value in self.findings.scalars.items():
            writer.add_scalar(f"explain/{tag}", value, step)
        text = "\n".join(f"- **{panel}**: {line}" for panel, line in self.sentences.items())
        writer.add_text("explain", text, step)


def need_matplotlib() -> None:
    """Import matplotlib.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import_matplotlib()
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the pictures of explain need matplotlib, which is not installed: "
            "python -m pip install 'learned-opt[tensorboard]'"
        ) from error


def _plain(value: Any) -> Any:
    """Numbers in dataclasses, mappings and sequences, as JSON holds them."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _plain(value.__dict__[field.name]) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value

"""Collects the values of one step and writes them as one event. Needs tensorboard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

from learned_opt.monitoring.observation import Floats

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HISTOGRAM_BINS = 30
"""Equal bins between the smallest and the largest value; TensorBoard draws 30."""


class Summaries:
    """Scalars and histograms of one step; `SummaryWriter` would write an event for each.

    Examples:
        >>> from learned_opt.monitoring.event_writer import EventWriter
        >>> values = Summaries()
        >>> values.scalar("loss", 0.5)
        >>> values.write(EventWriter("runs/mine"), step=1)
    """

    def __init__(self) -> None:
        self._values: list[Summary.Value] = []

    def scalar(self, tag: str, value: float) -> None:
        """Add a number; one that is not finite is left out."""
        if math.isfinite(value):
            self._values.append(Summary.Value(tag=tag, simple_value=value))

    def histogram(self, tag: str, values: Floats) -> None:
        """Add a histogram of finite values, at least one."""
        least, most = float(values.min()), float(values.max())
        # Several times as fast as np.histogram, which would take most of an observation's time.
        width = max(most - least, 1e-12) / HISTOGRAM_BINS
        places = ((values - least) / width).astype(np.int64).clip(0, HISTOGRAM_BINS - 1)
        histogram = HistogramProto(
            min=least,
            max=most,
            num=values.size,
            sum=float(values.sum()),
            sum_squares=float(np.vdot(values, values)),
            bucket_limit=[least + width * k for k in range(1, HISTOGRAM_BINS + 1)],
            bucket=np.bincount(places.ravel(), minlength=HISTOGRAM_BINS).tolist(),
        )
        self._values.append(Summary.Value(tag=tag, histo=histogram))

    def write(self, writer: SummaryWriter, step: int) -> None:
        """Write the values that were added, if any."""
        if self._values:
            writer._get_file_writer().add_summary(Summary(value=self._values), step)
            self._values = []

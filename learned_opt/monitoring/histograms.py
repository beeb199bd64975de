"""Writes histograms to TensorBoard, faster than `SummaryWriter.add_histogram`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from learned_opt.monitoring.heat_maps import Floats

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HISTOGRAM_BINS = 30
"""Equal bins between the smallest and the largest value; TensorBoard draws 30."""


def write_histogram(writer: SummaryWriter, tag: str, values: Floats, step: int) -> None:
    """Write a histogram of finite values, at least one."""
    least, most = float(values.min()), float(values.max())
    # Several times as fast as np.histogram, which would take most of the time of an observation.
    width = max(most - least, 1e-12) / HISTOGRAM_BINS
    places = ((values - least) / width).astype(np.int64).clip(0, HISTOGRAM_BINS - 1)
    writer.add_histogram_raw(
        tag,
        min=least,
        max=most,
        num=values.size,
        sum=float(values.sum()),
        sum_squares=float(np.vdot(values, values)),
        bucket_limits=[least + width * k for k in range(1, HISTOGRAM_BINS + 1)],
        bucket_counts=np.bincount(places, minlength=HISTOGRAM_BINS).tolist(),
        global_step=step,
    )

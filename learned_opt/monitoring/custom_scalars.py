"""The page "Custom scalars" of TensorBoard: several curves in one chart, in a chosen order.

Needs tensorboard; import it where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, PLUGIN_NAME

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Lines:
    """A chart with a line for each scalar, of any run, whose tag matches.

    Attributes:
        title: title of the chart.
        tags: regular expressions.
    """

    title: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Bands:
    """A chart with a line and a band around it for each series.

    Attributes:
        title: title of the chart.
        series: tags of the line, of the lower and of the upper edge of the band.
    """

    title: str
    series: tuple[tuple[str, str, str], ...]


CHARTS_OF_A_PAGE = 12
"""TensorBoard's default."""

Page: TypeAlias = Mapping[str, Sequence[Lines | Bands]]
"""Charts by category, from top to bottom."""


def write_layout(writer: SummaryWriter, page: Page, step: int) -> None:
    """Write the layout of the page. TensorBoard shows the newest one of each run.

    Args:
        writer: where to write.
        page: the charts.
        step: the number of the step; no smaller than at the last call.
    """
    categories = [
        layout_pb2.Category(title=title, chart=[_chart(chart) for chart in stored_order(charts)])
        for title, charts in page.items()
        if charts
    ]
    layout = layout_pb2.Layout(category=categories)
    # torch's own `add_custom_scalars` knows charts of a single band only.
    tensor = TensorProto(
        dtype="DT_STRING",
        string_val=[layout.SerializeToString()],
        tensor_shape=TensorShapeProto(),
    )
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME)
    value = Summary.Value(
        tag=CONFIG_SUMMARY_TAG, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin)
    )
    writer._get_file_writer().add_summary(Summary(value=[value]), step)


def stored_order(charts: Sequence[Lines | Bands]) -> list[Lines | Bands]:
    """The order in which charts must be stored, for TensorBoard to show them in the given one.

    TensorBoard 2.21 shows the bands of a page from last to first, and after the lines. It inserts
    the k-th chart before the k-th child of the page, and each chart makes two children, one for
    lines and one for bands: the second ones end up in reverse.
    """
    stored: list[Lines | Bands] = []
    for start in range(0, len(charts), CHARTS_OF_A_PAGE):
        page = charts[start : start + CHARTS_OF_A_PAGE]
        bands = iter([chart for chart in reversed(page) if isinstance(chart, Bands)])
        stored += [next(bands) if isinstance(chart, Bands) else chart for chart in page]
    return stored


def _chart(chart: Lines | Bands) -> layout_pb2.Chart:
    if isinstance(chart, Lines):
        lines = layout_pb2.MultilineChartContent(tag=chart.tags)
        return layout_pb2.Chart(title=chart.title, multiline=lines)
    series = [
        layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
        for value, lower, upper in chart.series
    ]
    return layout_pb2.Chart(title=chart.title, margin=layout_pb2.MarginChartContent(series=series))

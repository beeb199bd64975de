"""The page of custom scalars: charts are stored so that TensorBoard shows them in order."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG

from learned_opt.monitoring.custom_scalars import Bands, Lines, stored_order, write_layout
from learned_opt.monitoring.event_writer import EventWriter


def band(name):
    return Bands(name, ((f"{name}/mean", f"{name}/10%", f"{name}/90%"),))


def shown_by_tensorboard(charts):
    """What TensorBoard 2.21 makes of stored charts: a page has 12, the k-th goes before child k."""
    shown = []
    for start in range(0, len(charts), 12):
        children = []
        for k, chart in enumerate(charts[start : start + 12]):
            children[k:k] = [(chart, Lines), (chart, Bands)]
        shown += [chart.title for chart, kind in children if isinstance(chart, kind)]
    return shown


def test_charts_are_shown_in_the_given_order():
    lines = [Lines(str(k), (f"^{k}$",)) for k in range(15)]
    assert stored_order(lines) == lines
    bands = [band(str(k)) for k in range(15)]
    for charts in (bands[:2], bands, lines[:3] + bands[3:6]):
        assert shown_by_tensorboard(stored_order(charts)) == [chart.title for chart in charts]


def test_what_is_written_is_the_stored_order(tmp_path):
    writer = EventWriter(tmp_path)
    write_layout(writer, {"Gates": [band("forget"), band("input")], "None": []}, 0)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Tensors(CONFIG_SUMMARY_TAG)
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    assert [one.title for one in layout.category] == ["Gates"]
    assert [chart.title for chart in layout.category[0].chart] == ["input", "forget"]

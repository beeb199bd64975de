"""A comparison in TensorBoard, read back; a second one takes the place of the first."""

import math

import pytest
import torch
from full_disk import full_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from meta_train.evaluation.comparison.compare import ComparedOptimizer
from meta_train.evaluation.comparison.tensorboard import write_comparison
from meta_train.evaluation.comparison.trainings import ComparisonTask
from meta_train.tasks import create_task

TASKS = [ComparisonTask("family", "digits (held out)", create_task("quadratic"), 4, 0)]


def result(label, losses, final):
    curve = torch.tensor(losses)
    return ComparedOptimizer(
        label=label,
        mean_loss=(float(curve.mean()), 0.0),
        mean_loss_lr=0.1,
        final_loss=(final, 0.0),
        final_loss_lr=0.1,
        at_edge=False,
        curve=curve,
        checked=torch.tensor([4]),
        full_curve=torch.full((len(curve), 1), final),
        steps_to_reach=math.nan,
        diverged=0,
    )


def table(final=0.5):
    learned = result("learned", [[1.0, 1.0, 1.0, 1.0], [100.0, 1.0, 0.01, 0.0001]], final)
    return {
        "family": [
            learned,
            result("Adam", [[1.0, 0.1, 0.1, math.inf]], 2.0),
            result("SGD + momentum", [[1.0] * 4], 1.0),
        ]
    }


def read(folder, run):
    return EventAccumulator(str(folder / "comparison" / run), {"scalars": 0, "tensors": 0}).Reload()


def write(folder, final=0.5, **settings):
    texts = {"1 final table": "| a |\n| - |\n| 1 |"}
    write_comparison(folder, table(final), TASKS, texts=texts, settings=settings)


def test_each_optimizer_is_a_run_with_its_curve(tmp_path):
    write(tmp_path)
    runs = {path.name for path in (tmp_path / "comparison").iterdir() if path.is_dir()}
    assert runs == {"learned", "Adam, tuned", "SGD + momentum, tuned"}
    curve = read(tmp_path, "learned").Scalars("comparison_log10/digits (held out)")
    # Means of 0 and 2, 0 and 0, 0 and -2, 0 and -4.
    assert [(e.step, e.value) for e in curve] == [(1, 1), (2, 0), (3, -1), (4, -2)]
    adam = read(tmp_path, "Adam, tuned").Scalars("comparison_log10/digits (held out)")
    assert [(e.step, round(e.value, 5)) for e in adam] == [(1, 0), (2, -1), (3, -1)]


def hyperparameters(events):
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    return {key: value.string_value or value.number_value for key, value in start.hparams.items()}


def test_texts_picture_layout_and_final_figures_are_there(tmp_path):
    write(tmp_path, rule="lstm", lr=0.01, nothing=None, task_settings={"hidden": [3, 4]})
    events = read(tmp_path, ".")
    (text,) = events.Tensors("1 final table/text_summary")
    assert text.tensor_proto.string_val[0] == b"| a |\n| - |\n| 1 |"
    picture = events.Images("comparison_pictures/digits (held out)")[0]
    assert picture.width == 920  # 4.6 inches of 200 pixels
    layout = Layout.FromString(
        events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    (chart,) = layout.category[0].chart
    assert chart.multiline.tag == [r"^comparison_log10/digits\ \(held\ out\)$"]
    assert hyperparameters(events) == {
        "rule": "lstm",
        "lr": 0.01,
        "task_settings.hidden": "[3, 4]",
    }
    # 0.5 against the best of 2 and 1; the mean of four ones and 100, 1, .01, .0001 against 1.
    assert events.Scalars("final/digits (held out)")[0].value == pytest.approx(0.5)
    assert events.Scalars("mean/digits (held out)")[0].value == pytest.approx(
        105.0101 / 8, rel=1e-5
    )


def test_a_second_comparison_takes_the_place_of_the_first(tmp_path):
    write(tmp_path, lr=1.0)
    write(tmp_path, final=0.25, lr=2.0)
    events = read(tmp_path, ".")
    assert [e.value for e in events.Scalars("final/digits (held out)")] == [0.25]
    assert hyperparameters(events) == {"lr": 2.0}
    curve = read(tmp_path, "learned").Scalars("comparison_log10/digits (held out)")
    assert [e.step for e in curve] == [1, 2, 3, 4]


def test_a_full_disk_is_one_warning(tmp_path):
    with full_disk(), pytest.warns(UserWarning) as caught:
        write(tmp_path)
    assert [str(w.message) for w in caught] == [
        f"could not write to {tmp_path}: File too large; training goes on without TensorBoard"
    ]

"""The table of readers by instance."""

import json
import re

import torch
from few_shot_cases import results_of, take_made_up
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from meta_train.few_shot.instance_table import render_by_instance
from meta_train.few_shot.methods.registry import get_method
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.trained import TrainedMethod, published_by_instance
from meta_train.jobs.cli import main

MANN = {1: 36.4, 2: 82.8, 3: 91.0, 4: 92.6, 5: 94.9, 10: 98.1}
LSTM = {1: 24.4, 2: 49.5, 3: 55.3, 4: 61.0, 5: 63.6, 10: 62.5}


def evaluated(name, values, figures=None):
    facts = {"published_by_instance": figures}
    trained = TrainedMethod(name, get_method(name).omniglot, None, {}, facts)
    steps = tuple(range(1, len(values) + 1))
    return trained, Evaluation("accuracy", steps, torch.tensor(values), 0, counts="instance")


def test_the_table_shows_the_papers_columns_and_figures():
    values = [[0.2 + 0.05 * k, 0.3 + 0.05 * k] for k in range(10)]
    methods = {
        "lstm-reader": evaluated("lstm-reader", values, LSTM),
        "mann": evaluated("mann", values, MANN),
    }
    lines = render_by_instance(methods, "Omniglot, 5-way").splitlines()
    assert lines[1] == "Omniglot, 5-way, sequences of 10 images per class"
    assert lines[2].split() == ["accuracy", "at", "image", "1st", "2nd", "5th", "10th"]
    assert lines[3].split()[:3] == ["lstm-reader", "25.0+-9.8", "30.0+-9.8"]
    assert lines[4].split() == ["published", "24.4", "49.5", "63.6", "62.5"]
    assert lines[6].split() == ["published", "36.4", "82.8", "94.9", "98.1"]
    assert lines[-1] == "in percent, mean and 95% interval over 2 sequences"
    assert max(map(len, lines)) <= 80


def test_figures_of_the_paper_are_for_its_five_characters():
    for row, figures in (("mann", MANN), ("lstm-reader", LSTM)):
        assert published_by_instance(row, FewShotConfig(row=row, data="omniglot")) == figures
        for other in ({"data": "omniglot", "ways": 4}, {"data": "signals"}):
            assert published_by_instance(row, FewShotConfig(row=row, **other)) is None


def test_short_sequences_end_early():
    lines = render_by_instance({"mann": evaluated("mann", [[0.5], [0.25], [1.0]])}, "x")
    rows = [line.split() for line in lines.splitlines()]
    assert rows[2] == ["accuracy", "at", "image", "1st", "2nd", "3rd"]
    assert rows[3] == ["mann", "50.0", "25.0", "100.0"] and "published" not in lines


def test_long_sequences_have_a_column_more_in_80_characters():
    values = [[1.0, 0.5]] * 300
    methods = {"lstm-reader": evaluated("lstm-reader", values, LSTM)}
    lines = render_by_instance(methods, "x").splitlines()
    assert lines[2].split()[3:] == ["1st", "2nd", "5th", "10th", "300th"]
    assert lines[3].split() == ["lstm-reader", *["75.0+-49.0"] * 5]
    assert lines[4].split() == ["published", "24.4", "49.5", "63.6", "62.5", "-"]
    assert max(map(len, lines)) <= 80


def test_a_job_prints_readers_in_a_table_of_their_own(tmp_path, monkeypatch, capsys):
    take_made_up(monkeypatch)
    given = ["few-shot", "--data", "omniglot", "--row", "mann,prototypical", "--ways", "2"]
    given += ["--queries", "1", "--test_queries", "1", "--episodes", "2", "--outer_steps", "1"]
    given += ["--row_settings", json.dumps({"instances": 3, "meta_batch": 2})]
    given += ["--progress", "false", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "Omniglot, 2-way 1-shot\n" in printed
    assert "Omniglot, 2-way, sequences of 3 images per class\n" in printed
    found = results_of(tmp_path / "run")
    assert [one["instance"] for one in found["mann"]["results"]] == [1, 2, 3]
    assert [one["steps"] for one in found["prototypical"]["results"]] == [0]
    assert found["mann"]["transductive"] is False
    charts = charts_of(tmp_path / "run", "mann") + charts_of(tmp_path / "run", "prototypical")
    assert charts == [  # in TensorBoard they stand side by side: neither may draw the other's
        ("accuracy by instance", ["^test/accuracy_by_instance$"]),
        ("accuracy by inner step", ["^test/accuracy_by_inner_step$"]),
    ]


def charts_of(folder, row):
    """Titles and tags of the charts of test episodes."""
    events = EventAccumulator(str(folder / row / "tensorboard" / "results")).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.startswith("test/")]
    ((title, patterns),) = [(one.title, list(one.multiline.tag)) for one in category.chart]
    assert [bool(re.search(pattern, tag)) for pattern in patterns] == [True]
    return [(title, patterns)]

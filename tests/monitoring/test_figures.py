"""Pictures need no backend, and a failure to draw is a warning."""

import os
import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from learned_opt import LearnedOptimizer
from learned_opt.monitoring import GateMonitor
from learned_opt.monitoring.figures import log_figure, save_figure
from learned_opt.monitoring.heat_maps import HeatMaps


def images(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: events.Images(tag) for tag in events.Tags()["images"]}


IN_A_NOTEBOOK = """
import sys, warnings
warnings.simplefilter("error")
import torch
from torch import nn
from learned_opt import LearnedOptimizer, load_rule
from learned_opt.monitoring import GateMonitor
from meta_train.jobs.cli import main

folder = sys.argv[1]
model = nn.Linear(2, 1)
optimizer = LearnedOptimizer(model.parameters(), rule="digits-lstm")
with GateMonitor(folder + "/gates", every=1) as monitor:
    monitor.attach(optimizer)
    for _ in range(2):
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()
main(["--task", "quadratic", "--rule", "adam-lstm", "--rule_settings", '{"hidden_size": 2}',
      "--train.runs", "1", "--train.horizons", "[2]", "--train.truncation_length", "2",
      "--train.outer_steps", "2", "--train.validate_every", "2", "--train.gates_every", "2",
      "--evaluate.steps", "3", "--evaluate.seeds", "1", "--evaluate.workers", "1",
      "--device", "cpu", "--progress", "false", "--out", folder + "/run"])
load_rule(folder + "/run/weights.safetensors")
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "gtk4agg"])
def test_a_backend_that_cannot_be_loaded_stops_nothing(backend, tmp_path):
    environment = {
        **os.environ,
        "MPLBACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_NOTEBOOK, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "could not draw" not in ended.stderr
    assert images(tmp_path / "gates" / "training").keys() == {
        "heat_maps/lstm_forget",
        "heat_maps/lstm_input",
        "heat_maps/lstm_output",
    }
    assert "curves/validation" in images(tmp_path / "run" / "tensorboard" / "meta-training")
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_image_has_the_figures_pixels(tmp_path):
    figure = Figure((2, 1), dpi=50, facecolor="red")
    with SummaryWriter(str(tmp_path)) as writer:
        log_figure(writer, "red", lambda: figure, 3)
        log_figure(writer, "nothing", lambda: None, 3)
    (event,) = images(tmp_path)["red"]
    assert (event.step, event.width, event.height) == (3, 100, 50)
    assert images(tmp_path).keys() == {"red"}


def fail(*_, **__):
    raise RuntimeError("no fonts\nat all")


def test_a_failure_to_draw_is_a_warning_in_one_line(tmp_path):
    path = tmp_path / "curves.png"
    with pytest.warns(UserWarning) as caught:
        save_figure(path, fail, dpi=50)
    assert [str(w.message) for w in caught] == [
        f"could not draw {path}: RuntimeError: no fonts at all"
    ]
    assert not path.exists()


def test_a_monitor_that_cannot_draw_still_watches_and_closes(tmp_path, monkeypatch):
    model = nn.Linear(2, 1)
    optimizer = LearnedOptimizer(model.parameters(), rule="digits-lstm")
    monkeypatch.setattr(HeatMaps, "figure", fail)
    monitor = GateMonitor(tmp_path, every=1, heat_map_every=1)
    monitor.attach(optimizer)
    with pytest.warns(UserWarning, match="could not draw heat_maps/.*: RuntimeError: no fonts"):
        for _ in range(3):
            model(torch.ones(3, 2)).sum().backward()
            optimizer.step()
        monitor.close()
    assert monitor.writer.file_writer is None  # closed

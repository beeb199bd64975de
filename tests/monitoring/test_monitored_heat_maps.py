"""The heat maps of a monitored training."""

import numpy as np
import pytest
import torch
from monitored_training import make_optimizer, make_rule, read, train

from learned_opt import UpdateRule
from learned_opt.monitoring.heat_maps import HeatMaps
from learned_opt.monitoring.monitor import GateMonitor
from learned_opt.monitoring.observation import TensorObservation
from learned_opt.monitoring.samples import CoordinateSamples
from learned_opt.rules import Context


def test_memory_is_bounded_and_steps_stay_even(tmp_path):
    rule, parameter = make_rule(), torch.ones(9)
    monitor = GateMonitor(tmp_path, heat_map_columns=8, heat_map_every=1000)
    for step in range(100):
        monitor.observe(
            rule,
            ["p"],
            [torch.full((9,), 1.0 + step)],
            [parameter],
            [rule.init_state(parameter)],
            Context(loss=torch.ones(())),
            step,
        )
        assert len(monitor._board.heat_maps.steps()) <= 8
    steps = monitor._board.heat_maps.steps()
    assert steps == list(range(0, 100, 16))
    monitor.close()


def test_heat_maps_hold_the_sampled_values(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    with GateMonitor(tmp_path, every=1, heat_map_coordinates=6, heat_map_every=4) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 9)
        figure = monitor.figure(["forget", "input"], ["2.weight", "0.bias"])
    images = figure.axes[0].get_images()[0].get_array()
    assert images.shape == (6 + 1 + 4 + 1, 9)
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "forget gate: log10(1 - f)",
        "input gate: log10(i)",
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "2.weight",
        "0.bias",
    ]
    events = read(tmp_path)
    assert [event.step for event in events.Images("heat_maps/forget")][-1] == 8
    assert "heat_maps/lstm_output" in events.Tags()["images"]


class OneGatePerTensor(UpdateRule):
    """A rule of a user's own, whose only gate all coordinates share."""

    default_lr = 0.1

    def init_tensor_state(self, parameter):
        return {}

    def update(self, gradients, parameters, states, context):
        return [-gradient for gradient in gradients], list(states)

    def gates(self, gradient, parameter, state, context=None):
        return {"brake": gradient.norm().reshape([1] * gradient.dim())}


@pytest.mark.parametrize(
    ("rule", "gate", "rows"),
    [
        ("step-size-lstm", "lstm_forget", "LSTM units"),
        ("gated-lstm", "forget", "sampled coordinates"),
        (OneGatePerTensor(), "brake", "LSTM units"),
    ],
)
def test_rows_are_said_to_be_units_where_all_coordinates_share_a_gate(rule, gate, rows, tmp_path):
    rule = make_rule(rule) if isinstance(rule, str) else rule
    model, optimizer = make_optimizer(rule, total_steps=3)
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 3)
        assert monitor.figure([gate]).get_supylabel() == f"{rows}, by parameter tensor"


def test_a_figure_of_units_and_coordinates_names_both():
    maps = HeatMaps(8, 32, CoordinateSamples(256, 0))
    units = {"forget": np.full((3, 1), 0.5, np.float32), "mask": np.ones((9, 1), np.float32)}
    maps.add(0, [TensorObservation("w", 9, 1, 1, 1, units, shared=frozenset({"forget"}))])
    rows = "LSTM units or sampled coordinates, by parameter tensor"
    assert maps.figure().get_supylabel() == rows
    assert maps.figure(["mask"]).get_supylabel() == "sampled coordinates, by parameter tensor"


def test_going_back_begins_new_heat_maps(tmp_path):
    rule = make_rule()
    with GateMonitor(tmp_path, every=1) as monitor:
        for steps in (5, 3):
            model, optimizer = make_optimizer(rule)
            with monitor.attach(optimizer):
                train(model, optimizer, steps)
        assert monitor._board.heat_maps.steps() == [0, 1, 2]


def test_heat_maps_rank_tensors_by_all_their_elements_not_by_the_sample(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    with GateMonitor(tmp_path, every=1, coordinates=2) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 1)
        assert monitor._board.heat_maps.sizes == {
            "0.weight": 20,
            "0.bias": 4,
            "2.weight": 12,
            "2.bias": 3,
        }

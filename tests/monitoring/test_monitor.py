"""The monitor is attached, observes the steps that it should, and does not affect training."""

import math
import sys

import numpy as np
import pytest
import torch
from monitored_training import LAYERS, make_model, make_optimizer, make_rule, read, steps_of, train
from torch.utils.tensorboard import SummaryWriter

from learned_opt import LearnedOptimizer, list_rules
from learned_opt.monitoring.monitor import GateMonitor


@pytest.mark.parametrize("name", list_rules())
def test_training_does_not_notice(tmp_path, name):
    trajectories = []
    for monitored in (False, True):
        rule = make_rule(name)
        model, optimizer = make_optimizer(rule, total_steps=10)
        if monitored:
            GateMonitor(tmp_path, every=2, heat_map_every=4).attach(optimizer)
        train(model, optimizer, 10)
        trajectories.append([p.detach().clone() for p in model.parameters()])
        trajectories[-1] += [v for state in optimizer.state.values() for v in state.values()]
    for plain, watched in zip(*trajectories, strict=True):
        assert torch.equal(plain, watched)


def test_leaves_random_numbers_alone(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_observes_every_n_steps_until_detached(tmp_path):
    model, optimizer = make_optimizer(make_rule("adam"))
    writer = SummaryWriter(str(tmp_path))
    monitor = GateMonitor(writer, every=3)
    handle = monitor.attach(optimizer, first_step=100)
    train(model, optimizer, 7)
    handle.remove()
    handle.remove()
    train(model, optimizer, 7)
    assert not optimizer._update_hooks and not optimizer._optimizer_step_post_hooks
    with monitor.attach(optimizer, first_step=200):
        train(model, optimizer, 1)
    train(model, optimizer, 3)
    monitor.close()
    monitor.close()
    writer.add_scalar("still open", 1.0)
    writer.close()
    assert steps_of(tmp_path, "0.weight") == [100, 103, 106, 200]
    assert read(tmp_path, "tensors/0.weight").Tags()["histograms"] == []
    assert read(tmp_path, ".").Scalars("still open")


def test_counts_a_step_once_however_many_groups(tmp_path):
    model = make_model()
    groups = [
        {"params": list(model[0].named_parameters()), "maximize": True},
        {"params": list(model[2].named_parameters()), "lr": 0.1},
    ]
    groups[1]["params"] = [(f"2.{name}", value) for name, value in groups[1]["params"]]
    optimizer = LearnedOptimizer(groups, rule=make_rule())
    with GateMonitor(tmp_path, every=2) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 5)
        assert monitor.figure().axes
    for tensor in ("weight", "2.weight"):
        assert steps_of(tmp_path, tensor) == [0, 2, 4]


def test_a_rule_without_gates_is_named_once_in_the_log(tmp_path, caplog):
    model, optimizer = make_optimizer(make_rule("adam"))
    with GateMonitor(tmp_path, every=1) as monitor:
        for _ in range(2):
            with monitor.attach(optimizer):
                train(model, optimizer, 2)
    assert [(record.name.split(".")[0], record.levelname) for record in caplog.records] == [
        ("learned_opt", "WARNING")
    ]
    assert caplog.records[0].getMessage() == (
        "rule adam has no gates: GateMonitor writes only the sizes of its updates"
    )
    assert steps_of(tmp_path, "0.weight") == [0, 1, 0, 1]


def test_a_rule_with_gates_has_nothing_to_be_told(tmp_path, caplog):
    model, optimizer = make_optimizer(make_rule())
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 2)
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:the update of")
def test_survives_divergence(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"every": 2.5}, "every must be a whole number of at least 1, got 2.5"),
        ({"coordinates": 0}, "coordinates must be a whole number of at least 1, got 0"),
        ({"coordinates": 7.5}, "coordinates must be a whole number of at least 1, got 7.5"),
        ({"heat_map_columns": 1}, "heat_map_columns must be a whole number of at least 2, got 1"),
        ({"heat_map_every": math.inf}, "heat_map_every must be a whole number .* got inf"),
        ({"heat_map_coordinates": "9"}, "heat_map_coordinates must be a whole number .* got '9'"),
        ({"saturated": (0.9, 0.1)}, r"got \(0.9, 0.1\)"),
    ],
)
def test_refuses_bad_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        GateMonitor(tmp_path, **settings)


def test_whole_numbers_of_any_type_are_taken(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    with GateMonitor(tmp_path, every=2.0, coordinates=np.int64(3)) as monitor:
        monitor.attach(optimizer, first_step=torch.tensor(10))
        train(model, optimizer, 4)
    assert steps_of(tmp_path, "0.weight") == [10, 12]


def test_refuses_other_optimizers_and_unseen_names(tmp_path):
    with GateMonitor(tmp_path) as monitor:
        with pytest.raises(ValueError, match=r"first_step must be a whole number .* got 0\.5"):
            monitor.attach(make_optimizer(make_rule())[1], first_step=0.5)
        with pytest.raises(TypeError, match="got Adam"):
            monitor.attach(torch.optim.Adam(make_model().parameters()))
        with pytest.raises(ValueError, match="observed"):
            monitor.figure(["forget"])


@pytest.mark.parametrize(
    ("missing", "extra"), [("torch.utils.tensorboard", "tensorboard"), ("matplotlib", "matplotlib")]
)
def test_a_missing_extra_is_named_before_training(missing, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "learned_opt.monitoring.event_writer", raising=False)
    message = rf"needs? {extra}, which is not installed: .*'learned-opt\[tensorboard\]'"
    with pytest.raises(ImportError, match=message):
        GateMonitor(tmp_path)


def test_a_resumed_training_hides_the_steps_that_it_takes_again(tmp_path):
    for first in (0, 3):  # killed after step 4, resumed from a checkpoint after step 2
        model, optimizer = make_optimizer(make_rule())
        with GateMonitor(tmp_path, every=1) as monitor:
            monitor.attach(optimizer, first_step=first)
            train(model, optimizer, 5)
    steps = list(range(8))
    assert [event.step for event in read(tmp_path).Scalars("curves/training_loss")] == steps
    for name in LAYERS:
        assert steps_of(tmp_path, name) == steps


def test_one_monitor_observes_one_optimizer_at_a_time(tmp_path):
    _, optimizer = make_optimizer(make_rule())
    _, other = make_optimizer(make_rule())
    monitor = GateMonitor(tmp_path)
    handle = monitor.attach(optimizer)
    for again in (optimizer, other):
        with pytest.raises(ValueError, match="a monitor and a folder of its own"):
            monitor.attach(again)
    handle.remove()
    monitor.attach(other)
    monitor.close()
    with pytest.raises(ValueError, match="closed: make a new one"):
        monitor.attach(optimizer)
    assert not optimizer._update_hooks and not other._update_hooks


def test_by_default_the_first_step_is_observed(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    with GateMonitor(tmp_path) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 3)
    assert steps_of(tmp_path, "0.weight")[0] == 0

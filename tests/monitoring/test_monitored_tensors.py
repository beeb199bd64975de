"""The tensors that the monitor observes, and the names of their runs."""

import math

import pytest
import torch
from monitored_training import LAYERS, make_model, make_rule, read, train
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.monitoring.monitor import GateMonitor


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 4)])
def test_any_shape(tmp_path, shape):
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = LearnedOptimizer([parameter], rule=make_rule())
    parameter.grad = torch.ones(shape)
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        optimizer.step(lambda: torch.ones(()))
    assert (tmp_path / "tensors" / "0.0").exists() == (math.prod(shape) > 0)


def test_a_model_names_the_tensors_of_an_optimizer_without_names(tmp_path):
    model = make_model()
    groups = [{"params": list(model[2].parameters())}, {"params": list(model[0].parameters())}]
    optimizer = LearnedOptimizer(groups, rule=make_rule())
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer, model=model)
        train(model, optimizer, 1)
    assert sorted(path.name for path in (tmp_path / "tensors").iterdir()) == sorted(LAYERS)
    assert monitor._board.heat_maps.sizes["2.weight"] == 12


def test_names_of_tensors_are_names_of_folders(tmp_path):
    names = ["../up", "..", "a/b", "x" * 300]
    pairs = [(name, nn.Parameter(torch.ones(2))) for name in names]
    optimizer = LearnedOptimizer(pairs, rule=create_rule("sgd"))
    with GateMonitor(tmp_path / "inside", every=1) as monitor:
        monitor.attach(optimizer)
        for _, parameter in pairs:
            parameter.grad = torch.ones(2)
        optimizer.step()
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert len(list((tmp_path / "inside" / "tensors").iterdir())) == 4


def test_long_names_with_the_same_end_have_folders_of_their_own(tmp_path):
    pairs = [(name * 5 + "z" * 120, nn.Parameter(torch.ones(2))) for name in "ab"]
    optimizer = LearnedOptimizer(pairs, rule=create_rule("sgd"), lr=1.0)
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        for size, (_, parameter) in enumerate(pairs, 2):
            parameter.grad = torch.full((2,), float(size))
        optimizer.step()
    folders = list((tmp_path / "tensors").iterdir())
    seen = [read(tmp_path, f"tensors/{one.name}").Scalars("update_rms") for one in folders]
    assert sorted(event.value for events in seen for event in events) == [2, 3]
    assert [len(events) for events in seen] == [1, 1]
    assert max(len(one.name) for one in folders) <= 100


def test_all_runs_of_a_large_model_are_selected(tmp_path):
    # TensorBoard draws none of more than 40 runs until the user selects some.
    pairs = [(f"w{k}", nn.Parameter(torch.ones(2 + k % 2))) for k in range(60)]
    optimizer = LearnedOptimizer(pairs, rule=create_rule("sgd"))
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        for _, parameter in pairs:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert len({path.parent for path in tmp_path.rglob("events.out.tfevents.*")}) == 33


def test_of_many_tensors_the_largest_are_observed(tmp_path):
    pairs = [(f"w{size}", nn.Parameter(torch.ones(size))) for size in range(1, 46)]
    optimizer = LearnedOptimizer(pairs, rule=create_rule("sgd"))
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        for _, parameter in pairs:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    seen = {path.name for path in (tmp_path / "tensors").iterdir()}
    assert seen == {f"w{size}" for size in range(14, 46)}

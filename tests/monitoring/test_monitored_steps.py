"""The monitor in special steps: equal names, skipped updates, compiled steps."""

import math
import warnings

import torch
from monitored_training import make_optimizer, make_rule, steps_of
from torch import nn
from torch._dynamo.testing import CompileCounter

from learned_opt import LearnedOptimizer
from learned_opt.monitoring.monitor import GateMonitor


def test_tensors_of_one_name_in_several_groups_are_kept_apart(tmp_path):
    torch.manual_seed(0)
    first, second = nn.Linear(3, 2), nn.Linear(2, 2)
    groups = [{"params": list(net.named_parameters())} for net in (first, second)]
    optimizer = LearnedOptimizer(groups, rule=make_rule("lstm"))
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            second(first(torch.ones(1, 3))).square().sum().backward()
            optimizer.step()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert steps_of(tmp_path, name) == [0, 1]


def test_a_skipped_step_is_not_shown_as_one(tmp_path):
    model, optimizer = make_optimizer(make_rule("lstm"))
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        for step in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 5)).square().sum().backward()
            if step == 1:
                model[0].bias.grad.fill_(math.nan)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of the skipped update
                optimizer.step()
    assert steps_of(tmp_path, "0.bias") == [0, 2]
    assert steps_of(tmp_path, "2.bias") == [0, 1, 2]
    assert steps_of(tmp_path, "0.bias", "quantiles/lstm0_forget/mean") == [0, 2]


def test_a_compiled_step_is_not_compiled_anew_for_it(tmp_path):
    counter = CompileCounter()
    torch._dynamo.reset()
    model, optimizer = make_optimizer(make_rule("lstm"))
    with GateMonitor(tmp_path, every=2) as monitor:
        monitor.attach(optimizer)
        step = torch.compile(optimizer.step, backend=counter)
        graphs = []
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(2, 5)).square().sum().backward()
            step()
            graphs.append(counter.frame_count)
    assert graphs[-1] == graphs[2]
    assert steps_of(tmp_path, "0.bias") == [0, 2, 4]

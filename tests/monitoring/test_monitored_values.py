"""The values that the monitor writes: gates, sizes of steps, losses."""

import math

import numpy as np
import pytest
import torch
from monitored_training import LAYERS, layout_of, make_model, make_optimizer, make_rule, read, train
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.monitoring.monitor import GateMonitor
from learned_opt.rules import Context, UpdateRule


@pytest.mark.parametrize("maximize", [False, True])
def test_writes_the_gates_of_the_rule(tmp_path, maximize):
    rule = make_rule()
    model, optimizer = make_optimizer(rule, maximize=maximize, lr=0.5)
    train(model, optimizer, 3)
    expected = {}

    def record(source, updates, context):
        sign = -1 if maximize else 1
        seen = Context(loss=sign * context.loss)
        for u in updates:
            arguments = sign * u.gradient, u.parameter, dict(u.state), seen
            delta = rule([arguments[0]], [u.parameter], [u.state], seen)[0][0]
            expected[u.name] = rule.gates(*arguments), 0.5 * delta.square().mean().sqrt()

    optimizer.register_update_hook(record)
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer, first_step=3)
        train(model, optimizer, 1, first=3)
    assert list(expected) == LAYERS
    for name, (gates, rms) in expected.items():
        events = read(tmp_path, f"tensors/{name}")
        (event,) = events.Scalars("update_rms")
        assert event.value == pytest.approx(rms.item(), rel=1e-5)
        for gate, values in gates.items():
            (event,) = events.Histograms(f"gates/{gate}")
            histogram = event.histogram_value
            assert event.step == 3
            assert histogram.num == sum(histogram.bucket) == values.numel()
            assert histogram.min == pytest.approx(values.min().item(), rel=1e-5)
            assert histogram.max == pytest.approx(values.max().item(), rel=1e-5)
            assert histogram.sum == pytest.approx(values.sum().item(), rel=1e-5)
            ordered = values.flatten().sort().values
            drop = int(0.1 * (len(ordered) - 1))
            for tag, value in (
                ("mean", values.mean()),
                ("10%", ordered[drop]),
                ("90%", ordered[-1 - drop]),
            ):
                (event,) = events.Scalars(f"quantiles/{gate}/{tag}")
                assert event.value == pytest.approx(value.item(), rel=1e-5)


def test_samples_large_tensors(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    with GateMonitor(tmp_path, every=1, coordinates=7) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 2)
        first, second = (monitor._samples.places("0.weight", 20) for _ in range(2))
    assert len(set(first.tolist())) == 7 and first is second
    events = read(tmp_path, "tensors/0.weight").Histograms("gates/forget")
    assert [event.histogram_value.num for event in events] == [7, 7]


class WholeTensorRule(UpdateRule):
    """A rule with one gate per tensor and one per coordinate and unit."""

    def init_tensor_state(self, parameter):
        return {"m": torch.zeros(3)}

    def update(self, gradients, parameters, states, context):
        return [-gradient for gradient in gradients], states

    def gates(self, gradient, parameter, state, context=None):
        assert gradient.shape == parameter.shape
        units = gradient.sigmoid().unsqueeze(-1).expand(*gradient.shape, 2)
        return {"tensor": gradient.mean().sigmoid(), "unit": units}


def test_rules_over_whole_tensors(tmp_path):
    model, optimizer = make_optimizer(WholeTensorRule())
    with GateMonitor(tmp_path, every=1, coordinates=4) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 2)
        monitor.figure()
    events = read(tmp_path, "tensors/0.weight")
    assert events.Histograms("gates/unit")[0].histogram_value.num == 40
    assert events.Histograms("gates/tensor")[0].histogram_value.num == 1


def test_sizes_of_steps_are_those_of_the_tensor(tmp_path):
    """SGD at lr 0.1 on (w^2 / 2)' = w: update 0.2, gradient and weight 2."""
    weight = nn.Parameter(torch.full((3,), 2.0))
    optimizer = LearnedOptimizer([("w", weight)], lr=0.1, rule=create_rule("sgd"))
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        weight.grad = weight.detach().clone()
        optimizer.step()
    events = read(tmp_path, "tensors/w")
    for tag, value in (
        ("update_rms", 0.2),
        ("effective_lr_log10", -1.0),
        ("update_to_weight_log10", -1.0),
    ):
        (event,) = events.Scalars(tag)
        assert event.value == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("closure", [False, True])
def test_the_training_loss_is_logged_if_it_is_known(tmp_path, closure):
    weight = nn.Parameter(torch.ones(1))
    optimizer = LearnedOptimizer([("w", weight)], rule=create_rule("sgd"))
    with GateMonitor(tmp_path, every=2) as monitor:
        monitor.attach(optimizer)
        for step in range(5):
            weight.grad = torch.ones(1)
            loss = torch.tensor(10.0 + step)
            if closure:
                optimizer.step(lambda loss=loss: loss)
            else:
                if step != 2:
                    monitor.log_loss(loss)
                optimizer.step()
    events = read(tmp_path).Scalars("curves/training_loss")
    expected = [(0, 10.0), (2, 12.0), (4, 14.0)]
    # Nothing is written for the step whose loss was not given: no older loss takes its place.
    assert [(e.step, e.value) for e in events] == (expected if closure else expected[::2])


def test_groups_with_plans_of_their_own_write_the_loss_and_the_schedule_once(tmp_path):
    model = make_model()
    plans = {0: 100, 2: 50}
    groups = [
        {"params": list(model[k].named_parameters(str(k))), "total_steps": plan}
        for k, plan in plans.items()
    ]
    optimizer = LearnedOptimizer(groups, rule=make_rule("step-size-lstm"))
    with GateMonitor(tmp_path, every=2) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 5)
    events = read(tmp_path)
    for tag in ("curves/training_loss", "schedule"):
        assert [event.step for event in events.Scalars(tag)] == [0, 2, 4]
    # The schedule is that of the first group.
    assert events.Scalars("schedule")[0].value == pytest.approx(1 / 3, rel=1e-5)
    assert all((tmp_path / "tensors" / name).exists() for name in LAYERS)


class HalfOpen(UpdateRule):
    """A gate that is always open, and one that opens."""

    def init_tensor_state(self, parameter):
        return {}

    def update(self, gradients, parameters, states, context):
        return [-gradient for gradient in gradients], states

    def gates(self, gradient, parameter, state, context=None):
        near_one = 1 - 10.0 ** -(2 + state["step"].reshape(1))
        return {
            "open": torch.ones(1),
            "ends_only": state["step"].reshape(1) % 2,
            "cell_forget": near_one,
            "opening": state["step"].reshape(1) / 4,
        }


def test_what_never_moves_is_left_out_or_comes_last(tmp_path):
    model, optimizer = make_optimizer(HalfOpen())
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 4)
    scalars = read(tmp_path, "tensors/0.bias").Tags()["scalars"]
    assert "saturated/open" not in scalars
    # At 0, 1/4, 1/2, 3/4 the gate is saturated in the first step alone.
    events = read(tmp_path, "tensors/0.bias").Scalars("saturated/opening")
    assert [(event.step, event.value) for event in events] == [(1, 0.0), (2, 0.0), (3, 0.0)]
    assert layout_of(tmp_path) == {
        "Training": ["training loss"],
        "Gates by tensor": ["opening gate: mean, 10% and 90%"],
        "Steps by tensor": [
            "effective learning rate: log10 of update / gradient",
            "log10 of update / weight",
        ],
        "Gates that are always saturated": [  # shown from last to first, see stored_order
            "cell forget gate, log10(1 - f): mean, 10% and 90%",
            "ends only gate: mean, 10% and 90%",
            "open gate, log10(1 - o): mean, 10% and 90%",
        ],
    }


def test_a_gate_near_one_is_charted_by_its_distance(tmp_path):
    model, optimizer = make_optimizer(HalfOpen())
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 3)
    events = read(tmp_path, "tensors/0.bias")
    for tag in ("mean", "10%", "90%"):
        found = [event.value for event in events.Scalars(f"log10_distance/cell_forget/{tag}")]
        assert found == pytest.approx([-2, -3, -4], abs=1e-3)
        assert len(events.Scalars(f"quantiles/cell_forget/{tag}")) == 3
    # Of 0, 1/4 and 1/2 only the first is near an end; float32 tells no distance below 1e-8.
    opening = [event.value for event in events.Scalars("log10_distance/opening/mean")]
    assert opening == pytest.approx([-8])


def test_a_network_that_steers_is_shown_beside_the_schedule(tmp_path):
    """Untrained, the steps of step-size-lstm are those of the schedule."""
    model, optimizer = make_optimizer(make_rule("step-size-lstm"), total_steps=100)
    with GateMonitor(tmp_path, every=2) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 5)
    # A warm-up over 3 steps, then a cosine: step 1 is 1/3 of it, and steps 3 and 5 are past it.
    cosines = [0.01 + 0.99 * (1 + math.cos(math.pi * t / 100)) / 2 for t in (0, 2, 4)]
    expected = [cosines[0] / 3, cosines[1], cosines[2]]
    schedule = read(tmp_path).Scalars("schedule")
    assert [event.step for event in schedule] == [0, 2, 4]
    assert [event.value for event in schedule] == pytest.approx(expected, rel=1e-5)
    events = read(tmp_path, "tensors/2.weight")
    assert [e.value for e in events.Scalars("step_size")] == pytest.approx(expected, rel=1e-4)
    assert [e.value for e in events.Scalars("step_multiplier")] == pytest.approx([1] * 3, abs=1e-4)
    titles = layout_of(tmp_path)["How the network steers"]
    assert titles[:2] == ["step size, beside the schedule", "the network's factor on the step size"]


@pytest.mark.parametrize("loss", [3, 3.0, np.float32(3), torch.tensor([3.0])])
def test_a_loss_may_be_any_number(loss, tmp_path):
    weight = nn.Parameter(torch.ones(1))
    optimizer = LearnedOptimizer([("w", weight)], rule=create_rule("sgd"))
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        weight.grad = torch.ones(1)
        monitor.log_loss(loss)
        optimizer.step()
    assert [event.value for event in read(tmp_path).Scalars("curves/training_loss")] == [3.0]


@pytest.mark.parametrize("loss", ["3", None, torch.ones(2), torch.ones((), dtype=torch.complex64)])
def test_what_is_no_loss_is_refused(loss, tmp_path):
    with (
        GateMonitor(tmp_path) as monitor,
        pytest.raises(TypeError, match="loss must be a number, got"),
    ):
        monitor.log_loss(loss)


def test_a_model_of_other_parameters_is_refused_and_nothing_hidden(tmp_path):
    optimizer = LearnedOptimizer(make_model().parameters(), rule=make_rule())
    with GateMonitor(tmp_path) as monitor:
        with pytest.raises(ValueError, match="trains no parameter of the model, a Linear"):
            monitor.attach(optimizer, model=nn.Linear(2, 2))
        monitor.attach(optimizer)

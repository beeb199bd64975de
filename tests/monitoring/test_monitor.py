"""The monitor writes the gates of the rule, and does not affect training."""

import math
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from learned_opt import LearnedOptimizer, create_rule, list_rules
from learned_opt.monitoring.monitor import GateMonitor
from learned_opt.rules import Context, UpdateRule

LAYERS = ["0.weight", "0.bias", "2.weight", "2.bias"]


def make_rule(name="gated-lstm"):
    torch.manual_seed(1)
    return create_rule(name)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def make_optimizer(rule, **options):
    model = make_model()
    return model, LearnedOptimizer(model.named_parameters(), rule=rule, **options)


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        loss = model(torch.randn(8, 5, generator=generator)).square().mean()
        loss.backward()
        optimizer.step(lambda loss=loss: loss)


def read(folder, run="training"):
    """The events of a run: what is not of a single tensor, or "tensors/NAME"."""
    events = EventAccumulator(str(folder / run), size_guidance={"histograms": 0, "scalars": 0})
    return events.Reload()


def steps_of(folder, tensor, tag="update_rms"):
    return [event.step for event in read(folder, f"tensors/{tensor}").Scalars(tag)]


def layout_of(folder, run="training"):
    """Titles of charts by category, as the newest layout has them."""
    event = read(folder, run).Tensors("custom_scalars__config__")[-1]
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    return {one.title: [chart.title for chart in one.chart] for one in layout.category}


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


def test_going_back_begins_new_heat_maps(tmp_path):
    rule = make_rule()
    with GateMonitor(tmp_path, every=1) as monitor:
        for steps in (5, 3):
            model, optimizer = make_optimizer(rule)
            with monitor.attach(optimizer):
                train(model, optimizer, steps)
        assert monitor._board.heat_maps.steps() == [0, 1, 2]


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


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 4)])
def test_any_shape(tmp_path, shape):
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = LearnedOptimizer([parameter], rule=make_rule())
    parameter.grad = torch.ones(shape)
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        optimizer.step(lambda: torch.ones(()))
    assert (tmp_path / "tensors" / "0.0").exists() == (math.prod(shape) > 0)


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


def test_by_default_the_first_step_is_observed(tmp_path):
    model, optimizer = make_optimizer(make_rule())
    with GateMonitor(tmp_path) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 3)
    assert steps_of(tmp_path, "0.weight")[0] == 0

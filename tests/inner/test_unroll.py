from dataclasses import replace

import pytest
import torch
from conftest import make_rule, same
from torch import nn

from meta_train.inner.imitation import Teacher
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.inner.unroll import roll_out
from meta_train.tasks import ModuleTask, Quadratic

STEPS = 7


@pytest.fixture
def setting():
    """A loop that imitates Adam on three networks with batch norm and dropout, and their runs."""
    data = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3

    def make_module():
        layers = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 3)
        return nn.Sequential(*layers)

    task = ModuleTask(make_module, nn.functional.cross_entropy, data, 8, examples=20)
    rule, teacher = make_rule("gated-lstm"), Teacher(make_rule("adam"), 1e-3)
    plan = RunPlan(Horizons(((STEPS,),)), teacher=teacher)
    runs = Runs(
        MetaParameters(rule),
        task,
        plan,
        indices=[0, 1, 2],
        total=3,
        seed=0,
        device=torch.device("cpu"),
    )
    window = runs.begin(LoopSettings(teacher=teacher), 0)
    return replace(window.loop, differentiable=False), runs


def data_of(runs, outer_data, outer_step):
    return runs.begin(LoopSettings(), outer_step, outer_data=outer_data).data


@pytest.mark.parametrize("outer_data", ["training", "fresh", "validation"])
@pytest.mark.parametrize("cuts", [(1,), (3,), (1, 2, 6), (6,)])
def test_parts_one_after_another_are_the_whole(setting, outer_data, cuts):
    loop, runs = setting
    whole = roll_out(loop, runs.inner, data_of(runs, outer_data, 0), STEPS)
    data, inner, parts = data_of(runs, outer_data, 0), runs.inner, []
    for first, end in zip((0, *cuts), (*cuts, STEPS), strict=True):
        parts.append(roll_out(loop, inner, data, end - first, first, more=end < STEPS))
        inner = parts[-1].inner
    assert same(torch.cat([part.losses for part in parts]), whole.losses)
    assert same(torch.cat([part.imitation for part in parts]), whole.imitation)
    assert same(dict(inner.named_tensors()), dict(whole.inner.named_tensors()))
    assert whole.losses.shape == whole.imitation.shape == (STEPS, 3)
    assert whole.imitation.min() > 0


def test_a_marked_place_gives_the_same_steps_again(setting):
    loop, runs = setting
    data = data_of(runs, "fresh", 0)
    roll_out(loop, runs.inner, data, 2, more=True)
    marks = data.mark()
    first = roll_out(loop, runs.inner, data, 3, 2)
    other = roll_out(loop, runs.inner, data, 3, 2)
    data.rewind(marks)
    again = roll_out(loop, runs.inner, data, 3, 2)
    assert same(again.losses, first.losses)
    assert not same(other.losses, first.losses)


def test_each_step_is_evaluated_by_the_loss_after_it(setting):
    loop, runs = setting
    # No dropout: the losses on either side of a step are then of the same function.
    quiet = replace(loop, loss=lambda p, b, _: (sum(v.square().sum() for v in p.values()), b))
    inner, expected = runs.inner, []
    data = data_of(runs, "training", 0)
    for _ in range(3):
        inner, _ = quiet.step(inner, data.training.next())
        expected.append(sum(v.square().flatten(1).sum(1) for v in inner.parameters.values()))
    for outer_data in ("training", "fresh"):
        seen = roll_out(quiet, runs.inner, data_of(runs, outer_data, 0), 3).losses
        torch.testing.assert_close(seen, torch.stack(expected))


def test_torchs_own_generator_is_left_as_it_was(setting):
    loop, runs = setting
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    roll_out(loop, runs.inner, data_of(runs, "training", 0), 2)
    assert same(torch.rand(3), expected)


def test_dropout_differs_from_step_to_step_and_run_to_run(setting):
    loop, runs = setting
    batch = data_of(runs, "training", 0).training.next()
    frozen = replace(loop, lr=0.0)
    stream = data_of(runs, "training", 0)
    stream.training.next = lambda: batch
    losses = roll_out(frozen, runs.inner, stream, 3).losses
    assert len(losses.unique()) == 9


@pytest.mark.parametrize("outer_data", ["training", "fresh"])
def test_a_run_that_diverges_when_it_is_evaluated_is_marked(outer_data):
    meta_parameters = MetaParameters(make_rule("sgd"), {"theta": torch.ones(3)})
    cpu = torch.device("cpu")
    plan, indices = RunPlan(Horizons(((1,),))), [0, 1, 2]
    runs = Runs(
        meta_parameters, Quadratic(dimensions=3), plan, indices=indices, total=3, seed=0, device=cpu
    )
    # The step of the second run is far too long, which only the loss after it shows.
    window = runs.begin(LoopSettings(lr=torch.tensor([0.01, 1e4, 0.01])), 0, outer_data=outer_data)
    found = roll_out(window.loop, window.inner, window.data, 1)
    assert found.losses[0, 1] > 1e3 * window.loop.evaluate(window.inner, runs.stream(0).next())[1]
    assert found.inner.alive.tolist() == [True, False, True]
    assert runs.end(found.inner) == 1


def test_zero_steps_draw_dropout_from_the_seed_of_the_data(setting):
    loop, runs = setting
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        data = data_of(runs, "validation", 0)
        losses.append(roll_out(loop, runs.inner, data, 0).losses)
    assert same(*losses)
    other = roll_out(loop, runs.inner, replace(data_of(runs, "validation", 0), seed=7), 0).losses
    assert not same(other, losses[0])

"""Which memory mode is chosen, and that its predicted peak is the real one."""

import gc
import itertools
import re

import pytest
import torch
from conftest import make_rule, same
from torch import nn
from torch.profiler import ProfilerActivity, profile

from meta_train.estimators import MetaObjective
from meta_train.estimators.footprint import Footprint, measure
from meta_train.estimators.memory_budget import MIB, MODES, choose_mode, read_budget
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.unroll import roll_out
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import ModuleTask

# torch 2.11 warns whenever a profiler starts.
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")

SOME = Footprint(state=4, step=40, work=10)


def held_bytes(call):
    """Memory that a call holds beyond what was held before it, after each change of it."""
    gc.collect()  # what others left behind would count as freed
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    ordered = sorted(events, key=lambda event: event.start_ns())
    return list(itertools.accumulate(event.nbytes() for event in ordered))


def make_trainer(horizon=20, rule="lstm", folder=None, initialization=None, **settings):
    """Two runs of networks of 10,010 coordinates, for one outer step."""
    data = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10
    task = ModuleTask(lambda: nn.Linear(1000, 10), nn.functional.cross_entropy, data, 16)
    return MetaTrainer(
        make_rule(rule, **({"hidden_sizes": (4,)} if rule == "lstm" else {})),
        task,
        TrainSettings(
            **{
                **{
                    "estimator": "first-order",
                    "runs": 2,
                    "outer_steps": 1,
                    "param_rescale_range": 0,
                },
                **{
                    "horizons": (horizon,),
                    "truncation_length": 5,
                    "gates_every": 0,
                    "objective": "sum",
                },
                **settings,
            }
        ),
        folder=folder,
        initialization=initialization,
        device="cpu",
    )


def footprint_of(trainer):
    (runs,) = trainer.groups.runs
    return measure(runs.begin(trainer.loop_settings, 0))


@pytest.mark.parametrize("memory", ["plain", "checkpointing", "truncated", "pes"])
def test_the_predicted_peak_is_the_real_one(memory, capsys):
    trainer = make_trainer(memory=memory)
    predicted = choose_mode(memory, footprint_of(make_trainer()), 20, 5).predicted_bytes
    if memory != "plain":
        (line,) = capsys.readouterr().out.splitlines()
        assert f"memory: {memory}" in line
        assert f"{predicted / MIB:.0f} MiB" in line
    trainer.train(progress=False)  # makes what is made once
    (runs,) = trainer.groups.runs

    def take():
        meta_objective = MetaObjective(OBJECTIVES["sum"])
        trainer.estimator.estimate(
            trainer.meta_parameters,
            trainer.loop_settings,
            runs,
            meta_objective,
            1,
            trainer.distributed,
        )

    assert max(held_bytes(take)) == pytest.approx(predicted, rel=0.3)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("rule", ["lstm", "gated-lstm"])
def test_the_graph_of_a_step_is_counted_to_the_byte_nearly(rule, second_order):
    trainer = make_trainer(rule=rule, second_order=second_order, estimator="full")
    footprint = footprint_of(trainer)
    (runs,) = trainer.groups.runs
    kept = []

    def held_after(steps):
        window = runs.begin(trainer.loop_settings, 0)

        def run():
            kept.append(roll_out(window.loop, window.inner, window.data, steps))

        return held_bytes(run)[-1]

    held_after(1)
    real = (held_after(5) - held_after(2)) / 3
    assert footprint.step == pytest.approx(real, rel=0.05)
    own = sum(value.nbytes for _, value in runs.inner.named_tensors())
    assert footprint.state == own


def test_counting_is_repeatable_and_leaves_nothing_behind():
    trainer = make_trainer()
    first = footprint_of(trainer)
    assert first == footprint_of(trainer) == footprint_of(make_trainer())
    assert first.work >= first.step > first.state > 0
    assert all(parameter.grad is None for parameter in trainer.meta_parameters.parameters())


@pytest.mark.parametrize(
    ("budget", "mode"),
    [
        (SOME.plain(100), "plain"),
        (SOME.plain(100) - 1, "checkpointing"),
        (SOME.checkpointing(100, 3), "checkpointing"),
        (SOME.checkpointing(100, 3) - 1, "truncated"),
        (SOME.checkpointing(10, 1), "truncated"),
        (SOME.checkpointing(10, 1) - 1, "pes"),
        (SOME.pes(), "pes"),
    ],
)
def test_the_first_mode_that_fits_is_taken(budget, mode):
    unit = Footprint(*(1024 * value for value in (SOME.state, SOME.step, SOME.work)))
    choice = choose_mode(f"{budget} KiB", unit, 100, truncation_length=10)
    assert choice.mode == mode
    assert choice.predicted_bytes <= 1024 * budget
    assert (choice.checkpoint_steps is None) == (mode in ("plain", "pes"))
    assert (choice.truncation_length is None) == (mode in ("plain", "checkpointing"))


def test_truncation_takes_the_longest_window_that_fits():
    unit = Footprint(5 * MIB, 20 * MIB, 20 * MIB)
    windows = [
        choose_mode(f"{b}MiB", unit, 100, truncation_length=4).truncation_length
        for b in (130, 150, 170, 190)
    ]
    assert windows == sorted(windows)
    assert windows[0] >= 4
    assert windows[-1] < 100
    for budget, truncation_length in zip((130, 150, 170, 190), windows, strict=True):
        least = min(
            unit.checkpointing(truncation_length + 1, k) for k in range(1, truncation_length + 2)
        )
        assert least > budget * MIB


def test_too_little_memory_is_refused_with_the_least_that_would_do():
    with pytest.raises(ValueError, match=r"memory='1MiB' is too little: pes takes the least"):
        choose_mode("1MiB", Footprint(MIB, 20 * MIB, MIB), 100, truncation_length=4)
    with pytest.raises(ValueError, match="checkpointing takes the least.*whole runs"):
        choose_mode("8MiB", Footprint(MIB, MIB, MIB), 100, truncation_length=4, whole_runs=True)


@pytest.mark.parametrize("text", ["", "0MiB", "12", "500MB", "-3MiB", "many", "1.5.0GiB"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        TrainSettings(estimator="full", memory=text)


def test_budgets_are_read():
    assert read_budget("500MiB") == 500 * MIB
    assert read_budget("1.5 GiB") == 1536 * MIB
    assert read_budget("2KiB") == 2048
    assert read_budget("checkpointing") is None


def test_the_modes():
    assert MODES == ("plain", "checkpointing", "truncated", "pes")


def test_the_old_name_of_a_mode_is_refused_with_the_new_one():
    with pytest.raises(ValueError, match='"segments" is now called memory="checkpointing"'):
        read_budget("segments")


def test_only_exact_estimators_have_modes():
    with pytest.raises(
        ValueError, match="memory='checkpointing' needs estimator full or first-order"
    ):
        TrainSettings(estimator="truncated", memory="checkpointing")


def test_a_budget_changes_nothing_as_long_as_the_gradient_is_exact():
    weights = []
    # In float64, which C does not step: memory is the same with its library and without.
    for memory in ("plain", "60MiB"):
        trainer = make_trainer(memory=memory, dtype="float64")
        weights.append(trainer.train(progress=False).state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-7)
    assert trainer.settings.estimator_settings["checkpoint_steps"] > 1


def test_a_first_order_gradient_stays_one_where_it_is_truncated():
    how = {"memory": "30MiB", "truncation_length": 2, "horizon": 40, "dtype": "float64"}
    for estimator in ("first-order", "full"):
        trainer = make_trainer(estimator=estimator, second_order=True, **how)
        assert trainer.settings.estimator == "truncated"
        assert 2 <= trainer.settings.truncation_length < 40
        assert trainer.loop_settings.second_order == (estimator == "full")


def test_budgets_hold_for_learned_initialisations_and_refuse_windows_for_their_objectives():
    start = {"weight": torch.zeros(10, 1000), "bias": torch.zeros(10)}
    how = {"rule": "sgd", "initialization": start, "estimator": "full", "objective": "last"}
    trainer = make_trainer(memory="100MiB", **how)
    trainer.train(progress=False)
    assert trainer.outer_step == 1
    with pytest.raises(ValueError, match="the objective needs whole runs"):
        make_trainer(memory="300KiB", **how)


def test_a_resumed_run_chooses_what_it_chose_before(tmp_path):
    how = {"memory": "28MiB", "truncation_length": 2, "horizon": 16, "schedule": "constant"}
    how["dtype"] = "float64"
    unbroken = make_trainer(folder=tmp_path / "one", outer_steps=2, **how)
    unbroken.train(progress=False)
    make_trainer(folder=tmp_path / "two", outer_steps=1, **how).train(progress=False)
    resumed = make_trainer(folder=tmp_path / "two", outer_steps=2, **how)
    assert resumed.resume()
    assert resumed.outer_step == 1
    resumed.train(progress=False)
    assert same(resumed.meta_parameters.state_dict(), unbroken.meta_parameters.state_dict())
    assert resumed.settings == unbroken.settings
    assert resumed.settings.estimator == "truncated"

    other = make_trainer(folder=tmp_path / "two", **{**how, "memory": "1GiB"})
    with pytest.raises(ValueError, match="was made with estimator"):
        other.resume()

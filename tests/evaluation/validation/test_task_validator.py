"""Validation: on other problems, of tasks and families, from a learned start, beside tuned Adam."""

import math

import pytest
import torch

from learned_opt import create_rule
from meta_train.evaluation.curves import Curves
from meta_train.evaluation.validation.task_validator import TaskValidator
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import Mixture, create_task

CPU = torch.device("cpu")


def make_meta_parameters(initialization=None, rule="adam-lstm", **settings):
    torch.manual_seed(0)
    return MetaParameters(create_rule(rule, **settings), initialization)


@pytest.fixture
def family():
    return Mixture(
        {"a": create_task("quadratic", dimensions=3), "b": create_task("quadratic", dimensions=5)}
    )


def test_a_validation_is_repeatable_and_leaves_the_meta_parameters_alone():
    meta_parameters = make_meta_parameters(hidden_size=3)
    before = [value.clone() for value in meta_parameters.parameters()]
    values = [TaskValidator(create_task("quadratic"), 6, CPU)(meta_parameters) for _ in range(2)]
    assert values[0] == values[1]
    assert math.isfinite(values[0])
    assert all(map(torch.equal, before, meta_parameters.parameters()))


@pytest.mark.parametrize("rule", ["adam-lstm", "step-size-lstm"])
def test_families_are_validated_on_several_tasks(family, rule):
    validator = TaskValidator(family, 6, CPU)
    assert len(validator.tasks) == 4
    assert math.isfinite(validator(make_meta_parameters(rule=rule)))
    assert validator.curves.shape == (4, 6)


def test_a_figure_has_the_learned_curves_and_those_of_adam_at_its_best_rate(family):
    validator = TaskValidator(family, 6, CPU)
    meta_parameters = make_meta_parameters(hidden_size=3)
    validator(meta_parameters)
    figure = validator.figure()
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["learned", "Adam, tuned"]
    first = validator._adam
    validator(meta_parameters)
    validator.figure()
    assert validator._adam is first  # trained once


def test_a_learned_initialisation_is_where_validation_starts():
    task = create_task("quadratic", dimensions=4)
    at_zero = {"theta": torch.zeros(4)}
    values = [
        TaskValidator(task, 3, CPU)(make_meta_parameters(start, hidden_size=3))
        for start in (None, at_zero, {"theta": torch.full((4,), 100.0)})
    ]
    assert values[0] != values[1]
    assert values[2] > max(values[:2])


def test_a_run_is_not_resumed_with_another_validation(tmp_path, family):
    def make_trainer(steps):
        settings = TrainSettings(
            outer_steps=1, runs=2, groups=2, horizons=(2,), truncation_length=2
        )
        rule = create_rule("adam-lstm", hidden_size=3)
        validator = TaskValidator(family, steps, CPU)
        return MetaTrainer(rule, family, settings, folder=tmp_path, validate=validator)

    make_trainer(3).train(progress=False)
    assert make_trainer(3).resume()
    with pytest.raises(ValueError, match="validation.*steps.*3"):
        make_trainer(4).resume()


def test_the_validation_loss_is_the_mean_of_logs(monkeypatch):
    losses = torch.tensor([[[1.0, 100.0, 0.0]]])  # a loss of 0 counts as 1e-8
    monkeypatch.setattr(
        "meta_train.evaluation.validation.task_validator.train_curves",
        lambda *_, **__: Curves(losses, torch.tensor([3]), torch.zeros(1, 1, 1)),
    )
    value = TaskValidator(create_task("quadratic"), 3, CPU)(make_meta_parameters(hidden_size=3))
    assert value == pytest.approx((0.0 + 4.6051702 - 18.4206807) / 3)


def test_a_task_is_validated_on_four_problems():
    validator = TaskValidator(create_task("quadratic", dimensions=3), 6, CPU)
    validator(make_meta_parameters(hidden_size=3))
    assert validator.curves.shape == (4, 6)

"""Validation beside a reference: zero for the reference itself, and the ratio by hand."""

import json
import math

import pytest
import torch
from conftest import make_rule

from learned_opt import UpdateRule, create_rule
from meta_train.evaluation.validation.ratio_validator import RatioValidator
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.jobs.config import ValidateSettings
from meta_train.runtime.seeding import generator
from meta_train.tasks import ModuleTask, create_task


@pytest.fixture
def tasks():
    random = torch.Generator().manual_seed(0)
    data = torch.randn(40, 3, generator=random), torch.randn(40, 2, generator=random)
    linear = ModuleTask(lambda: torch.nn.Linear(3, 2), torch.nn.functional.mse_loss, data, 8)
    return {"linear": linear, "quadratic": create_task("quadratic", dimensions=3)}


def validate(tasks, rule, reference, steps=20):
    validator = RatioValidator(tasks, reference, steps=steps, seeds=range(2))
    return validator, validator.mean_log_ratio(rule)


@pytest.mark.parametrize("name", ["orthogonal-momentum", "adam"])
def test_a_rule_beside_itself_is_zero(tasks, name):
    validator, value = validate(tasks, create_rule(name), create_rule(name))
    assert value == 0
    assert validator.ratios == {"linear": 0, "quadratic": 0}


def test_a_validation_with_dropout_is_repeatable(tasks):
    layers = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 2))
    data = tasks["linear"].inputs, tasks["linear"].targets
    dropped = {"dropout": ModuleTask(lambda: layers, torch.nn.functional.mse_loss, data, 8)}
    validator, first = validate(dropped, create_rule("adam"), create_rule("adam"))
    assert first == 0  # both train with the same units dropped
    assert validator.mean_log_ratio(create_rule("adam")) == 0  # the reference is not trained again


def test_an_untrained_general_is_its_base(tasks):
    reference = create_rule("orthogonal-momentum")
    validator = RatioValidator(tasks, reference, steps=20, seeds=range(2))
    rule = create_rule("general")
    assert validator(MetaParameters(rule)) == 0
    torch.nn.init.constant_(rule.bias, 0.5)
    assert validator(MetaParameters(rule)) != 0


class Uphill(UpdateRule):
    """Follows the gradient upwards, so that every loss grows."""

    default_lr = 0.5

    def init_tensor_state(self, parameter):
        return {}

    def update(self, gradients, parameters, states, context):
        return list(gradients), list(states)


def test_the_value_is_the_mean_log_ratio_of_final_losses(tasks):
    slow, fast = create_rule("sgd"), create_rule("momentum")
    one = {"linear": tasks["linear"]}
    validator, value = validate(one, fast, slow, steps=5)

    def finals(momentum):
        found = []
        for seed in range(2):
            problem = one["linear"].sample(generator("evaluate", seed), torch.device("cpu"))
            source = generator("evaluate", seed, "batches")
            model = torch.nn.Linear(3, 2)
            model.load_state_dict(problem.parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=momentum)
            for _ in range(5):
                inputs, targets = problem.draw(source)
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
            inputs, targets = problem.full()
            found.append(float(torch.nn.functional.mse_loss(model(inputs), targets).detach()))
        return found

    ratios = [math.log(a / b) for a, b in zip(finals(0.9), finals(0.0), strict=True)]
    assert value == pytest.approx(sum(ratios) / 2, abs=1e-5)
    assert value < -0.001


def test_a_ratio_counts_no_more_than_its_bound_and_a_diverged_run_as_much(tasks):
    good, bad = create_rule("adam"), Uphill()
    one = {"linear": tasks["linear"]}
    for steps in (30, 300):  # worse, then diverged
        assert validate(one, bad, good, steps)[1] == pytest.approx(0.7)
        assert validate(one, good, bad, steps)[1] == pytest.approx(-0.7)


def test_the_figure_has_a_bar_for_each_task(tasks):
    validator, _ = validate(tasks, create_rule("adam"), create_rule("sgd"), steps=5)
    axis = validator.figure().axes[0]
    assert sorted(label.get_text() for label in axis.get_yticklabels()) == ["linear", "quadratic"]
    assert len(axis.patches) == 2


def test_what_a_resumed_run_must_share_is_said(tasks):
    validator, _ = validate(tasks, create_rule("adam"), create_rule("sgd"), steps=5)
    assert json.loads(json.dumps(validator.describe())) == {
        "steps": 5,
        "seeds": [0, 1],
        "tasks": ["linear", "quadratic"],
        "reference": ["SGD", {}],
    }
    one, other = (
        RatioValidator(tasks, make_rule("lstm", spread=spread), steps=5, seeds=[0]).describe()
        for spread in (0.1, 0.2)
    )
    assert one["reference"][:2] == other["reference"][:2]
    assert one["reference"] != other["reference"]  # the weights count


def test_an_empty_validation_is_refused(tasks):
    with pytest.raises(ValueError, match="needs tasks, seeds and steps, got 0, 1 and 5"):
        RatioValidator({}, create_rule("sgd"), steps=5, seeds=[0])


def test_the_settings_name_a_rule_and_a_family():
    with pytest.raises(ValueError, match="unknown rule 'adm'; did you mean 'adam'"):
        ValidateSettings(reference="adm")
    with pytest.raises(ValueError, match="unknown task 'varid'; did you mean 'varied'"):
        ValidateSettings(reference="adam", task="varid")
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        ValidateSettings(seeds=0)

"""Rules that keep an average are meta-trained as they are used: evaluated at the average."""

import pytest
import torch
from conftest import make_rule, same

from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.inner.unroll import roll_out
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import ModuleTask

CPU = torch.device("cpu")
STEPS = 12


def make_task():
    random = torch.Generator().manual_seed(0)
    data = torch.randn(40, 3, generator=random), torch.randn(40, 2, generator=random)
    return ModuleTask(
        lambda: torch.nn.Linear(3, 2), torch.nn.functional.mse_loss, data, 4, examples=30
    )


def make_runs(rule, copies=1):
    plan = RunPlan(Horizons(((STEPS,),)), copies=copies)
    return Runs(
        MetaParameters(rule), make_task(), plan, indices=[0, 1], total=2, seed=0, device=CPU
    )


def losses_after(rule, outer_data):
    """Losses after each step of a rollout, and the losses at parameters and average at its end."""
    runs = make_runs(rule)
    window = runs.begin(LoopSettings(), 0, outer_data=outer_data)
    found = roll_out(window.loop, window.inner, window.data, STEPS)
    batch = runs.stream(0, "full").next()
    inner = found.inner
    average = {
        key: torch.stack(
            [
                rule.evaluation_point(
                    value[run], {k: v[run] for k, v in inner.states[key].items()}
                )[0]
                for run in range(2)
            ]
        )
        for key, value in inner.parameters.items()
    }

    def loss(parameters):
        outputs = torch.einsum("roi,rbi->rbo", parameters["weight"], batch[0])
        return (outputs + parameters["bias"].unsqueeze(1) - batch[1]).square().mean((1, 2))

    return found.losses, loss(inner.parameters), loss(average)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_the_last_loss_on_outer_data_is_that_of_the_average(spread):
    losses, at_parameters, at_average = losses_after(make_rule("general", spread=spread), "full")
    torch.testing.assert_close(losses[-1], at_average)
    assert not torch.allclose(at_parameters, at_average, rtol=1e-3)


def test_a_rule_without_an_average_is_evaluated_at_the_parameters():
    losses, at_parameters, _ = losses_after(make_rule("adam-lstm"), "full")
    torch.testing.assert_close(losses[-1], at_parameters)


def test_full_data_are_all_training_data_of_each_problem():
    runs = make_runs(make_rule("adam-lstm"))
    inputs, targets = runs.stream(0, "full").next()
    assert inputs.shape == (2, 30, 3)
    for run, problem in enumerate(runs.problems):
        assert same((inputs[run], targets[run]), problem.full())


@pytest.mark.parametrize(("name", "told"), [("general", False), ("step-size-lstm", True)])
def test_a_rule_that_keeps_an_average_is_not_told_the_number_of_steps(name, told):
    total = make_runs(make_rule(name)).bind(LoopSettings()).total_steps
    assert (total is not None) == told


def test_general_is_meta_trained_by_evolution_and_by_backpropagation():
    objective = MetaObjective(OBJECTIVES["log-last"], "full")
    for name in ("es", "full"):
        estimator = create_estimator(name)
        runs = make_runs(make_rule("general"), estimator.copies)
        found = estimator.estimate(
            runs.meta_parameters, LoopSettings(), runs, objective, 0, DistributedContext()
        )
        assert found.counted == 2
        weight, bias = found.gradients
        assert weight.shape == (2, 2, 14)
        # Both the matrix and the vector, both the direct output and the drift.
        assert bool((bias != 0).all())
        assert bool(weight.isfinite().all())


def test_backpropagation_through_the_average_is_the_derivative():
    rule = make_rule("general", spread=0.05).double()
    objective = MetaObjective(OBJECTIVES["last"], "full")

    def estimate():
        plan = RunPlan(Horizons(((5,),)), dtype=torch.float64)
        runs = Runs(
            MetaParameters(rule), make_task(), plan, indices=[0], total=1, seed=0, device=CPU
        )
        estimator = create_estimator("full")
        return estimator.estimate(
            runs.meta_parameters,
            LoopSettings(second_order=True),
            runs,
            objective,
            0,
            DistributedContext(),
        )

    _, bias = estimate().gradients
    step, values = 1e-4, []
    for sign in (1, -1):
        with torch.no_grad():
            rule.bias[0, 0] += sign * step
        values.append(float(estimate().meta_loss.detach()))
        with torch.no_grad():
            rule.bias[0, 0] -= sign * step
    numeric = (values[0] - values[1]) / (2 * step)
    assert abs(numeric) > 1e-6
    assert float(bias[0, 0]) == pytest.approx(numeric, rel=1e-4)

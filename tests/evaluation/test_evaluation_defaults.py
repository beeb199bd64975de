"""What a comparison is made of and what its figures are, written down."""

import pytest
import torch

from learned_opt import create_rule
from meta_train.evaluation.baselines import BASELINES, SCHEDULES, Baseline
from meta_train.evaluation.comparison.compare import compare
from meta_train.evaluation.comparison.trainings import ComparisonTask
from meta_train.evaluation.curves import Curves, train_curves
from meta_train.tasks import Quadratic

DECADES = [1.0, 10 ** (1 / 3), 10 ** (2 / 3)]


@pytest.mark.parametrize(
    ("label", "rule", "lowest", "schedule"),
    [
        ("Adam", "adam", 1e-3, "constant"),
        ("RMSprop", "rmsprop", 1e-3, "constant"),
        ("SGD + momentum", "momentum", 1e-2, "constant"),
        ("Adam, decayed", "adam", 1e-3, "inverse"),
    ],
)
def test_baselines_are_tuned_over_three_decades(label, rule, lowest, schedule):
    (baseline,) = [one for one in BASELINES if one.label == label]
    assert (baseline.rule, baseline.schedule, baseline.weight_decay) == (rule, schedule, 0.0)
    expected = [lowest * 10**decade * part for decade in range(3) for part in DECADES]
    assert baseline.learning_rates == pytest.approx([*expected, 1000 * lowest])


def test_a_cosine_warms_up_over_three_hundredths_of_the_steps():
    cosine = SCHEDULES["cosine"]
    assert cosine(15, 1000) == pytest.approx(0.5, rel=1e-3)
    assert cosine(30, 1000) == pytest.approx(1.0, rel=3e-3)
    assert cosine(500, 1000) == pytest.approx(0.5)
    assert cosine(1000, 1000) == pytest.approx(0.0, abs=1e-12)


def test_figures_are_means_over_steps_and_the_last_loss_on_all_data():
    losses = torch.tensor([[[1.0, 3.0, 8.0], [2.0, 6.0, 1.0]]])
    on_all_data = torch.tensor([[[4.0, 5.0], [6.0, 7.0]]])
    curves = Curves(losses, torch.tensor([2, 3]), on_all_data)
    assert curves.mean_losses(2).tolist() == [[2.0, 4.0]]
    assert curves.mean_losses(3).tolist() == [[4.0, 3.0]]
    assert curves.final_losses(2).tolist() == [[4.0, 6.0]]
    assert curves.final_losses(3).tolist() == [[5.0, 7.0]]


def test_losses_on_all_data_are_taken_every_five_steps_and_at_the_end():
    curves = train_curves(create_rule("sgd"), Quadratic(dimensions=2), seeds=[0], steps=12)
    assert curves.checked.tolist() == [5, 10, 12]


def test_each_figure_is_at_the_learning_rate_that_is_best_for_it():
    task, rates = Quadratic(dimensions=3), (1e-4, 3e-3, 0.02, 0.05)
    (learned, baseline) = compare(
        create_rule("sgd"),
        [ComparisonTask("one", "one", task, steps=10, patience=20)],
        seeds=range(3),
        baselines=[Baseline("SGD", "sgd", rates)],
    )["one"]
    curves = train_curves(create_rule("sgd"), task, seeds=range(3), steps=20, learning_rates=rates)
    means, finals = curves.mean_losses(10).mean(1), curves.final_losses(10).mean(1)
    assert baseline.mean_loss[0] == pytest.approx(float(means.min()))
    assert baseline.mean_loss_lr == rates[int(means.argmin())]
    assert baseline.final_loss[0] == pytest.approx(float(finals.min()))
    assert baseline.final_loss_lr == rates[int(finals.argmin())]
    assert baseline.mean_loss[1] == pytest.approx(
        float(curves.mean_losses(10)[int(means.argmin())].std())
    )
    assert baseline.steps_to_reach == curves.steps_to_reach(learned.final_loss[0])

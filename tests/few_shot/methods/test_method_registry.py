import pytest

from learned_opt.rules.base import UpdateRule
from meta_train.estimators import create_estimator
from meta_train.few_shot.methods.registry import ROWS, get_row, list_rows
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.settings import TrainSettings
from meta_train.tasks.episodes.omniglot import OmniglotClasses

PLACES = [(5, 1), (5, 5), (20, 1), (20, 5)]


def trainable(row):
    return row.trained_on == "episodes"


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("ways", "shots"), PLACES)
def test_every_row_makes_tasks_a_rule_and_settings(name, ways, shots):
    row = get_row(name).at(ways, shots)
    task = row.test_task(ways, shots, hidden=4, queries=5)
    learned, adapted = row.start(task)
    rule = row.make_rule(adapted)
    assert isinstance(rule, UpdateRule)
    if trainable(row):
        row.train_task(ways, shots, hidden=4, queries=5)
        estimator = create_estimator(row.estimator, **row.estimator_settings)
        estimator.check(MetaParameters(rule, learned))
        TrainSettings(
            estimator=row.estimator,
            estimator_settings=dict(row.estimator_settings),
            runs=row.meta_batch,
            **row.outer,
        )
    elif row.trained_on == "classes":
        assert isinstance(row.train_task(ways, shots, hidden=4, queries=5), OmniglotClasses)
    else:
        with pytest.raises(ValueError, match=f"initialisation of {row.uses}"):
            row.train_task(ways, shots)
        assert row.uses in ROWS


@pytest.mark.parametrize("name", list_rows(sine=True))
def test_rows_of_sine_curves(name):
    row = get_row(name).on_sine()
    task = row.sine_task(5)
    learned, adapted = row.start(task)
    assert set(adapted) <= set(task.template()) and set(learned) <= set(task.template())
    create_estimator(row.estimator, **row.estimator_settings).check(
        MetaParameters(row.make_rule(adapted), learned)
    )


def test_settings_of_ways_and_shots():
    maml = get_row("maml")
    assert (maml.at(5, 1).inner_lr, maml.at(20, 5).inner_lr) == (0.4, 0.1)
    assert (maml.at(5, 5).train_steps, maml.at(20, 1).train_steps) == (1, 5)
    lstm = get_row("meta-lstm")
    assert (lstm.at(5, 1).train_steps, lstm.at(5, 5).train_steps) == (12, 8)
    assert not lstm.transductive and maml.transductive


def test_what_is_learned_and_what_is_adapted():
    body = get_row("maml-fresh-head")
    learned, adapted = body.start(body.test_task(5, 1, hidden=2))
    assert {name.split(".")[0] for name in learned} == {"body"}
    assert {name.split(".")[0] for name in adapted} == {"body", "head"}
    anil = get_row("anil")
    learned, adapted = anil.start(anil.test_task(5, 1, hidden=2))
    assert {name.split(".")[0] for name in learned} == {"body", "head"}
    assert set(adapted) == {"head.weight", "head.bias"}


def test_published_figures_are_percent_in_the_four_places():
    for row in ROWS.values():
        assert set(row.published) <= set(PLACES)
        assert all(80 < value < 100 for value, _ in row.published.values())


def test_names_that_are_not_there():
    with pytest.raises(ValueError, match="did you mean 'reptile'"):
        get_row("reptil")
    with pytest.raises(ValueError, match="only classifies"):
        get_row("r2d2").on_sine()

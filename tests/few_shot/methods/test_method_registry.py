"""Every method of the registry makes tasks, a rule and settings that fit together."""

import pytest

from learned_opt.rules.base import UpdateRule
from meta_train.estimators import create_estimator
from meta_train.few_shot.episodes import evaluation_task, method_settings, training_task
from meta_train.few_shot.margins.task import MarginClasses
from meta_train.few_shot.methods.build import initial_parameters, make_rule
from meta_train.few_shot.methods.registry import METHODS, get_method, list_methods
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import train_settings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.tasks.episodes.omniglot import OmniglotClasses

PLACES = [(5, 1), (5, 5), (20, 1), (20, 5)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("ways", "shots"), PLACES)
def test_every_method_makes_tasks_a_rule_and_settings(name, ways, shots):
    config = FewShotConfig(
        row=name, data="omniglot", ways=ways, shots=shots, task_settings={"hidden": 4}
    )
    method = method_settings(name, config)
    learned, adapted = initial_parameters(method, evaluation_task(method, config))
    rule = make_rule(method, adapted)
    assert isinstance(rule, UpdateRule)
    if method.trained_on == "episodes":
        training_task(method, config)
        estimator = create_estimator(method.estimator, **method.estimator_settings)
        estimator.check(MetaParameters(rule, learned))
        train_settings(method, config)
    elif method.trained_on == "classes":
        kind = OmniglotClasses if method.margin is None else MarginClasses
        assert isinstance(training_task(method, config), kind)
    else:
        with pytest.raises(ValueError, match=f"initialisation of {method.uses}"):
            training_task(method, config)
        assert method.uses in METHODS


@pytest.mark.parametrize("name", list_methods(sine=True))
def test_methods_on_sine_curves(name):
    config = FewShotConfig(row=name, shots=5)
    method = method_settings(name, config)
    task = evaluation_task(method, config)
    learned, adapted = initial_parameters(method, task)
    assert set(adapted) <= set(task.template()) and set(learned) <= set(task.template())
    create_estimator(method.estimator, **method.estimator_settings).check(
        MetaParameters(make_rule(method, adapted), learned)
    )


def test_ways_and_shots_change_settings():
    maml = get_method("maml")
    assert (maml.on_omniglot(5, 1).inner_lr, maml.on_omniglot(20, 5).inner_lr) == (0.4, 0.1)
    assert (maml.on_omniglot(5, 5).train_steps, maml.on_omniglot(20, 1).train_steps) == (1, 5)
    lstm = get_method("meta-lstm")
    assert (lstm.on_omniglot(5, 1).train_steps, lstm.on_omniglot(5, 5).train_steps) == (12, 8)
    assert maml.omniglot.transductive and not lstm.omniglot.transductive


def test_published_figures_are_percent_in_the_four_places():
    for method in METHODS.values():
        assert set(method.published_by_instance) <= set(range(1, 11))
        assert all(20 < value < 100 for value in method.published_by_instance.values())
        assert set(method.published) <= set(PLACES)
        assert all(80 < value < 100 for value, _ in method.published.values())


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="did you mean 'reptile'"):
        get_method("reptil")
    with pytest.raises(ValueError, match="only classifies"):
        get_method("r2d2").on_sine()

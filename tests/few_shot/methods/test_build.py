"""Rules and initialisations of methods, for training and testing."""

from dataclasses import replace

import pytest

from learned_opt.weights import shared_pretrained
from meta_train.few_shot.episodes import evaluation_task
from meta_train.few_shot.methods.build import initial_parameters, make_rule
from meta_train.few_shot.methods.registry import get_method
from meta_train.few_shot.settings import FewShotConfig


def parts(name):
    """Beginnings of the names of learned and of adapted parameters, on Omniglot."""
    config = FewShotConfig(row=name, data="omniglot", task_settings={"hidden": 2})
    method = get_method(name).on_omniglot(5, 1)
    found = initial_parameters(method, evaluation_task(method, config))
    return [{key.split(".")[0] for key in parameters} for parameters in found]


def test_learned_and_adapted_parameters():
    assert parts("maml") == [{"body", "head"}, {"body", "head"}]
    assert parts("maml-fresh-head") == [{"body"}, {"body", "head"}]
    assert parts("anil") == [{"body", "head"}, {"head"}]


@pytest.mark.parametrize("name", ["step-size-lstm", "digits-lstm"])
def test_pretrained_weights_are_named_with_a_prefix(name):
    method = replace(get_method("reptile-lstm").omniglot, rule=f"pretrained:{name}")
    rule = make_rule(method, {})
    bundled = shared_pretrained(name)
    assert rule is not bundled
    assert all(weight.requires_grad for weight in rule.parameters())
    assert all(a.equal(b) for a, b in zip(rule.parameters(), bundled.parameters(), strict=True))

"""Defaults of `adapt`, written down."""

from conftest import make_batch, make_model, same, weights
from torch import nn

from learned_opt.adaptation import adapt


def test_five_steps_of_sgd_at_its_own_learning_rate_are_taken():
    model, support, loss = make_model(), make_batch(), nn.functional.mse_loss
    adapted = weights(adapt(model, support, loss=loss))
    assert same(adapted, weights(adapt(model, support, rule="sgd", lr=0.01, steps=5, loss=loss)))
    assert not same(adapted, weights(adapt(model, support, steps=4, loss=loss)))

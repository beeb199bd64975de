"""Model selection: the lowest validation loss, patience, and its state."""

import math

import torch

from learned_opt import create_rule
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.model_selection import ModelSelection


def average_of(value):
    meta_parameters = MetaParameters(create_rule("adam-lstm", hidden_size=3))
    with torch.no_grad():
        for weight in meta_parameters.parameters():
            weight.fill_(value)
    return meta_parameters


def values(meta_parameters):
    return {
        weight.item()
        for weight in torch.nn.utils.parameters_to_vector(meta_parameters.parameters())
    }


def test_the_average_with_the_lowest_loss_is_kept_and_patience_counts_the_others():
    selection = ModelSelection(average_of(0.0), patience=2)
    for step, (value, loss) in enumerate([(1.0, 5.0), (2.0, 3.0), (3.0, 3.0)], 1):
        selection.update(average_of(value), loss, step)
        assert not selection.patience_is_over
    assert values(selection.best) == {2.0}
    assert (selection.best_value, selection.validated_at) == (3.0, 3)
    selection.update(average_of(4.0), 4.0, 4)
    assert selection.patience_is_over
    assert selection.validations_without_best == 2


def test_a_loss_that_is_not_a_number_is_replaced_by_the_next_and_never_wins():
    selection = ModelSelection(average_of(0.0), patience=0)
    selection.update(average_of(1.0), math.nan, 1)
    selection.update(average_of(2.0), 7.0, 2)
    selection.update(average_of(3.0), math.nan, 3)
    assert values(selection.best) == {2.0}
    assert selection.best_value == 7.0
    assert not selection.patience_is_over  # patience 0 never ends


def test_its_state_goes_on_where_it_was():
    first, second = (ModelSelection(average_of(0.0), patience=2) for _ in range(2))
    second.load_state_dict(*first.state_dict())
    assert second.best_value == math.inf
    first.update(average_of(1.0), 1.0, 10)
    first.update(average_of(2.0), 2.0, 20)
    second.load_state_dict(*first.state_dict())
    assert values(second.best) == {1.0}
    assert (second.best_value, second.validated_at, second.validations_without_best) == (1.0, 20, 1)

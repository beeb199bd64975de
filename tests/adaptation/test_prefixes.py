"""Names to adapt or to keep: the name of a module means that module."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from learned_opt import Initialization, adapt


def layers():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(12)))


def changed(module, other):
    named = dict(other.named_parameters())
    return {k for k, value in module.named_parameters() if not torch.equal(value, named[k])}


def test_a_module_is_adapted_without_those_whose_names_begin_alike():
    model, support = layers(), (torch.randn(8, 3), torch.randint(3, (8,)))
    alone = adapt(model, support, lr=0.1, steps=1, only=["1"])
    assert changed(alone, model) == {"1.weight", "1.bias"}
    tensor = adapt(model, support, lr=0.1, steps=1, only=["1.weight"])
    assert changed(tensor, model) == {"1.weight"}
    several = adapt(model, support, lr=0.1, steps=1, only=["1.w", "11"])
    assert changed(several, model) == {"1.weight", "11.weight", "11.bias"}


def test_a_module_is_kept_without_those_whose_names_begin_alike():
    model, other = layers(), layers()
    with torch.no_grad():
        for value in other.parameters():
            value.add_(1)
    initialization = Initialization.of(other)
    kept = {name for name, _ in model.named_parameters()} - changed(
        initialization.apply_to(layers(), keep=["1"]), model
    )
    assert kept == {"1.weight", "1.bias"}


def test_a_part_of_a_name_means_all_that_begin_with_it():
    parts = {name: nn.Linear(3, 3) for name in ("conv1", "conv10", "head")}
    model, support = nn.Sequential(OrderedDict(parts)), (torch.randn(8, 3), torch.arange(8) % 3)
    adapted = adapt(model, support, lr=0.1, steps=1, only=["conv"])
    assert changed(adapted, model) == {
        "conv1.weight", "conv1.bias", "conv10.weight", "conv10.bias",
    }  # fmt: skip


class Tied(nn.Module):
    """Its parameters go by the first of their names: `table.weight` is `head.weight`, too."""

    def __init__(self):
        super().__init__()
        self.table, self.middle, self.head = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5)
        self.head.weight = self.table.weight

    def forward(self, inputs):
        return self.head(self.middle(self.table(inputs)))


@pytest.mark.parametrize("functional", [False, True])
def test_a_tied_parameter_is_adapted_by_either_name(functional):
    model, support = Tied(), (torch.arange(5), torch.arange(5))
    for only, expected in (
        (["head"], {"table.weight", "head.bias"}),
        (["head.weight"], {"table.weight"}),
        (["table"], {"table.weight"}),
    ):
        adapted = adapt(model, support, lr=1.0, steps=1, only=only, functional=functional)
        values = adapted if functional else dict(adapted.named_parameters())
        moved = {k for k, v in model.named_parameters() if not torch.equal(v, values[k])}
        assert moved == expected


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (["head"], {"table.weight", "head.bias"}),
        (["head.weight"], {"table.weight"}),
        (["table"], {"table.weight"}),
    ],
)
def test_a_tied_parameter_is_kept_by_either_name(keep, expected):
    model = Tied()
    before = copy.deepcopy(model)
    Initialization.of(Tied()).apply_to(model, keep=keep)
    names = {name for name, _ in model.named_parameters()}
    assert names - changed(model, before) == expected

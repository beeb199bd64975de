"""Under FakeTensorMode, as tools that foretell memory do: shapes without values."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from learned_opt import LearnedOptimizer, create_rule, list_pretrained, load_initialization


@pytest.mark.parametrize("name", [*list_pretrained(), "adam", "orthogonal-momentum"])
def test_rules_go_by_name_under_fake_tensors(name):
    with FakeTensorMode():
        model = torch.nn.Linear(4, 3)
        optimizer = LearnedOptimizer(model.parameters(), rule=name, total_steps=100)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(5, 4)).sum().backward()
            optimizer.step()
        assert optimizer.skipped_updates == 0
        optimizer.load_state_dict(optimizer.state_dict())
        rule = create_rule("lstm")
        with pytest.raises(ValueError, match="made under FakeTensorMode and has no weights"):
            LearnedOptimizer(model.parameters(), rule=rule)
    # What is shared was not spoilt by it.
    model = torch.nn.Linear(4, 3)
    other = LearnedOptimizer(model.parameters(), rule=name, total_steps=100)
    assert other.defaults["rule"] == optimizer.defaults["rule"]
    model(torch.ones(5, 4)).sum().backward()
    other.step()
    assert all(value.isfinite().all() for value in model.parameters())


def test_files_are_read_with_values_under_fake_tensors():
    with FakeTensorMode():
        initialization = load_initialization("omniglot-maml")
    values = list(initialization.parameters.values())
    assert all(type(value) is torch.Tensor and value.isfinite().all() for value in values)

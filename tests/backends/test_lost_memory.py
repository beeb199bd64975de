"""A tensor that has more elements than memory is an error rather than the end of the process."""

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, list_rules
from learned_opt.backends.registry import FUSED_STEPS

NAMES = [name for name in list_rules() if type(create_rule(name)) in FUSED_STEPS]


def stepped(name, last, fused=None):
    """An optimizer of a small parameter and `last`, after two steps."""
    rule = create_rule(name)
    planned = 50 if "total_steps" in rule.required_context() else None
    parameters = [("first", nn.Parameter(torch.ones(3, 4))), ("last", last)]
    optimizer = LearnedOptimizer(parameters, rule=rule, total_steps=planned, fused=fused)
    for _ in range(2):
        step(optimizer)
    return optimizer


def step(optimizer):
    for parameter in optimizer.param_groups[0]["params"]:
        if parameter.grad is None:
            parameter.grad = torch.ones(parameter.shape)
    optimizer.step(lambda: torch.tensor(1.5))


def first_tensors(optimizer):
    first = optimizer.param_groups[0]["params"][0]
    return [first.detach().clone(), *(value.clone() for value in optimizer.state[first].values())]


def assert_refused(optimizer, match):
    """Nothing moves, at the second try either."""
    before = first_tensors(optimizer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=match):
            step(optimizer)
    for old, new in zip(before, first_tensors(optimizer), strict=True):
        assert torch.equal(old, new)


def assert_storage_is_needed(optimizer, value, what, kept_bytes):
    value.untyped_storage().resize_(kept_bytes)
    assert_refused(optimizer, f"^{what}parameter last has more elements than its memory holds")


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("kept_bytes", [0, 40])
@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_or_gradient_needs_its_storage(name, kept_bytes, fused):
    for what in ("", "the gradient of "):
        last = nn.Parameter(torch.ones(3, 4))
        optimizer = stepped(name, last, fused)
        assert_storage_is_needed(optimizer, last.grad if what else last, what, kept_bytes)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("kept_bytes", [0, 40])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "sgd"])
def test_state_needs_its_storage(name, kept_bytes, fused):
    last = nn.Parameter(torch.ones(3, 4))
    optimizer = stepped(name, last, fused)
    state = optimizer.state[last]
    key = next(key for key, value in state.items() if value.numel() >= 12)
    assert_storage_is_needed(optimizer, state[key], f"the state '{key}' of ", kept_bytes)


def test_a_view_beyond_the_end_of_its_storage_is_refused():
    memory = torch.ones(40)
    last = nn.Parameter(memory.as_strided((3, 4), (8, 1), 10))
    optimizer = stepped("adam", last)
    memory.untyped_storage().resize_(4 * 30)  # the last element is the 30th
    step(optimizer)
    memory.untyped_storage().resize_(4 * 29)
    assert_refused(optimizer, "^parameter last has more elements")


def test_an_empty_tensor_needs_no_memory():
    last = nn.Parameter(torch.ones(0, 4))
    optimizer = stepped("adam", last)
    last.untyped_storage().resize_(0)
    before = first_tensors(optimizer)
    step(optimizer)
    assert not torch.equal(first_tensors(optimizer)[0], before[0])


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("shape", [(3, 4), (4,)])
@pytest.mark.parametrize("name", NAMES)
def test_an_expanded_parameter_is_refused_before_anything_moves(name, shape, fused):
    last = nn.Parameter(torch.ones(shape))
    optimizer = stepped(name, last, fused)
    last.data = last.data[:1].expand(shape)
    before = [value.clone() for value in optimizer.state[last].values()]
    assert_refused(optimizer, "^parameter last cannot be written")
    for old, new in zip(before, optimizer.state[last].values(), strict=True):
        assert torch.equal(old, new)


OVERLAPPING = {
    "rows": ((3, 4), (2, 1)),
    "columns": ((3, 4), (1, 2)),
    "all alike": ((3, 4), (1, 1)),
    "the middle of three": ((3, 2, 2), (3, 1, 1)),
    "one row": ((1, 2, 4), (1, 2, 1)),
}
"""Shapes and strides: some elements share places, and no stride is 0."""


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("layout", OVERLAPPING)
@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_overlaps_itself_is_refused_before_anything_moves(name, layout, fused):
    shape, strides = OVERLAPPING[layout]
    last = nn.Parameter(torch.ones(shape))
    optimizer = stepped(name, last, fused)
    memory = torch.linspace(-1, 1, 12)
    last.data = memory.as_strided(shape, strides)
    before = [value.clone() for value in optimizer.state[last].values()]
    assert_refused(optimizer, "^parameter last cannot be written")
    assert torch.equal(memory, torch.linspace(-1, 1, 12))
    for old, new in zip(before, optimizer.state[last].values(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((2, 3), (3, 2)),  # places 0 2 4 and 3 5 7
        ((3, 2), (2, 3)),
        ((2, 3), (1, 2)),
        ((2, 3), (7, 2)),
        ((2, 1, 3), (3, 0, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_odd_strides_without_overlap_are_stepped(name, shape, strides):
    ends = []
    for odd in (True, False):
        torch.manual_seed(0)
        last = nn.Parameter(torch.ones(shape))
        optimizer = stepped(name, last)
        values = torch.linspace(-1, 1, 12).as_strided(shape, strides)
        before = values.clone()
        last.data = values if odd else before.contiguous().clone()
        step(optimizer)
        ends.append(last.detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ends[0], before)


@pytest.mark.parametrize("name", NAMES)
def test_a_sparse_entry_in_the_state_is_left_alone(name):
    last = nn.Parameter(torch.ones(3, 4))
    optimizer = stepped(name, last)
    optimizer.state[last]["mine"] = torch.eye(3).to_sparse()
    before = last.detach().clone()
    for _ in range(2):
        step(optimizer)
    assert not torch.equal(last.detach(), before)

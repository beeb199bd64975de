"""Optimizers whose state or weights others write between steps."""

import math

import pytest
import torch
from coordinate_cases import (
    NAMES,
    code,  # noqa: F401 - a fixture
    drawn,
    everything,
    optimizer_of,
    random_rule,
    step,
)

WRITTEN = {
    "lstm": "c1",
    "gated-lstm": "recent",
    "momentum-gated-lstm": "m",
    "adam-lstm": "slow",
}
HAND_MADE = {"momentum": "m", "rmsprop": "v", "adam": "m"}
"""A state tensor of each rule; the latter have no faster code but C."""


@pytest.mark.usefixtures("code")
@pytest.mark.filterwarnings("ignore:the update of")
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_somebody_spoilt_is_noticed(name, bad):
    rule = random_rule(name)
    sides = [optimizer_of(rule, drawn(1, 70), drawn(2, 3), fused=fused) for fused in (True, False)]
    for side in sides:
        for k in range(3):
            step(side, drawn(k + 3, 70), drawn(k + 9, 3))
        (spoilt, _) = side.param_groups[0]["params"]
        key = "h0" if name == "lstm" else "gates" if "gated" in name else "h"
        side.state[spoilt][key][1] = bad
        step(side, drawn(20, 70), drawn(21, 3))
    counts = [side.skipped_updates for side in sides]
    assert counts[0] == counts[1]
    assert math.isinf(bad) or counts[0] == int(math.isnan(bad))
    for one, other in zip(*map(everything, sides), strict=True):
        for value, expected in zip(one, other, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.fixture
def key(name, request):
    """The state tensor that is written."""
    if name in HAND_MADE and request.getfixturevalue("code") == "torch":
        pytest.skip("plain torch has no faster code for it")
    return {**WRITTEN, **HAND_MADE}[name]


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", ["adam", "adam-lstm", "lstm"])
def test_a_part_with_large_state_is_stepped_by_the_rule_with_views_of_all_state(name, key):
    """Of parts of 4096 coordinates or more, one has numbers that are left to the rule."""
    rule = random_rule(name)
    sides = [optimizer_of(rule, drawn(1, 13, 1000), fused=fused) for fused in (True, False)]
    for side in sides:
        step(side, drawn(2, 13, 1000))
        (parameter,) = side.param_groups[0]["params"]
        side.state[parameter][key].data[5, 0] = 1e20 if name == "lstm" else 1e33
        for k in range(2):
            step(side, drawn(k + 3, 13, 1000))
    for one, other in zip(*map(everything, sides), strict=True):
        for found, expected in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert [side.skipped_updates for side in sides] == [0, 0]


def numbers(count, *others):
    """Small positive numbers, with others in the 301st and the 701st place."""
    values = torch.linspace(0.1, 0.2, count)
    for place, other in zip((300, 700), others, strict=False):
        values[place] = other
    return values


@pytest.mark.usefixtures("code")
@pytest.mark.filterwarnings("ignore:the update of")
@pytest.mark.parametrize("others", [(), (1e20,), (math.nan,), (math.inf, math.nan)], ids=str)
@pytest.mark.parametrize("way", ["other memory", "the same memory"])
@pytest.mark.parametrize("name", [*WRITTEN, *HAND_MADE])
def test_state_that_is_written_behind_torchs_back_is_read_anew(name, key, way, others):
    """`.data` counts no change. Parts of 256 coordinates are judged alone, or by the rule."""
    rule = random_rule(name)
    sides = [
        optimizer_of(rule, drawn(1, 1000), fused=fused, chunk_size=256) for fused in (True, False)
    ]
    for side in sides:
        for k in range(2):
            step(side, drawn(k + 3, 1000))
        (parameter,) = side.param_groups[0]["params"]
        value = side.state[parameter][key]
        version = value._version
        units = value.movedim(-1, 0) if value.dim() > 1 else value
        rows = numbers(1000, *others).expand(units.shape).clone()
        new = rows.movedim(0, -1) if value.dim() > 1 else rows
        if way == "other memory":
            value.data = new
        else:
            value.data.copy_(new)
        assert value._version == version
        for k in range(2):
            step(side, drawn(k + 20, 1000))
    for one, other in zip(*map(everything, sides), strict=True):
        for found, expected in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
    counts = [side.skipped_updates for side in sides]
    assert counts[0] == counts[1]
    assert (counts[0] > 0) == (math.nan in others)


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", ["rmsprop", "adam", "adam-lstm"])
def test_a_negative_square_spoils_no_parameter(name, key):
    optimizer = optimizer_of(random_rule(name), drawn(1, 1000), fused=True, chunk_size=256)
    step(optimizer, drawn(2, 1000))
    (parameter,) = optimizer.param_groups[0]["params"]
    state, before = optimizer.state[parameter], parameter.detach().clone()
    state["v" if name == "adam" else key].data[300] = -1.0
    with pytest.warns(
        RuntimeWarning, match="the update of parameter 0 of group 0 was not finite and was skipped"
    ):
        step(optimizer, drawn(3, 1000))
    assert optimizer.skipped_updates == 1
    moved = parameter.detach() != before
    assert moved[:256].all()
    assert not moved[256:512].any()
    assert moved[512:].all()
    assert float(state["step"]) == 2


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_trained_in_place_are_read_anew(name):
    rule = random_rule(name)
    sides = [optimizer_of(rule, drawn(1, 50), fused=fused) for fused in (True, False)]
    for k in range(4):
        for side in sides:
            step(side, drawn(k + 2, 50))
        for weight in rule.parameters():
            weight.data.mul_(0.9)  # no counter sees it
    torch.testing.assert_close(*(everything(side)[0][0] for side in sides), rtol=1e-5, atol=1e-5)

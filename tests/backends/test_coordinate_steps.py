"""Coordinate-wise rules in C and in blocks: exactness, idle coordinates, layouts, refusals."""

import copy
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
from torch import nn

from learned_opt import LearnedOptimizer
from learned_opt.backends.registry import FUSED_STEPS
from learned_opt.optimizer import fused as driver
from learned_opt.rules import Context

SETTINGS = [
    ("lstm", {"hidden_sizes": (1,)}),
    ("lstm", {"hidden_sizes": (3, 7, 2), "p": 5.0, "output_scale": 0.01}),
    ("gated-lstm", {"hidden_size": 0}),
    ("gated-lstm", {"hidden_size": 5, "use_loss": False}),
    ("momentum-gated-lstm", {"hidden_size": 0}),
    ("momentum-gated-lstm", {"hidden_size": 1, "use_loss": True}),
    ("adam-lstm", {"hidden_size": 1}),
    ("adam-lstm", {"hidden_size": 20, "betas": (0.99,), "log_range": 0.3, "decay_steps": math.inf}),
    ("adam-lstm", {"hidden_size": 5, "betas": (0.0, 0.9, 0.95, 0.999), "fast_beta": 0.0}),
]


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(("name", "settings"), [*((n, {}) for n in NAMES), *SETTINGS], ids=str)
def test_faster_code_is_as_exact_as_the_rule(name, settings):
    """Both against the rule in float64, from gradients of many sizes."""
    rule = random_rule(name, **settings)
    exact = copy.deepcopy(rule).double()
    start, lr = drawn(1, 40, 7), 0.1
    sides = [optimizer_of(rule, start, fused=fused, lr=lr) for fused in (True, False)]
    value, state = start.double(), exact.init_state(start.double())
    for k in range(10):
        gradient = drawn(k + 2, 40, 7) * 10 ** drawn(k + 90, 40, 7)
        gradient[drawn(k + 50, 40, 7) > 1] = 0
        for side in sides:
            step(side, gradient, loss=1.5 - 0.1 * k)
        context = Context(loss=torch.tensor(1.5 - 0.1 * k, dtype=torch.float64))
        with torch.no_grad():
            (delta,), (state,) = exact([gradient.double()], [value], [state], context)
        value = value + lr * delta
    off = []
    for side in sides:
        (parameter,) = side.param_groups[0]["params"]
        off.append((parameter.detach() - value).abs().max().item())
    assert off[0] <= 2 * off[1] + 1e-6
    assert off[1] < 1e-3


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("size", [1, 16, 70, 200])
def test_where_squares_of_gradients_vanish_adam_lstm_knows_no_age(size):
    """1e-25 squared is 0 in float32, but 1e-25 is a gradient: h and c change."""
    rule = random_rule("adam-lstm")
    sides = [optimizer_of(rule, drawn(1, size), fused=fused) for fused in (True, False)]
    for k in range(3):
        gradient = drawn(k + 2, size)
        gradient[::3] *= 1e-25
        for side in sides:
            step(side, gradient)
    for found, expected in zip(*[everything(side)[0] for side in sides], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)
    (parameter,) = sides[0].param_groups[0]["params"]
    assert (sides[0].state[parameter]["slow"][::3] == 0).all()
    assert (sides[0].state[parameter]["h"][::3] != 0).any()


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", NAMES)
def test_idle_coordinates_keep_every_bit_while_their_neighbours_move(name):
    optimizer = optimizer_of(random_rule(name), start := drawn(1, 130), fused=True)
    idle = torch.arange(130) % 3 == 0
    fresh = copy.deepcopy(optimizer.rule.init_state(start))
    for k in range(4):
        step(optimizer, drawn(k + 2, 130).masked_fill(idle, 0))
    (parameter,) = optimizer.param_groups[0]["params"]
    assert torch.equal(parameter[idle], start[idle])
    assert not (parameter == start)[~idle].any()
    for key, value in optimizer.state[parameter].items():
        if key != "step":
            assert torch.equal(value[idle], fresh[key][idle])
            assert not torch.equal(value[~idle], fresh[key][~idle])
    # A coordinate without a gradient is not idle once it had one.
    before = parameter.detach().clone()
    step(optimizer, torch.zeros(130))
    assert (parameter != before)[~idle].any()
    assert torch.equal(parameter[idle], start[idle])


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", NAMES)
def test_state_lies_unit_by_unit_through_every_way_of_copying_it(name, tmp_path):
    rule = random_rule(name)
    optimizer = optimizer_of(rule, drawn(1, 6, 5), drawn(2), fused=True)
    gradients = drawn(3, 6, 5), drawn(4)
    step(optimizer, *gradients)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    contiguous = {
        "param_groups": optimizer.state_dict()["param_groups"],
        "state": {
            key: {name: value.contiguous() for name, value in state.items()}
            for key, state in optimizer.state_dict()["state"].items()
        },
    }
    copies = [copy.deepcopy(optimizer)]
    for saved in (
        optimizer.state_dict(),
        copy.deepcopy(optimizer.state_dict()),
        loaded,
        contiguous,
    ):
        values = [p.detach() for p in optimizer.param_groups[0]["params"]]
        copies.append(optimizer_of(rule, *values, fused=True))
        copies[-1].load_state_dict(saved)
    for other in [optimizer, *copies]:
        for parameter in other.param_groups[0]["params"]:
            for value in other.state[parameter].values():
                dims = parameter.dim()
                if value.dim() > dims:
                    assert value.movedim(-1, 0).is_contiguous()
                    assert torch.equal(value.clone(), value)
                    assert value.clone().stride() == value.stride()
        step(other, *gradients)  # fused=True: it would be refused
    for other in copies:
        for mine, theirs in zip(everything(optimizer), everything(other), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", NAMES)
def test_what_faster_code_cannot_read_is_stepped_by_the_rule(name):
    rule = random_rule(name)
    turned = nn.Parameter(drawn(1, 4, 3).t())
    half = nn.Parameter(drawn(2, 5).bfloat16())
    plain = nn.Parameter(drawn(3, 5))
    reference = copy.deepcopy([turned, half, plain])
    mixed = LearnedOptimizer([turned, half, plain], rule=rule)
    eager = LearnedOptimizer(reference, rule=rule, fused=False)
    for k in range(3):
        for parameter, other in zip([turned, half, plain], reference, strict=True):
            parameter.grad = drawn(k + 5, *parameter.shape).to(parameter.dtype)
            other.grad = parameter.grad.clone()
        for optimizer in (mixed, eager):
            optimizer.step(lambda: torch.tensor(1.0))
    torch.testing.assert_close([turned, half, plain], reference, rtol=1e-5, atol=1e-5)
    assert torch.equal(half, reference[1])
    with pytest.raises(ValueError, match=r"fused=True does not fit a parameter of shape \[3, 4\]"):
        LearnedOptimizer([turned], rule=rule, fused=True)
    with pytest.raises(ValueError, match="the rule is in bfloat16"):
        LearnedOptimizer([plain], rule=copy.deepcopy(rule).bfloat16(), fused=True)


@pytest.mark.parametrize("name", ["gated-lstm", "momentum-gated-lstm"])
def test_gates_that_read_their_last_logits_are_stepped_in_blocks(name):
    """They have no bound, so C refuses them; blocks are judged by what they would write."""
    rule = random_rule(name, recurrence="logit")
    sides = [optimizer_of(rule, drawn(1, 70), fused=fused) for fused in (True, False)]
    for k in range(4):
        for side in sides:
            step(side, drawn(k + 2, 70))
    assert [taker.code for taker, _ in sides[0]._fused._plan.parts] == ["torch"]
    for found, expected in zip(*(everything(side)[0] for side in sides), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_take_at_most_4_mib_whatever_the_model(name, monkeypatch):
    monkeypatch.setattr(
        driver, "fused_steps", lambda r: [s() for s in FUSED_STEPS[type(r)] if s.code == "torch"]
    )
    optimizer = optimizer_of(random_rule(name), drawn(1, 20000), drawn(2, 30), fused=True)
    step(optimizer, drawn(3, 20000), drawn(4, 30))
    (blocks,) = optimizer._fused._steps
    assert 1 << 20 < blocks._memory.nbytes <= 4 << 20


@pytest.mark.usefixtures("code")
@pytest.mark.filterwarnings("ignore:the update of")
@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_left_to_the_rule(loss):
    rule, start = random_rule("gated-lstm"), drawn(1, 70)
    sides = [optimizer_of(rule, start, fused=fused) for fused in (True, False)]
    for side in sides:
        step(side, drawn(2, 70), loss=loss)
    one, other = (everything(side)[0] for side in sides)
    assert all(torch.equal(value, expected) for value, expected in zip(one, other, strict=True))
    assert sides[0].skipped_updates == int(math.isnan(loss))

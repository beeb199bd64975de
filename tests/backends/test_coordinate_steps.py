"""Coordinate-wise rules in C and in blocks: idle coordinates, layouts, states that others change,
exactness."""

import copy
import math

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends.blocks.lstm_cell import tangent_of_half_
from learned_opt.backends.registry import FUSED_STEPS
from learned_opt.c_library import call_c, load_library
from learned_opt.optimizer import fused as driver
from learned_opt.rules import Context

compiled = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")

NAMES = ["lstm", "gated-lstm", "momentum-gated-lstm", "adam-lstm"]
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


@pytest.fixture(params=["C", "torch"])
def code(request, monkeypatch):
    """What the faster code of optimizers is written in: C, or PyTorch operations on blocks."""
    if request.param == "C" and load_library() is None:
        pytest.skip("the C library was not compiled")

    def fused_steps(rule):
        found = [cls() for cls in FUSED_STEPS[type(rule)] if cls.code == request.param]
        return [step for step in found if not step.refuses_parameter(torch.zeros(2))]

    monkeypatch.setattr(driver, "fused_steps", fused_steps)
    return request.param


def random_rule(name, **settings):
    torch.manual_seed(0)
    rule = create_rule(name, **settings)
    with torch.no_grad():
        for weight in rule.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return rule


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def optimizer_of(rule, *parameters, **options):
    return LearnedOptimizer([nn.Parameter(p.clone()) for p in parameters], rule=rule, **options)


def step(optimizer, *gradients, loss=1.5):
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step(lambda: torch.tensor(loss))


def everything(optimizer):
    parameters = optimizer.param_groups[0]["params"]
    return [[p.detach(), *(optimizer.state[p][key] for key in optimizer.state[p])]
            for p in parameters]  # fmt: skip


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


WRITTEN = {
    "lstm": "c1",
    "gated-lstm": "recent",
    "momentum-gated-lstm": "m",
    "adam-lstm": "slow",
}
HAND_MADE = {"momentum": "m", "rmsprop": "v", "adam": "m"}
"""A state tensor of each rule; the latter have no faster code but C."""


@pytest.fixture
def key(name, code):
    """The state tensor that is written."""
    if name in HAND_MADE and code == "torch":
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
    with pytest.warns(RuntimeWarning, match="the update of 0.0 was not finite and was skipped"):
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


def of_every_exponent(lowest, highest, count=200):
    """Floats with random digits, `count` for each power of two."""
    digits = 1 + torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    powers = 2.0 ** torch.arange(lowest, highest, dtype=torch.float64)
    return (digits * powers.unsqueeze(-1)).reshape(-1).float()


@compiled
@pytest.mark.parametrize(
    ("which", "exact", "values"),
    [
        (0, torch.exp, (-126, 6)),
        (1, torch.sigmoid, (-126, 6)),
        (2, torch.tanh, (-126, 6)),
        (3, torch.log, (-126, 127)),
    ],
    ids=["exponential", "sigmoid", "hyperbolic tangent", "logarithm"],
)
def test_elementary_functions_are_within_three_units_in_the_last_place(which, exact, values):
    x = of_every_exponent(*values)
    if which != 3:
        x = torch.cat([x, -x, torch.zeros(1)])
        x = x[x.abs() <= 87]
    y = torch.empty_like(x)
    call_c("elementary", which, len(x), x.numpy(), y.numpy())
    expected = exact(x.double())
    unit = 2.0 ** (expected.abs().clamp(min=2.0**-126).log2().floor() - 23)
    assert ((y.double() - expected).abs() / unit).max() <= 3
    ends = torch.tensor([math.nan, 1e30, -1e30])
    call_c("elementary", which, 3, ends.numpy(), (at := torch.empty(3)).numpy())
    assert which == 3 or math.isnan(at[0])
    assert which == 3 or at[1:].isfinite().all()


@torch.inference_mode()
def test_the_tangent_in_blocks_is_within_three_units_in_the_last_place():
    x = of_every_exponent(-126, 6)
    x = torch.cat([x, -x, torch.tensor([0.0, 1e30, math.inf, -math.inf, -1e30])])
    tangent_of_half_(y := 2 * x, torch.empty_like(x))
    expected = x.double().tanh()
    unit = 2.0 ** (expected.abs().clamp(min=2.0**-126).log2().floor() - 23)
    assert ((y.double() - expected).abs() / unit).max() <= 3
    tangent_of_half_(nothing := torch.full((1,), math.nan), torch.empty(1))
    assert math.isnan(nothing)

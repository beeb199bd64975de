"""What users do to parameters, state and options between steps harms no faster step."""

import math
import re

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends.c_steps.paper_lstms import CoordinateLSTMInC
from learned_opt.c_library import load_library
from learned_opt.rules.lstm import CoordinateLSTM
from learned_opt.rules.parts.lstm_cell_in_c import fits_lstm_cell

NAMES = [
    "sgd",
    "momentum",
    "rmsprop",
    "adam",
    "adam-lstm",
    "lstm",
    "gated-lstm",
    "momentum-gated-lstm",
    "orthogonal-momentum",
    "step-size-lstm",
]
STATEFUL = NAMES[1:]


def stepped(name, lr=None, shape=(30, 40)):
    """A parameter after one step, and its optimizer, which takes faster code where it fits."""
    torch.manual_seed(0)
    rule = create_rule(name)
    planned = 50 if "total_steps" in rule.required_context() else None
    parameter = nn.Parameter(torch.randn(shape))
    optimizer = LearnedOptimizer([parameter], lr, rule=rule, total_steps=planned)
    parameter.grad = torch.randn(shape)
    step(optimizer)
    return parameter, optimizer


def step(optimizer):
    optimizer.step(lambda: torch.tensor(1.5))


def kept(parameter, optimizer):
    return [parameter.detach().clone(), *(v.clone() for v in optimizer.state[parameter].values())]


def assert_skipped(parameter, optimizer):
    """A step changes no bit, and is counted."""
    before = kept(parameter, optimizer)
    with pytest.warns(RuntimeWarning, match="not finite and was skipped"):
        step(optimizer)
    assert optimizer.skipped_updates == 1
    for old, new in zip(before, kept(parameter, optimizer), strict=True):
        assert torch.equal(old.nan_to_num(7.0), new.nan_to_num(7.0))


@pytest.mark.parametrize("shape", [(60, 80), (3, 4), (40, 30)])
@pytest.mark.parametrize("name", STATEFUL)
def test_state_of_another_shape_is_an_error(name, shape):
    parameter, optimizer = stepped(name)
    parameter.data = torch.ones(shape)
    parameter.grad = torch.ones(shape)
    start = f"cannot step parameter 0.0 of shape {list(shape)}: its state "
    match = rf"^{re.escape(start)}'\w+' has shape \[30, 40.*\], not \[{shape[0]}, {shape[1]}"
    with pytest.raises(ValueError, match=match):
        step(optimizer)
    assert torch.equal(parameter.detach(), torch.ones(shape))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_another_shape_is_an_error(name):
    parameter, optimizer = stepped(name)
    parameter.data = torch.ones(60, 80)
    message = "parameter 0.0 of shape [60, 80]: its gradient has shape [30, 40], not [60, 80]"
    with pytest.raises(ValueError, match=f"^cannot step {re.escape(message)}$"):
        step(optimizer)
    assert torch.equal(parameter.detach(), torch.ones(60, 80))


@pytest.mark.parametrize("new_gradient", [False, True])
@pytest.mark.parametrize("fused", [None, False])
def test_pieces_that_fit_each_other_are_no_excuse(fused, new_gradient):
    """Each piece of the shorter parameter has its own rows of state and gradient."""
    parameter = nn.Parameter(torch.ones(6, 4))
    rule = create_rule("momentum")
    optimizer = LearnedOptimizer([parameter], rule=rule, fused=fused, chunk_size=8)
    parameter.grad = torch.ones(6, 4)
    optimizer.step()
    parameter.data = torch.ones(4, 4)
    if new_gradient:
        parameter.grad = torch.ones(4, 4)
    wrong = "state 'm'" if new_gradient else "gradient"
    with pytest.raises(ValueError, match=rf"its {wrong} has shape \[6, 4\], not \[4, 4\]$"):
        optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(4, 4))


def test_a_cell_whose_arrays_differ_in_length_is_left_to_torch():
    x, h, c, weight, bias = (torch.ones(s) for s in [(2, 9), (3, 9), (3, 9), (5, 12), (12,)])
    for wrong in (
        (x, h[:, :8], c, weight, bias),
        (x, h, c[:2], weight, bias),
        (x, h, c, weight[:4], bias),
        (x[None], h, c, weight, bias),
    ):
        assert not fits_lstm_cell(*wrong)


@pytest.mark.parametrize("name", NAMES)
def test_other_entries_of_the_state_are_left_alone(name):
    parameter, optimizer = stepped(name)
    optimizer.state[parameter]["mine"] = torch.full((30, 40), 2.0)
    before = parameter.detach().clone()
    for _ in range(2):
        step(optimizer)
    assert not torch.equal(parameter.detach(), before)
    assert torch.equal(optimizer.state[parameter]["mine"], torch.full((30, 40), 2.0))


@pytest.mark.parametrize("name", NAMES)
def test_it_steps_in_inference_mode(name):
    with torch.inference_mode():
        parameter, optimizer = stepped(name)
        before = parameter.clone()
        step(optimizer)
        assert not torch.equal(parameter, before)


def test_the_rule_itself_steps_inside_of_torch_func():
    optimizers = []
    for fused in (None, True):
        parameter = nn.Parameter(torch.ones(3))
        parameter.grad = torch.ones(3)
        rule = create_rule("sgd")
        optimizers.append(LearnedOptimizer([parameter], lr=0.25, rule=rule, fused=fused))

    def loss(x, optimizer):
        optimizer.step()
        return x.sum()

    torch.func.grad(loss)(torch.ones(3), optimizers[0])
    assert optimizers[0].param_groups[0]["params"][0].tolist() == [0.75, 0.75, 0.75]
    with pytest.raises(RuntimeError, match="inside of torch.func"):
        torch.func.grad(loss)(torch.ones(3), optimizers[1])


@pytest.mark.parametrize("lr", [0.0, -1.0, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_an_infinite_gradient_moves_nothing_at_any_learning_rate(name, lr):
    parameter, optimizer = stepped(name)
    optimizer.param_groups[0]["lr"] = lr
    parameter.grad.fill_(math.inf)
    assert_skipped(parameter, optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_rates_beyond_float32_write_no_nan(name):
    parameter, optimizer = stepped(name)
    optimizer.param_groups[0].update(lr=-1e38, weight_decay=1e20)
    parameter.data.zero_()  # unseen: weights seen to be replaced would begin the average anew
    assert_skipped(parameter, optimizer)


@pytest.mark.parametrize("name", ["sgd", "step-size-lstm"])
def test_a_learning_rate_beyond_float32_times_a_zero_gradient_writes_no_nan(name):
    parameter, optimizer = stepped(name)
    optimizer.param_groups[0]["lr"] = 1e39
    parameter.grad.zero_()
    assert_skipped(parameter, optimizer)


@pytest.mark.parametrize(
    ("name", "key", "bad"),
    [
        ("orthogonal-momentum", "scalars", math.nan),
        ("orthogonal-momentum", "step", math.nan),
        ("adam-lstm", "step", math.nan),
        ("adam-lstm", "slow", -1.0),
        ("adam", "v", -1.0),
        ("adam", "m", math.nan),
        ("adam", "step", math.nan),
        ("rmsprop", "v", -1.0),
        ("rmsprop", "v", math.inf),
        ("momentum", "m", -math.inf),
    ],
)
def test_spoilt_state_spoils_no_parameter(name, key, bad):
    parameter, optimizer = stepped(name)
    optimizer.state[parameter][key].fill_(bad)
    assert_skipped(parameter, optimizer)


def test_a_deep_rule_does_not_overflow_the_stack():
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    rule = CoordinateLSTM(hidden_sizes=(600, 600))
    refused = CoordinateLSTMInC().refuses_rule(rule)
    assert refused == "it has more than 1024 units" or load_library() is None
    LearnedOptimizer([parameter], rule=rule, fused=True).step()  # in blocks, which have no stack
    assert (parameter != 1).all()


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_an_update_over_zero_is_skipped(name):
    """The square of the gradient is 0 in float32, and nothing is added to its root."""
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 1e-30, 0.0])
    optimizer = LearnedOptimizer([parameter], rule=create_rule(name, eps=0.0))
    with pytest.warns(RuntimeWarning, match="not finite and was skipped"):
        optimizer.step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]
    assert optimizer.state[parameter]["v"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_an_eps_too_small_for_float32_is_refused(name):
    with pytest.raises(ValueError, match="its eps is below 1e-20"):
        LearnedOptimizer([nn.Parameter(torch.ones(3))], rule=create_rule(name, eps=0.0), fused=True)

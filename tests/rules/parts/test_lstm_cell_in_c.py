"""The LSTM cell in C, with its derivative, beside torch's in float64."""

import copy

import pytest
import torch
from conftest import make_rule
from torch.func import functional_call, vmap

from learned_opt.c_library import load_library
from learned_opt.rules import Context
from learned_opt.rules.parts.lstm_cell import LSTMCell
from learned_opt.rules.parts.lstm_cell_in_c import LSTMCellInC, fits_lstm_cell

pytestmark = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")


def make_case(rows, inputs, units, seed=0):
    torch.manual_seed(seed)
    cell = LSTMCell(inputs, units)
    return cell, [torch.randn(rows, size) for size in (inputs, units, units)]


def step_and_differentiate(cell, values, with_gates, used=2, idle=None):
    """New h and c, and the derivatives by x, h, c, weight and bias."""
    leaves = [value.detach().clone().requires_grad_() for value in values]
    h, c, _ = cell(*leaves, idle=idle, with_gates=with_gates)
    objective = [h.sin().sum(), c.square().sum(), h.sin().sum() + c.square().sum()][used]
    wanted = [*leaves, *cell.parameters()]
    found = torch.autograd.grad(objective, wanted, materialize_grads=True)
    return [h.detach(), c.detach(), *found]


@pytest.mark.parametrize("with_idle", [False, True], ids=["all", "idle"])
@pytest.mark.parametrize("used", [0, 1, 2], ids=["h", "c", "both"])
@pytest.mark.parametrize(
    ("rows", "inputs", "units"),
    [(0, 2, 3), (1, 1, 1), (63, 5, 7), (64, 2, 20), (700, 20, 20), (40_000, 3, 4), (90, 13, 128)],
)
def test_values_and_derivatives_are_torchs(rows, inputs, units, used, with_idle):
    cell, values = make_case(rows, inputs, units)
    idle = torch.arange(rows) % 3 == 1 if with_idle else None
    found = step_and_differentiate(cell, values, False, used, idle)
    exact = [value.double() for value in values]
    expected = step_and_differentiate(copy.deepcopy(cell).double(), exact, True, used, idle)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        largest = float(theirs.abs().max()) if theirs.numel() else 0.0
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=2e-6 * largest + 1e-7)


@pytest.mark.parametrize("inputs", [2, 4, 5])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2), ()], ids=str)
def test_derivatives_do_not_depend_on_which_are_wanted(wanted, inputs):
    cell, values = make_case(150, inputs, 3)
    every = step_and_differentiate(cell, values, False)[2:]
    leaves = [v.clone().requires_grad_(k in wanted) for k, v in enumerate(values)]
    h, c, _ = cell(*leaves, with_gates=False)
    chosen = [*(leaves[k] for k in wanted), *cell.parameters()]
    found = torch.autograd.grad(h.sin().sum() + c.square().sum(), chosen)
    expected = [*(every[k] for k in wanted), *every[3:]]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_number_of_threads_changes_no_bit():
    cell, values = make_case(40_000, 3, 4)
    runs, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            runs.append(step_and_differentiate(cell, values, False))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_only_plain_tensors_are_taken():
    cell, values = make_case(5, 2, 3)
    columns = [value.mT for value in values]

    def fits(*tensors):
        return fits_lstm_cell(*tensors, cell.weight, cell.bias)

    assert fits(*columns)
    assert not fits(*(value.double() for value in columns))
    assert not fits(*(value.to("meta") for value in columns))
    seen = []
    vmap(lambda x: seen.append(fits(x, *columns[1:])) or x)(torch.stack([columns[0]] * 2))
    assert seen == [False]
    idle = torch.tensor([True, False, True, False, True])
    assert fits_lstm_cell(*columns, cell.weight, cell.bias, idle)
    for wrong in (idle[:4], idle.float(), idle.to("meta")):
        assert not fits_lstm_cell(*columns, cell.weight, cell.bias, wrong)

    def under_vmap(idle):
        seen.append(fits_lstm_cell(*columns, cell.weight, cell.bias, idle))
        return idle

    vmap(under_vmap)(torch.stack([idle] * 2))
    assert seen == [False, False]
    wide, large = make_case(2, 1, 129)
    assert not fits_lstm_cell(*(value.mT for value in large), wide.weight, wide.bias)


def test_more_features_than_fit_a_stack_are_left_to_torch():
    """C would end the process: 10,000 features of 8 blocks are 10 MB."""
    cell, (x, h, c) = make_case(3, 10_000, 2)
    x.requires_grad_()
    new_h, _, _ = cell(x, h, c, with_gates=False)
    new_h.sum().backward()
    expected, _, _ = cell(x.detach(), h, c)
    assert torch.equal(new_h, expected) and x.grad.isfinite().all()


def test_under_vmap_torch_steps_the_same():
    cell, values = make_case(6, 2, 3)
    population = {
        name: torch.stack([weight, 0.5 * weight]).detach().requires_grad_()
        for name, weight in cell.named_parameters()
    }

    def run(weights):
        h, c, _ = functional_call(cell, weights, tuple(values), {"with_gates": False})
        return h.sin().sum() + c.square().sum()

    together = vmap(run)(population)
    together.sum().backward()
    for k in range(2):
        one = {name: value[k].detach().requires_grad_() for name, value in population.items()}
        alone = run(one)
        alone.backward()
        torch.testing.assert_close(together[k], alone)
        for name in one:
            torch.testing.assert_close(population[name].grad[k], one[name].grad)


def test_a_second_derivative_is_refused_rather_than_wrong():
    cell, (x, h, c) = make_case(2, 3, 4)
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="does not support double backward"):
        (grad,) = torch.autograd.grad(
            cell(x, h, c, with_gates=False)[0].sum(), x, create_graph=True
        )


@pytest.mark.parametrize("name", ["lstm", "gated-lstm", "momentum-gated-lstm", "adam-lstm"])
def test_an_unroll_has_the_derivative_of_the_rule_in_float64(name, monkeypatch):
    taken = []
    forward = LSTMCellInC.forward
    monkeypatch.setattr(
        LSTMCellInC, "forward", lambda *given: taken.append(None) or forward(*given)
    )
    found = []
    for dtype in (torch.float32, torch.float64):
        rule = make_rule(name, dtype, spread=0.1)
        torch.manual_seed(0)
        value, target = torch.randn(2, 70, 80).to(dtype).unbind()
        state = rule.init_state(value)
        for _ in range(4):
            gradient = (value - target).detach()
            gradient[:, ::3] = 0  # idle coordinates
            context = Context(loss=gradient.square().mean())
            (delta,), (state,) = rule([gradient], [value], [state], context)
            value = value + 0.1 * delta
        (value - target).square().mean().backward()
        found.append([weight.grad.double() for weight in rule.parameters()])
    assert len(taken) >= 4  # in float32 by C
    for mine, theirs in zip(*found, strict=True):
        largest = float(theirs.abs().max())
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-4 * largest + 1e-9)

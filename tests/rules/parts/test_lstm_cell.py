import copy

import pytest
import torch
from conftest import rounding
from torch import nn
from torch.func import functional_call, vmap

from learned_opt.rules.parts.lstm_cell import LSTMCell, record_gates


def make_cell(inputs=3, hidden=4, dtype=torch.float64, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LSTMCell(inputs, hidden).to(dtype)


def rows(n, *sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n, size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in sizes
    ]


def torch_cell(cell, inputs):
    """`nn.LSTMCell` with the same weights: its rows are the gates in the order i, f, g, o."""
    reference = nn.LSTMCell(inputs, cell.hidden_size).double()
    i, f, o, z = cell.weight.detach().t().chunk(4)
    joined = torch.cat([i, f, z, o])
    bi, bf, bo, bz = cell.bias.detach().chunk(4)
    with torch.no_grad():
        reference.weight_ih.copy_(joined[:, :inputs])
        reference.weight_hh.copy_(joined[:, inputs:])
        reference.bias_ih.copy_(torch.cat([bi, bf, bz, bo]))
        reference.bias_hh.zero_()
    return reference


def test_equals_torchs_cell_in_values_and_derivatives():
    cell = make_cell()
    reference = torch_cell(cell, 3)
    ours, theirs = rows(5, 3, 4, 4), rows(5, 3, 4, 4)
    h, c, _ = cell(*ours)
    expected_h, expected_c = reference(theirs[0], (theirs[1], theirs[2]))
    torch.testing.assert_close([h, c], [expected_h, expected_c])
    (h.sin().sum() + c.square().sum()).backward()
    (expected_h.sin().sum() + expected_c.square().sum()).backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    grad_i, grad_f, grad_z, grad_o = reference.weight_ih.grad.t().chunk(4, dim=1)
    torch.testing.assert_close(
        cell.weight.grad[:3], torch.cat([grad_i, grad_f, grad_o, grad_z], dim=1)
    )
    grad_i, grad_f, grad_z, grad_o = reference.bias_ih.grad.chunk(4)
    torch.testing.assert_close(cell.bias.grad, torch.cat([grad_i, grad_f, grad_o, grad_z]))


@pytest.mark.parametrize("idle", [None, torch.tensor([True, False])], ids=["all", "idle"])
@pytest.mark.parametrize("outputs", [slice(0, 2), slice(0, 1), slice(1, 2)], ids=["hc", "h", "c"])
def test_derivatives_are_those_of_finite_differences(outputs, idle):
    cell = make_cell()

    def run(x, h, c, weight, bias):
        weights = {"weight": weight, "bias": bias}
        return functional_call(cell, weights, (x, h, c), {"idle": idle})[outputs]

    inputs = [*rows(2, 3, 4, 4), *(p.detach().requires_grad_() for p in cell.parameters())]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("with_gates", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("grad", [True, False])
def test_idle_rows_are_zero_and_the_others_as_without(dtype, grad, with_gates):
    cell = make_cell(dtype=dtype)
    x, h, c = (value.detach().to(dtype) for value in rows(5, 3, 4, 4))
    idle = torch.tensor([False, True, True, False, True])
    with torch.set_grad_enabled(grad):
        found = cell(x, h, c, idle=idle, with_gates=with_gates)
        plain = cell(x, h, c, with_gates=with_gates)
    for mine, other in zip(found[:2], plain[:2], strict=True):
        assert not mine[idle].any()
        assert torch.equal(mine[~idle], other[~idle])
    assert torch.equal(found[2], plain[2])


@pytest.mark.parametrize("reduce", [lambda h: h.square().sum(), lambda h: h.sum()], ids=[1, 2])
def test_a_second_derivative_is_refused_rather_than_wrong(reduce):
    cell = make_cell()
    x, h, c = rows(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="does not support double backward"):
        (grad,) = torch.autograd.grad(reduce(cell(x, h, c)[0]), x, create_graph=True)
        (grad.square().sum() + x.sum()).backward()


def test_gates_are_sigmoids_side_by_side_and_carry_no_derivative():
    cell = make_cell()
    x, h, c = rows(2, 3, 4, 4)
    logits = torch.cat([x, h], dim=-1) @ cell.weight + cell.bias
    gates = cell(x, h, c)[2]
    torch.testing.assert_close(gates, logits[:, :12].sigmoid().detach())
    assert not gates.requires_grad
    record = {}
    record_gates(record, "lstm0", gates)
    assert list(record) == ["lstm0_input", "lstm0_forget", "lstm0_output"]
    torch.testing.assert_close(record["lstm0_forget"], logits[:, 4:8].sigmoid().detach())


@pytest.mark.parametrize("used", [0, 1, 2], ids=["h", "c", "both"])
def test_vmap_over_weights_equals_one_at_a_time(used):
    """A population of perturbed networks runs at once."""
    cells = [make_cell(seed=seed) for seed in range(3)]
    names = [name for name, _ in cells[0].named_parameters()]
    stacked = {
        name: torch.stack(
            [dict(cell.named_parameters())[name].detach() for cell in cells]
        ).requires_grad_()
        for name in names
    }
    x, h, c = rows(5, 3, 4, 4)
    base = copy.deepcopy(cells[0])

    def loss_of(outputs):
        chosen = outputs[:2] if used == 2 else [outputs[used]]
        return sum(output.sin().sum() for output in chosen)

    losses = vmap(lambda weights: loss_of(functional_call(base, weights, (x, h, c))))(stacked)
    losses.sum().backward()
    shared = [x.grad.clone(), c.grad.clone()]
    x.grad = h.grad = c.grad = None
    for k, cell in enumerate(cells):
        loss = loss_of(cell(x, h, c))
        loss.backward()
        torch.testing.assert_close(losses[k], loss)
        for name, weight in cell.named_parameters():
            torch.testing.assert_close(stacked[name].grad[k], weight.grad)
    torch.testing.assert_close([x.grad, c.grad], shared)


def test_vmap_over_rows_equals_one_at_a_time():
    cell = make_cell()
    x, h, c = (t.detach().reshape(2, 3, -1) for t in rows(6, 3, 4, 4))
    outputs = vmap(cell)(x, h, c)
    (outputs[0].sum() + outputs[1].sum()).backward()
    stacked = [p.grad.clone() for p in cell.parameters()]
    cell.zero_grad()
    for k in range(2):
        expected = cell(x[k], h[k], c[k])
        torch.testing.assert_close([output[k] for output in outputs], list(expected))
        (expected[0].sum() + expected[1].sum()).backward()
    torch.testing.assert_close([p.grad for p in cell.parameters()], stacked)


def test_zero_rows_give_zero_rows_and_zero_gradients():
    cell = make_cell()
    x, h, c = rows(0, 3, 4, 4)
    outputs = cell(x, h, c)
    assert [tuple(output.shape) for output in outputs] == [(0, 4), (0, 4), (0, 12)]
    (outputs[0].sum() + outputs[1].sum()).backward()
    assert cell.weight.grad.abs().max() == 0


def test_starts_with_open_forget_gates_and_bounded_weights():
    cell = LSTMCell(2, 20, forget_bias=1.0)
    assert cell.bias.reshape(4, 20)[1].tolist() == [1.0] * 20
    assert cell.bias.reshape(4, 20)[[0, 2, 3]].abs().max() == 0
    assert 0.1 < cell.weight.abs().max() <= 20**-0.5


def test_no_derivative_is_computed_for_what_needs_none():
    cell = make_cell().requires_grad_(False)
    x, h, c = rows(2, 3, 4, 4)
    h.requires_grad_(False)
    (new_h, new_c, _) = cell(x, h, c)
    (new_h.sum() + new_c.sum()).backward()
    assert x.grad is not None and c.grad is not None
    assert cell.weight.grad is None and h.grad is None


@pytest.mark.parametrize("grad", [True, False])
def test_blocks_of_rows_change_nothing_but_rounding(monkeypatch, grad):
    """In values and in derivatives; alone and under vmap."""
    from learned_opt.rules.parts import lstm_cell

    cell = make_cell()
    inputs = rows(11, 3, 4, 4)
    stacked = [value.detach().expand(2, *value.shape) for value in inputs]
    found = []
    for block in (100, 4):
        monkeypatch.setattr(lstm_cell, "BLOCK", block)
        with torch.set_grad_enabled(grad):
            h, c, gates = cell(*inputs)
            results = [h, c, gates]
            if grad:
                objective = h.sin().sum() + c.square().sum()
                results += torch.autograd.grad(objective, [*inputs, *cell.parameters()])
            many = {key: torch.stack([v, 2 * v]).detach() for key, v in cell.named_parameters()}
            population = vmap(
                lambda w, *xs: functional_call(cell, w, xs), in_dims=(0, None, None, None)
            )
            results += population(many, *[value.detach() for value in inputs])
            results += vmap(cell)(*stacked)
        found.append(results)
    # The longest sum is over the 4 * 4 logits of a row.
    torch.testing.assert_close(*found, **rounding(torch.float64, terms=16))

"""step-size-lstm in plain torch: cutting and joining tensors, idle elements, memory, exactness."""

import copy

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends.blocks.step_size_lstm import StepSizeLSTMInBlocks
from learned_opt.backends.blocks.tensor_blocks import cut_and_join
from learned_opt.optimizer import fused as driver
from learned_opt.rules import Context

SHAPES = {
    "one large": [(500, 401)],
    "small": [(7,), (30, 20), (7,), (20, 30), (1,), (30, 20)],
    "both": [(7,), (400, 300), (30, 20), (0,), (65000,), (7,), (600,)],
}


@pytest.fixture(autouse=True)
def by_blocks(monkeypatch):
    monkeypatch.setattr(driver, "fused_steps", lambda rule: [StepSizeLSTMInBlocks()])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_rule():
    torch.manual_seed(0)
    rule = create_rule("step-size-lstm")
    with torch.no_grad():
        for weight in rule.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return rule.requires_grad_(False)


def drawn(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient(step, number, shape, idle):
    """Of a tensor; that of every third element is zero if it is idle."""
    found = 10.0**-number * drawn(100 * step + number, shape)
    if idle and found.numel() > 2:
        found.view(-1)[::3] = 0
    return found


def run(shapes, idle, fused, steps=6, **options):
    """Parameters and their state after some steps."""
    parameters = [nn.Parameter(0.3 * drawn(k, shape)) for k, shape in enumerate(shapes)]
    options = {"rule": random_rule(), "fused": fused, "total_steps": 50, **options}
    optimizer = LearnedOptimizer(parameters, 0.01, **options)
    for step in range(steps):
        for k, parameter in enumerate(parameters):
            parameter.grad = gradient(step, k, parameter.shape, idle)
        optimizer.step(lambda step=step: torch.tensor(1.5 - 0.1 * step))
    return [[p.detach(), *optimizer.state[p].values()] for p in parameters]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_idle_elements_and_signs_are_those_of_the_rule(shapes, idle, maximize):
    own, found = (run(shapes, idle, fused, maximize=maximize) for fused in (False, True))
    for k, (rows, expected) in enumerate(zip(found, own, strict=True)):
        for one, other in zip(rows, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        moved = rows[0].view(-1) != 0.3 * drawn(k, shapes[k]).view(-1)
        if idle and len(moved) > 2:
            assert not moved[::3].any()
            moved = moved[1::3]
        # Some steps are smaller than the rounding of the parameter.
        assert moved.float().mean() > 0.9 or not len(moved)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_it_is_as_near_to_double_precision_as_the_rule(shapes):
    rule = random_rule()
    exact = copy.deepcopy(rule).double()
    values = [(0.3 * drawn(k, shape)).double() for k, shape in enumerate(shapes)]
    states = [exact.init_state(value) for value in values]
    for step in range(20):
        context = Context(
            torch.tensor(1.5 - 0.1 * step).double(), torch.tensor(50, dtype=torch.float64)
        )
        gradients = [gradient(step, k, s, idle=True).double() for k, s in enumerate(shapes)]
        with torch.no_grad():
            deltas, states = exact(gradients, values, states, context)
        values = [value + 0.01 * delta for value, delta in zip(values, deltas, strict=True)]

    def error(fused):
        ends = [row[0].double() for row in run(shapes, True, fused, steps=20)]
        return max(
            float(torch.linalg.vector_norm(end - value) / torch.linalg.vector_norm(value))
            for end, value in zip(ends, values, strict=True)
            if value.numel()
        )

    assert error(True) < max(2.5 * error(False), 3e-7)


def test_every_element_is_in_one_block():
    counts = [5, 200_000, 0, 60_000, 5, 7, 100_000, 70_000, 1, 90_000]
    tensors = [
        [torch.full((count,), 10 * k + kind, dtype=torch.float32) for kind in range(3)]
        for k, count in enumerate(counts)
    ]
    seen = dict.fromkeys(range(len(counts)), 0)
    for block in cut_and_join(tensors):
        # 13 and 9 arrays of float32 are at most 4 MiB.
        assert sum(block.counts) * 4 * (13 if block.is_joined else 9) <= 4 << 20
        assert block.counts == sorted(block.counts)
        for number, count, *pieces in zip(block.numbers, block.counts, *block.rows, strict=True):
            for kind, piece in enumerate(pieces):
                assert piece.shape == (count,)
                assert (piece == 10 * number + kind).all()
                assert piece.data_ptr() == tensors[number][kind].data_ptr() + 4 * seen[number]
            seen[number] += count
    assert list(seen.values()) == counts


def test_a_block_reads_writes_and_repeats_its_pieces():
    tensors = [
        [torch.full(shape, 10.0 * k + kind) for kind in range(2)]
        for k, shape in enumerate([(3,), (2, 2), (3,)])
    ]
    (block,) = cut_and_join(tensors)
    assert block.numbers == [0, 2, 1]
    gradients, parameters = block.read(torch.empty(2, 10).unbind())
    assert gradients.tolist() == [0, 0, 0, 20, 20, 20, 10, 10, 10, 10]
    assert parameters.tolist() == [1, 1, 1, 21, 21, 21, 11, 11, 11, 11]
    block.write([gradients + 5, parameters + 5])
    assert tensors[1][1].tolist() == [[16, 16], [16, 16]]
    assert tensors[2][1].tolist() == [26, 26, 26]
    assert tensors[2][0].tolist() == [20, 20, 20]  # gradients are not written
    columns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    expected = [[1.0] * 3 + [2.0] * 3 + [3.0] * 4, [4.0] * 3 + [5.0] * 3 + [6.0] * 4]
    assert block.repeat(columns, torch.empty(2, 10)).tolist() == expected


@pytest.mark.parametrize("shapes", [[(1 << 20,)], [(100, 100)] * 30], ids=["one", "many"])
def test_buffers_take_at_most_4_mib_whatever_the_model(shapes):
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = LearnedOptimizer(parameters, rule=random_rule(), fused=True, total_steps=9)
    for parameter in parameters:
        parameter.grad = torch.ones(parameter.shape)
    optimizer.step(lambda: torch.tensor(1.0))
    (blocks,) = optimizer._fused._steps
    assert 1 << 20 < blocks._buffers.nbytes <= 4 << 20

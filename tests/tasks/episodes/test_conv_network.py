"""Many convolutional networks at once compute what the module computes one at a time."""

import pytest
import torch
from few_shot_cases import MadeUp
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from learned_opt.c_library import load_library
from meta_train.inner.state import stack
from meta_train.runtime.seeding import generator
from meta_train.tasks.base import BatchedLoss
from meta_train.tasks.episodes.conv_block import conv_block
from meta_train.tasks.episodes.conv_network import networks_of
from meta_train.tasks.episodes.convolution import Geometry, by_input, by_weight, convolve
from meta_train.tasks.episodes.networks import FewShotNetwork, make_network

CPU = torch.device("cpu")
in_c = pytest.mark.skipif(load_library() is None, reason="there is no C library")


def numbers(*shape, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=dtype).requires_grad_()


def torchs_block(x, weight, scale, shift, geometry, eps):
    found = []
    for maps, own, s, b in zip(x, weight, scale, shift, strict=True):
        y = F.conv2d(maps.permute(0, 3, 1, 2), own, None, geometry.step, geometry.padding)
        y = F.batch_norm(y, None, None, s, b, training=True, eps=eps)
        found.append(F.relu(y).permute(0, 2, 3, 1))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        (Geometry((3, 3), (2, 2), (1, 1)), 7),
        (Geometry((3, 3), (1, 1), (1, 1)), 4),
        (Geometry((3, 2), (2, 1), (0, 1)), 6),
    ],
)
def test_a_block_and_both_derivatives_are_torchs(geometry, size):
    x = numbers(2, 3, size, size, 4)
    weight = numbers(2, 5, 4, *geometry.kernel, seed=1)
    scale, shift = numbers(2, 5, seed=2), numbers(2, 5, seed=3)
    inputs = x, weight, scale, shift
    found = []
    for block in (conv_block, torchs_block):
        y = block(*inputs, geometry, 1e-3)
        value = (y * numbers(*y.shape, seed=4).detach()).tanh().sum()
        first = torch.autograd.grad(value, inputs, create_graph=True)
        by = sum((g * numbers(*g.shape, seed=5).detach()).sum() for g in first)
        found.append([y, *first, *torch.autograd.grad(by, inputs)])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@in_c
@pytest.mark.parametrize("channels", [1, 3, 7, 64, 128])
@pytest.mark.parametrize(
    "geometry", [Geometry((3, 3), (2, 2), (1, 1)), Geometry((2, 4), (1, 3), (0, 2))]
)
def test_convolutions_in_c_are_torchs(geometry, channels):
    x = numbers(3, 2, 7, 9, channels, dtype=torch.float32)
    weight = numbers(3, 64, channels, *geometry.kernel, seed=1, dtype=torch.float32)
    expected = torch.stack(
        [
            F.conv2d(a.permute(0, 3, 1, 2), b, None, geometry.step, geometry.padding)
            for a, b in zip(x, weight, strict=True)
        ]
    ).permute(0, 1, 3, 4, 2)
    grad = numbers(*expected.shape, seed=2, dtype=torch.float32).detach()
    by_x, by_w = torch.autograd.grad((expected * grad).sum(), (x, weight))
    x, weight, expected = x.detach(), weight.detach(), expected.detach()
    close = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(convolve(x, weight, geometry), expected, **close)
    torch.testing.assert_close(by_weight(grad, x, weight, geometry), by_w, **close)
    torch.testing.assert_close(by_input(grad, x, weight, geometry), by_x, **close)
    # Added to what is there.
    for function, given, result in (
        (convolve, (x, weight), expected),
        (by_weight, (grad, x, weight), by_w),
        (by_input, (grad, x, weight), by_x),
    ):
        ones = torch.ones(result.shape)
        added = function(*given, geometry, into=ones)
        assert added is ones
        torch.testing.assert_close(added, 1 + result, **close)


@in_c
def test_convolutions_in_c_do_not_depend_on_the_number_of_threads():
    geometry = Geometry((3, 3), (2, 2), (1, 1))
    x = numbers(5, 3, 14, 14, 64, dtype=torch.float32).detach()
    weight = numbers(5, 64, 64, 3, 3, seed=1, dtype=torch.float32).detach()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = convolve(x, weight, geometry)
            found.append((y, by_weight(y, x, weight, geometry), by_input(y, x, weight, geometry)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def runs_of(network, count, dtype):
    torch.manual_seed(1)
    return {
        name: (value.detach() + 0.1 * torch.randn(count, *value.shape)).to(dtype).requires_grad_()
        for name, value in network.named_parameters()
    }


def derivatives(outputs, parameters):
    wanted = [value for name, value in parameters.items() if name in USED]
    first = torch.autograd.grad(outputs.logsumexp(-1).sum(), wanted, create_graph=True)
    size = sum(one.square().sum() for one in first)
    return [outputs, *first, *torch.autograd.grad(size, wanted)]


# The bias of a convolution cancels in the normalisation.
USED = {
    *(f"body.{k}.weight" for k in (0, 1, 3, 4, 6, 7, 9, 10)),
    *(f"body.{k}.bias" for k in (1, 4, 7, 10)),
    *("head.weight", "head.bias"),
}


@pytest.mark.parametrize("pool", ["mean", "flatten"])
@pytest.mark.parametrize(
    ("dtype", "hidden", "close"),
    [
        (torch.float64, 8, {"rtol": 1e-8, "atol": 1e-8}),
        pytest.param(torch.float32, 64, {"rtol": 1e-2, "atol": 1e-2}, marks=in_c),
    ],
)
def test_outputs_and_both_derivatives_are_those_of_one_network_at_a_time(
    pool, dtype, hidden, close
):
    network = make_network("conv4", 4, hidden=hidden, pool=pool)
    parameters = runs_of(network, 3, dtype)
    images = torch.rand(3, 6, 1, 28, 28, generator=torch.Generator().manual_seed(2)).to(dtype)
    networks = networks_of(network)
    assert networks.fits(parameters, images) == (dtype is torch.float32)
    expected = torch.stack(
        [
            functional_call(network, {k: v[run] for k, v in parameters.items()}, (images[run],))
            for run in range(3)
        ]
    )
    found = derivatives(networks(parameters, images), parameters)
    torch.testing.assert_close(found, derivatives(expected, parameters), **close)


def test_runs_that_are_too_large_together_are_computed_one_after_another(monkeypatch):
    network = make_network("conv4", 4, hidden=8)
    parameters, images = runs_of(network, 3, torch.float64), torch.rand(3, 6, 1, 28, 28).double()
    networks = networks_of(network)
    together = derivatives(networks(parameters, images), parameters)
    monkeypatch.setattr("meta_train.tasks.episodes.conv_network.LARGEST", 1)
    torch.testing.assert_close(derivatives(networks(parameters, images), parameters), together)


def sequence(*changed):
    layers = [nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64, track_running_stats=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *changed)


def with_part(index, part):
    module = sequence()
    module[index] = part
    return module


def hooked():
    module = make_network("conv4", 5)
    module.body[0].register_forward_hook(lambda part, inputs, output: 2 * output)
    return module


def tied():
    module = make_network("conv4", 5)
    module.body[6].weight = module.body[3].weight
    return module


class Own(FewShotNetwork):
    pass


@pytest.mark.parametrize(
    "make",
    [
        hooked,
        tied,
        lambda: make_network("dense", 5),
        lambda: make_network("conv4", 5, batch_norm="support"),
        lambda: Own(make_network("conv4", 5).body, 64, 5),
        lambda: with_part(1, nn.BatchNorm2d(64)),
        lambda: with_part(1, nn.BatchNorm2d(64, affine=False, track_running_stats=False)),
        lambda: with_part(2, nn.Tanh()),
        lambda: with_part(0, nn.Conv2d(1, 64, 3, dilation=2)),
        lambda: with_part(0, nn.Conv2d(1, 64, 3, padding="same")),
        lambda: with_part(0, nn.Conv2d(1, 64, 3, padding=1, padding_mode="reflect")),
        lambda: sequence(nn.Linear(64, 5), nn.ReLU()),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
    ],
)
def test_other_modules_are_left_to_vmap(make):
    assert networks_of(make()) is None


def test_sequences_are_known_too():
    assert networks_of(sequence()) is not None
    assert networks_of(sequence(nn.Linear(64, 5))) is not None


def test_numbers_that_c_does_not_compute_are_left_to_vmap():
    networks = networks_of(make_network("conv4", 5, hidden=8))
    narrow = runs_of(make_network("conv4", 5, hidden=8), 2, torch.float32)
    images = torch.rand(2, 5, 1, 28, 28)
    assert not networks.fits(narrow, images)
    networks = networks_of(make_network("conv4", 5))
    wide = runs_of(make_network("conv4", 5), 2, torch.float32)
    assert networks.fits(wide, images) == (load_library() is not None)
    assert not networks.fits(wide, images.bfloat16())
    seen = []
    vmap(lambda one: seen.append(networks.fits({}, one[None])) or one.sum())(images)
    assert seen == [False]


@in_c
def test_what_the_module_refuses_is_left_to_it():
    """C would read and write beyond the memory of the smaller tensors, or give NaN."""
    networks, images = networks_of(make_network("conv4", 5)), torch.rand(2, 5, 1, 28, 28)
    runs = runs_of(make_network("conv4", 5), 2, torch.float32)
    assert networks.fits(runs, images)
    for wrong in (images.expand(2, 5, 3, 28, 28), images[:1], images[:, :0]):
        assert not networks.fits(runs, wrong)
    for name, value in (
        ("body.0.weight", runs["body.0.weight"][..., :2]),
        ("body.3.weight", runs["body.3.weight"][:, :, :1]),
        ("body.1.weight", runs["body.1.weight"][:, :3]),
        ("body.4.bias", runs["body.4.bias"][:1]),
    ):
        assert not networks.fits({**runs, name: value}, images)
    assert not networks.fits({k: v for k, v in runs.items() if k != "body.1.bias"}, images)
    # A kernel larger than the image, and a single value for each channel.
    assert not networks_of(sequence()).fits(runs_of_sequence(), torch.rand(2, 5, 1, 2, 3))
    assert not networks_of(sequence()).fits(runs_of_sequence(), torch.rand(2, 1, 1, 3, 3))
    assert networks_of(sequence()).fits(runs_of_sequence(), torch.rand(2, 2, 1, 3, 3))


def runs_of_sequence():
    return runs_of(sequence(), 2, torch.float32)


@in_c
def test_shapes_that_do_not_fit_are_named():
    geometry = Geometry((3, 3), (4, 4), (0, 0))
    x, weight = torch.ones(1, 2, 5, 5, 1), torch.ones(1, 64, 1, 3, 3)
    for given, message in (
        ((x, weight[:, :, :, :2]), r"weight must have shape \[1, 64, 1, 3, 3\]"),
        ((x, weight.double()), "weight must be float32 on the CPU, got torch.float64"),
        ((x[:, :, :1, :1], weight), "larger than maps"),
    ):
        with pytest.raises(ValueError, match=message):
            convolve(*given, geometry)
    with pytest.raises(ValueError, match="output must have shape"):
        by_weight(torch.ones(1, 2, 2, 2, 64), x, weight, geometry)
    ones = torch.ones(1, 64)
    with pytest.raises(ValueError, match="scale must be"):
        conv_block(x, weight, ones[:, :3], ones, geometry, 1e-3)


@pytest.mark.parametrize("hidden", [8, pytest.param(64, marks=in_c)])
def test_losses_and_scores_of_episodes_are_those_of_one_at_a_time(hidden):
    task = MadeUp(ways=5, shots=1, queries=3, hidden=hidden)
    problems = [task.sample(generator(seed), CPU) for seed in range(3)]
    loss = problems[0].loss
    assert isinstance(loss, BatchedLoss)
    batches = [problem.draw_validation(generator(0)) for problem in problems]
    parameters = runs_of(task.network, 3, torch.float32)
    one = [
        task.loss({k: v[run] for k, v in parameters.items()}, {}, batches[run])[0]
        for run in range(3)
    ]
    alone = [
        loss({k: v[run] for k, v in parameters.items()}, {}, batches[run])[0] for run in range(3)
    ]
    losses, buffers = loss.many(parameters, {}, stack(batches))
    assert losses.shape == (3,) and buffers == {}
    torch.testing.assert_close(losses, torch.stack(one), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.stack(alone), torch.stack(one), rtol=1e-4, atol=1e-4)
    scores = task.scores(parameters, {}, stack(batches))
    expected = [
        task.score({k: v[run] for k, v in parameters.items()}, {}, batches[run]) for run in range(3)
    ]
    torch.testing.assert_close(scores, torch.stack(expected))

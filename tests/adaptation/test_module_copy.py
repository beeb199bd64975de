"""`adapt` equals a plain loop on modules that keep activations, recompute or share parts."""

import copy
import threading

import pytest
import torch
from conftest import make_batch, make_model, same, weights
from plain_loop import mse, plain_loop
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from learned_opt.adaptation import Initialization, adapt, save_initialization


class Keeps(nn.Module):
    """Keeps an activation, counts in Python, and reassigns a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4))
        self.seen, self.calls = None, 0

    def forward(self, x):
        self.seen = self.first(x)
        self.mean = 0.9 * self.mean + 0.1 * self.seen.detach().mean(0)
        self.calls += 1
        return self.second(torch.relu(self.seen - self.mean))


class Recomputes(nn.Module):
    """Uses activation checkpointing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.c(checkpoint(lambda x: self.b(self.a(x).tanh()).tanh(), x, use_reentrant=False))


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("build", [Keeps, Recomputes])
def test_is_the_plain_loop(build, functional):
    torch.manual_seed(0)
    model, support = build().double(), make_batch(torch.float64)
    before = copy.deepcopy(model.state_dict())
    expected = plain_loop(model, support, 4, 0.3).state_dict()
    found = adapt(model, support, lr=0.3, steps=4, loss=mse, functional=functional)
    found = found if functional else found.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
    assert same(list(model.state_dict().values()), list(before.values()))


def test_what_a_module_keeps_stays_out_of_the_users_and_can_be_copied():
    model = Keeps()
    model(make_batch()[0])  # the user's own activation, with its graph
    seen, calls = model.seen, model.calls
    for functional in (False, True):
        adapted = adapt(model, make_batch(), steps=3, loss=mse, functional=functional)
        assert model.seen is seen and model.calls == calls and model.mean.abs().sum() > 0
        copy.deepcopy(adapted)
        if not functional:
            assert adapted.calls == calls + 3


@pytest.mark.parametrize("functional", [False, True])
def test_threads_can_adapt_one_module(functional):
    model, support = make_model(), make_batch()
    own = list(model.parameters())
    before = weights(model)

    def work():
        for _ in range(60):
            adapt(model, support, lr=0.1, loss=mse, functional=functional)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a is b for a, b in zip(own, model.parameters(), strict=True))
    assert same(weights(model), before)


@pytest.mark.parametrize("functional", [False, True])
def test_adapts_within_autocast_as_a_plain_loop_does(functional):
    model, support = make_model(), make_batch()
    expected = copy.deepcopy(model)
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            loss = mse(expected(support[0]), support[1])
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                parameter -= 0.3 * gradient
    with torch.autocast("cpu", torch.bfloat16):
        found = adapt(model, support, lr=0.3, steps=5, loss=mse, functional=functional)
    found = found if functional else dict(found.named_parameters())
    for key, value in expected.named_parameters():
        torch.testing.assert_close(found[key], value)


class Odd(nn.Module):
    """Attributes that a copy must handle: shared modules, methods, tensors with graphs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.LSTM(4, 2)
        self.parts = [self.first, self.second]  # the same modules, in a list
        self.again = self.first.forward  # a bound method
        self.kept = {"all": []}
        self.register_buffer("memory", torch.zeros(8, 4), persistent=False)

    def forward(self, x):
        hidden = self.parts[0](x) + self.again(x)
        self.memory = 0.5 * self.memory.detach() + hidden
        self.kept["all"].append(hidden)
        return self.parts[1](self.memory.relu())[0]


@pytest.mark.parametrize("functional", [False, True])
def test_odd_modules_are_trained_as_in_a_plain_loop_and_left_alone(functional):
    torch.manual_seed(0)
    model, support = Odd(), make_batch()
    expected = plain_loop(model, support, 3, 0.3)
    model(support[0])  # keeps an activation with its graph, in a list and as a buffer
    memory, kept = model.memory, list(model.kept["all"])
    model.memory = torch.zeros(8, 4)
    adapted = adapt(model, support, lr=0.3, steps=3, loss=mse, functional=functional)
    found = adapted if functional else dict(adapted.named_parameters())
    for key, value in expected.named_parameters():
        torch.testing.assert_close(found[key], value)
    assert model.kept["all"][0] is kept[0] and len(kept) == 1
    model.memory = memory  # in the graph
    once = adapt(model, support, lr=0.3, steps=1, loss=mse)
    assert model.memory is memory and model.parts[0] is model.first
    assert once.parts[0] is once.first and once.again.__self__ is once.first
    adapt(once, support, lr=0.3, steps=1, loss=mse)


def test_functional_tensors_are_of_the_modules_own_graph():
    class Hyper(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.layer, self.scale, self.lock = nn.Linear(3, 2), scale, threading.Lock()

        def forward(self, x):
            return self.scale * self.layer(x)

    model, support = Hyper(torch.tensor(1.5, requires_grad=True) * 2), make_batch()
    found = adapt(model, support, lr=0.1, loss=mse, functional=True, create_graph=True)
    total = sum(value.sum() for value in found.values())
    gradients = torch.autograd.grad(total, [model.scale, *model.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("functional", [False, True])
def test_a_compiled_module_is_adapted(functional):
    model, support = make_model(), make_batch()
    compiled = torch.compile(model, backend="eager")
    found = adapt(compiled, support, lr=0.3, steps=3, loss=mse, functional=functional)
    found = list(found.values()) if functional else list(found.parameters())
    for left, right in zip(found, plain_loop(model, support, 3, 0.3).parameters(), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("functional", [False, True])
def test_only_what_is_adapted_is_differentiated(functional):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            hidden = self.body(x)
            seen.append(hidden.requires_grad)
            return self.head(hidden)

    seen: list[bool] = []
    found = adapt(Watched(), make_batch(), steps=2, loss=mse, only=["head."], functional=functional)
    assert seen == [False, False]
    if not functional:
        assert all(parameter.requires_grad for parameter in found.parameters())


def test_a_packed_sequence_is_one_input():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.GRU(3, 2, batch_first=True)

        def forward(self, packed):
            return self.net(packed)[1][0]

    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    model = Reads()
    adapted = adapt(model, (packed, torch.zeros(2, 2)), lr=0.1, loss=mse)
    assert mse(adapted(packed), torch.zeros(2, 2)) < mse(model(packed), torch.zeros(2, 2))


def test_an_initialisation_by_path(tmp_path):
    start = make_model(seed=2)
    save_initialization(Initialization.of(start, steps=0), tmp_path / "start.safetensors")
    path = tmp_path / "start.safetensors"
    for given in (path, str(path)):
        assert same(
            weights(adapt(make_model(), make_batch(), initialization=given)), weights(start)
        )
    tensors = adapt(make_model(), make_batch(), initialization=path, functional=True)
    assert same(list(tensors.values()), weights(start))
    moved = functional_call(make_model(), tensors, (make_batch()[0],))
    assert torch.equal(moved, start(make_batch()[0]))


class Writes(nn.Module):
    """Writes its input, its weights, an attribute and its own generator's state."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(8, 4, max_norm=0.5), nn.Linear(4, 2)
        self.mean, self.source = torch.zeros(()), torch.Generator().manual_seed(0)

    def forward(self, x):
        x += 1
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.norm())
        y = self.head(self.embedding(x)) + torch.rand((), generator=self.source)
        self.mean.add_(y.detach().mean())
        return y + self.mean


@pytest.mark.parametrize("settings", [{}, {"functional": True}, {"create_graph": True}])
def test_a_module_that_writes_is_trained_as_in_a_plain_loop_and_left_alone(settings):
    torch.manual_seed(0)
    model, inputs, targets = Writes(), torch.arange(7), torch.randn(7, 2)
    before, state = weights(model), model.source.get_state()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        mse(plain(inputs.clone()), targets).backward()
        optimizer.step()
    settings = {**settings, "functional": bool(settings)}
    found = adapt(model, (inputs, targets), lr=0.1, steps=3, loss=mse, **settings)
    found = found if settings["functional"] else dict(found.named_parameters())
    for key, value in plain.named_parameters():
        torch.testing.assert_close(found[key], value)
    assert same(weights(model), before) and model.mean == 0
    assert torch.equal(model.source.get_state(), state)
    assert torch.equal(inputs, torch.arange(7))


def test_recomputing_has_the_second_derivative_of_the_plain_module():
    class Plain(Recomputes):
        def forward(self, x):
            return self.c(self.b(self.a(x).tanh()).tanh())

    found = []
    for build in (Recomputes, Plain):
        torch.manual_seed(0)
        model, support = build(), make_batch()
        tensors = adapt(
            model, support, lr=0.3, steps=2, loss=mse, functional=True, create_graph=True
        )
        outputs = functional_call(Plain(), tensors, (support[0],))
        found.append(torch.autograd.grad(mse(outputs, support[1]), list(model.parameters())))
    torch.testing.assert_close(*found)

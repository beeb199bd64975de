"""Networks that read the training set, against loops over sequences, steps and rows."""

import math

import pytest
import torch
from torch import nn

from meta_train.few_shot.readers.episodes import READERS
from meta_train.few_shot.readers.evaluation import by_instance
from meta_train.few_shot.readers.lstm import LSTMReader
from meta_train.few_shot.readers.mann import MANN, Memory, least_used, step_memory

DOUBLE = {"dtype": torch.float64}


def inputs(sequences=2, steps=6, pixels=3, ways=2):
    random = torch.Generator().manual_seed(1)
    images = torch.rand(sequences, steps, pixels, generator=random, **DOUBLE)
    return images, torch.randint(ways, (sequences, steps), generator=random)


def made(name, **settings):
    torch.manual_seed(0)
    return READERS[name](3, 2, **settings).double()


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def lstm_cell(x, h, c, w_ih, w_hh, b_ih, b_hh):
    i, f, g, o = (w_ih @ x + b_ih + w_hh @ h + b_hh).chunk(4)
    c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
    return sigmoid(o) * torch.tanh(c), c


def seen(images, labels, ways):
    """(x_t, y_{t-1}) of one sequence, step by step."""
    for t, image in enumerate(images):
        before = torch.zeros(ways, **DOUBLE)
        if t:
            before[labels[t - 1]] = 1
        yield torch.cat([image, before])


def test_the_lstm_is_a_loop_over_steps():
    reader = made("lstm", units=4)
    images, labels = inputs()
    weights = [getattr(reader.lstm, f"{name}_l0") for name in
               ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
    found = reader(images, labels)
    for row in range(len(images)):
        h = c = torch.zeros(4, **DOUBLE)
        for t, x in enumerate(seen(images[row], labels[row], 2)):
            h, c = lstm_cell(x, h, c, *weights)
            expected = reader.head.weight @ h + reader.head.bias
            torch.testing.assert_close(found[row, t], expected)


def mann_by_loop(net, images, labels, *, units, rows, width, reads, decay):
    """Scores of one sequence: Santoro et al. 2016, section 3, a row at a time."""
    memory = [torch.zeros(width, **DOUBLE) for _ in range(rows)]
    usage = [torch.zeros((), **DOUBLE) for _ in range(rows)]
    last_read = [[torch.zeros((), **DOUBLE)] * rows for _ in range(reads)]
    r = torch.zeros(reads * width, **DOUBLE)
    h = c = torch.zeros(units, **DOUBLE)
    cell = net.controller
    scores = []
    for x in seen(images, labels, 2):
        h, c = lstm_cell(torch.cat([x, r]), h, c, cell.weight_ih, cell.weight_hh, cell.bias_ih,
                         cell.bias_hh)  # fmt: skip
        keys = torch.tanh(net.key.weight @ h + net.key.bias).chunk(reads)
        gates = sigmoid(net.gate.weight @ h + net.gate.bias)
        unused = sorted(range(rows), key=lambda n: usage[n].item())[:reads]
        write = [
            [
                gates[k] * last_read[k][n] + (1 - gates[k]) * (1.0 if unused[k] == n else 0.0)
                for n in range(rows)
            ]
            for k in range(reads)
        ]
        for n in unused:
            memory[n] = torch.zeros(width, **DOUBLE)
        memory = [memory[n] + sum(write[k][n] * keys[k] for k in range(reads)) for n in range(rows)]
        read, parts = [], []
        for key in keys:
            cosines = [
                (key @ row) / (torch.linalg.vector_norm(key) * torch.linalg.vector_norm(row) + 1e-6)
                for row in memory
            ]
            total = sum(torch.exp(one) for one in cosines)
            weights = [torch.exp(one) / total for one in cosines]
            read.append(weights)
            parts.append(sum(w * row for w, row in zip(weights, memory, strict=True)))
        usage = [
            decay * usage[n] + sum(read[k][n] + write[k][n] for k in range(reads))
            for n in range(rows)
        ]
        last_read, r = read, torch.cat(parts)
        scores.append(net.head.weight @ torch.cat([h, r]) + net.head.bias)
    return torch.stack(scores)


@pytest.mark.parametrize(
    "sizes",
    [
        {"units": 5, "rows": 4, "width": 3, "reads": 1, "decay": 0.9},
        {"units": 4, "rows": 5, "width": 2, "reads": 2, "decay": 0.5},
    ],
)
def test_mann_is_a_loop_over_steps_and_rows(sizes):
    net = made("mann", **sizes)
    with torch.no_grad():  # Keys far apart, so that rows and gates matter.
        net.key.weight *= 6
        net.gate.weight *= 6
    images, labels = inputs(steps=8)
    found = net(images, labels)
    expected = torch.stack(
        [mann_by_loop(net, x, y, **sizes) for x, y in zip(images, labels, strict=True)]
    )
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found.square().sum(), list(net.parameters()))
    theirs = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


def test_a_step_of_the_memory_by_hand():
    """Two rows; row 0 was read, row 1 is the less used one and is erased before the write."""
    before = Memory(
        rows=torch.tensor([[[1.0, 0.0], [5.0, 7.0]]], **DOUBLE),
        reads=torch.tensor([[[1.0, 0.0]]], **DOUBLE),
        usage=torch.tensor([[2.0, 1.0]], **DOUBLE),
    )
    keys = torch.tensor([[[0.0, 2.0]]], **DOUBLE)
    after, read = step_memory(before, keys, torch.tensor([[0.25]], **DOUBLE), decay=0.5)
    rows = torch.tensor([[1.0, 0.5], [0.0, 1.5]], **DOUBLE)  # + .25 k, and 0 + .75 k
    torch.testing.assert_close(after.rows[0], rows)
    cosines = torch.tensor([0.5 / math.sqrt(1.25), 1.0], **DOUBLE)
    weights = cosines.exp() / cosines.exp().sum()
    torch.testing.assert_close(after.reads[0, 0], weights, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(read[0, 0], weights @ rows, atol=1e-6, rtol=1e-6)
    usage = torch.tensor([0.5 * 2 + 0.25, 0.5 * 1 + 0.75], **DOUBLE) + weights
    torch.testing.assert_close(after.usage[0], usage, atol=1e-6, rtol=1e-6)


def test_least_used_rows_are_taken_in_order_and_ties_by_number():
    usage = torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = least_used(usage, 2).argmax(-1)
    assert found.tolist() == [[1, 3], [0, 1]]


@pytest.mark.parametrize("name", READERS)
def test_no_reader_sees_the_class_of_an_image_before_it_has_answered(name):
    net = made(name, units=4)
    images, labels = inputs(steps=5)
    before = net(images, labels)
    changed = labels.clone()
    changed[:, 2] = 1 - changed[:, 2]
    after = net(images, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])
    assert not torch.equal(before[:, 4], net(images[:, [0, 1, 2, 2, 4]], labels)[:, 4])


@pytest.mark.parametrize("name", READERS)
def test_sequences_do_not_mix(name):
    net = made(name, units=4)
    images, labels = inputs(sequences=3)
    torch.testing.assert_close(net(images, labels)[1:2], net(images[1:2], labels[1:2]))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lstm", {"units": 0}, "units must be at least 1, got 0"),
        ("mann", {"reads": 0}, "reads must be at least 1, got 0"),
        ("mann", {"rows": 3}, "rows must be at least the 4 reads, got 3"),
        ("mann", {"decay": 1.5}, "decay must be from 0 to 1, got 1.5"),
    ],
)
def test_impossible_readers_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        READERS[name](3, 2, **settings)


def symbols(sequences, random):
    """Sequences of 2 of 6 symbols, 4 times each; which of them is class 0 is drawn anew."""
    chosen = torch.rand(sequences, 6, generator=random).argsort(1)[:, :2]
    order = torch.rand(sequences, 8, generator=random).argsort(1)
    labels = torch.arange(2).repeat(4).expand(sequences, -1).gather(1, order)
    return nn.functional.one_hot(chosen.gather(1, labels), 6).float(), labels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("lstm", {}), ("mann", {"rows": 8, "width": 20, "reads": 1})],
)
def test_readers_learn_to_remember_which_symbol_has_which_class(name, settings):
    """At first they learn which class is still missing, and for long nothing else."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    net = READERS[name](6, 2, units=40, **settings)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(1500):
        inputs, labels = symbols(16, random)
        loss = nn.functional.cross_entropy(net(inputs, labels).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    inputs, labels = symbols(200, random)
    with torch.no_grad():
        right = by_instance(net(inputs, labels).argmax(-1) == labels, labels, 4).mean(1)
    assert right[0] < 0.9  # Nothing tells the class of the first one but that classes are balanced.
    assert right[1:].min() > 0.95


def test_published_sizes():
    mann, lstm = MANN(400, 5), LSTMReader(400, 5)
    assert (mann.rows, mann.width, mann.reads, mann.decay) == (128, 40, 4, 0.99)
    assert mann.controller.hidden_size == 200 == lstm.lstm.hidden_size
    assert isinstance(mann.controller, nn.LSTMCell) and mann.controller.input_size == 565

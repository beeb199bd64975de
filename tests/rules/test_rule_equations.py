"""The LSTM rules in plain numpy, as the papers print them: by coordinate, or by tensor."""

import math

import numpy as np
import pytest
import torch
from conftest import make_rule
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.rules import Context

STEPS = 6
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS, 4)) * 10.0 ** np.array([0, -2, -5, 1])
LOSSES = [2.5, 1.5, 0.7, 1e-6, 0.2, 30.0]
START = np.array([0.5, -1.0, 2.0, 0.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def preprocessed(x, p=10.0):
    """Andrychowicz et al. 2016, appendix A."""
    if abs(x) >= math.exp(-p):
        return np.array([math.log(abs(x)) / p, np.sign(x)])
    return np.array([-1.0, math.exp(p) * x])


class Cell:
    """An LSTM of one coordinate."""

    def __init__(self, cell):
        self.w = cell.weight.detach().numpy()
        self.b = cell.bias.detach().numpy()
        self.h, self.c = np.zeros(cell.hidden_size), np.zeros(cell.hidden_size)

    def __call__(self, x):
        i, f, o, z = np.split(np.concatenate([x, self.h]) @ self.w + self.b, 4)
        self.c = sigmoid(f) * self.c + sigmoid(i) * np.tanh(z)
        self.h = sigmoid(o) * np.tanh(self.c)
        return self.h


class Gate:
    """sigma(W [features, cell, last] + b): Ravi & Larochelle 2017, section 3."""

    def __init__(self, pair, column):
        self.w = pair.weight.detach().numpy()[:, column]
        self.b = pair.bias.detach().numpy()[column]
        self.recurrence, self.last = pair.recurrence, 0.0

    def __call__(self, features, cell):
        logit = np.concatenate([features, [cell, self.last]]) @ self.w + self.b
        self.last = sigmoid(logit) if self.recurrence == "value" else logit
        return sigmoid(logit)


def trajectory(rule):
    """Parameters after each step of the rule at lr = 1."""
    parameter = torch.tensor(START)
    state, seen = rule.init_state(parameter), []
    for gradient, loss in zip(GRADIENTS, LOSSES, strict=True):
        context = Context(loss=torch.tensor(loss, dtype=torch.float64))
        with torch.no_grad():
            (delta,), (state,) = rule([torch.tensor(gradient)], [parameter], [state], context)
        parameter = parameter + delta
        seen.append(parameter)
    return torch.stack(seen)


def expected(step_of):
    """Each coordinate run on its own by `step_of(k)`, which gives (theta, g, loss) -> theta."""
    columns = []
    for k in range(4):
        step, theta, column = step_of(), START[k], []
        for gradient, loss in zip(GRADIENTS[:, k], LOSSES, strict=True):
            theta = step(theta, gradient, loss)
            column.append(theta)
        columns.append(column)
    return torch.tensor(np.array(columns).T)


def reader(cell, use_loss):
    """Inputs of the gates, from a gradient (or memory) and the loss."""
    lstm = Cell(cell) if cell is not None else lambda x: x

    def read(value, loss):
        inputs = [preprocessed(value)] + ([preprocessed(loss)] if use_loss else [])
        return lstm(np.concatenate(inputs))

    return read


def test_coordinate_lstm_is_andrychowicz_et_al():
    rule = make_rule("lstm", torch.float64, spread=0.3)
    w, b = rule.head.weight.detach().numpy()[0], rule.head.bias.item()

    def step_of():
        first, second = map(Cell, rule.layers)
        return lambda theta, g, _: theta + 0.1 * (w @ second(first(preprocessed(g))) + b)

    torch.testing.assert_close(trajectory(rule), expected(step_of), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden_size", [0, 20])
@pytest.mark.parametrize("use_loss", [True, False])
@pytest.mark.parametrize("recurrence", ["value", "logit"])
def test_gated_lstm_is_ravi_and_larochelle(recurrence, use_loss, hidden_size):
    settings = {"recurrence": recurrence, "use_loss": use_loss, "hidden_size": hidden_size}
    rule = make_rule("gated-lstm", torch.float64, spread=0.3, **settings)

    def step_of():
        read = reader(rule.reader, use_loss)
        forget, enter = Gate(rule.gate_pair, 0), Gate(rule.gate_pair, 1)

        def step(theta, g, loss):
            features = read(g, loss)
            return forget(features, theta) * theta + enter(features, theta) * -g

        return step

    torch.testing.assert_close(trajectory(rule), expected(step_of), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden_size", [0, 20])
@pytest.mark.parametrize("use_loss", [True, False])
@pytest.mark.parametrize("recurrence", ["value", "logit"])
def test_momentum_gated_lstm_is_its_two_equations(recurrence, use_loss, hidden_size):
    settings = {"recurrence": recurrence, "use_loss": use_loss, "hidden_size": hidden_size}
    rule = make_rule("momentum-gated-lstm", torch.float64, spread=0.3, **settings)

    def step_of():
        read_g = reader(rule.memory_reader, use_loss)
        read_m = reader(rule.reader, use_loss)
        forget_m, enter_m = Gate(rule.memory_gates, 0), Gate(rule.memory_gates, 1)
        forget, enter = Gate(rule.gate_pair, 0), Gate(rule.gate_pair, 1)
        m = 0.0

        def step(theta, g, loss):
            nonlocal m
            features = read_g(g, loss)
            m = forget_m(features, m) * m + enter_m(features, m) * -g
            features = read_m(m, loss)
            return forget(features, theta) * theta + enter(features, theta) * m

        return step

    torch.testing.assert_close(trajectory(rule), expected(step_of), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden_size", [0, 20])
def test_constant_gates_make_momentum_sgd_of_the_momentum_gated_lstm(hidden_size):
    momentum, lr = 0.9, 0.05
    rule = make_rule("momentum-gated-lstm", torch.float64, hidden_size=hidden_size)
    for pair, biases in (
        (rule.memory_gates, [math.log(momentum / (1 - momentum)), 1000.0]),
        (rule.gate_pair, [1000.0, math.log(lr / (1 - lr))]),
    ):
        nn.init.zeros_(pair.weight)
        pair.bias.data = torch.tensor(biases, dtype=torch.float64)
    parameters = [nn.Parameter(torch.tensor(START)) for _ in range(2)]
    ours = LearnedOptimizer(parameters[:1], rule=rule)
    theirs = torch.optim.SGD(parameters[1:], lr=lr, momentum=momentum)
    for _ in range(20):
        for gradient in GRADIENTS:
            for parameter, optimizer in zip(parameters, (ours, theirs), strict=True):
                parameter.grad = torch.tensor(gradient)
                optimizer.step()
    torch.testing.assert_close(*parameters, rtol=1e-13, atol=1e-13)


def rms(x):
    return math.sqrt(np.mean(x**2))


def cosine(x, y):
    return np.sum(x * y) / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-30)


class SteeredTensor:
    """One tensor under `step-size-lstm`, in three parts as the mean cosine needs all tensors'."""

    def __init__(self, rule, parameter):
        self.rule, self.p, self.t = rule, parameter, 0
        self.m9, self.m99, self.v = (np.zeros(parameter.shape) for _ in range(3))
        self.lstm, self.log_scale, self.losses = Cell(rule.lstm), 0.0, []
        self.first_rms = rms(parameter)

    def look(self, g, loss, total_steps):
        """The features in the order of `FEATURES`, without the mean cosine."""
        self.t += 1
        t, self.g, self.last = self.t, g, self.m9 / np.sqrt(self.v + 1e-24)
        cosines = [cosine(g, before) for before in (self.m9, self.m99, self.last)]
        self.m9 = 0.9 * self.m9 + 0.1 * g
        self.m99 = 0.99 * self.m99 + 0.01 * g
        self.v = 0.99 * self.v + 0.01 * g**2
        hat = np.sqrt(self.v / (1 - 0.99**t))
        self.d = self.m9 / (1 - 0.9**t) / hat
        self.d99 = self.m99 / (1 - 0.99**t) / hat
        log_g = math.log(rms(g))
        surprise = 0.0 if t == 1 else np.clip(log_g - self.mean_log, -4, 4)
        self.mean_log = log_g if t == 1 else self.mean_log + 0.05 * surprise
        progress = min((t - 1) / total_steps, 1)
        warm = min(t / max(0.03 * total_steps, 1), 1)
        self.schedule = warm * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        if loss is not None:
            fast, slow, first, best = self.losses or (loss,) * 4
            fast, slow = 0.9 * fast + 0.1 * loss, 0.99 * slow + 0.01 * loss
            self.losses = fast, slow, first, min(best, fast)
        ratios = [math.log(self.losses[0] / x) for x in self.losses[1:]] if self.losses else [0] * 3
        size = math.log(3e-3 * self.schedule * math.exp(self.log_scale) / (rms(self.p) + 1e-3))
        return cosines[0], [
            surprise,
            *(2 * x for x in cosines),
            math.log(rms(self.d)) + 1,
            math.log(rms(self.d99)) + 1.5,
            0.5 * (size + 4),
            math.log((rms(self.p) + 1e-3) / (self.first_rms + 1e-3)),
            2 * (progress - 0.5),
            0.5 * (math.log(t) - 4.5),
            0.5 * (math.log(total_steps) - 6),
            float(g.ndim <= 1),
            0.3 * (math.log(g.size) - 6),
            float(loss is not None),
            2 * ratios[0],
            0.5 * ratios[1],
            2 * ratios[2],
        ]

    def move(self, features, mean_cosine, lr):
        features = np.clip([*features[:11], 2 * mean_cosine, *features[11:]], -4, 4)
        head = self.rule.head
        y = head.weight.detach().numpy() @ self.lstm(features) + head.bias.detach().numpy()
        size = lr * self.schedule * math.exp(np.clip(self.log_scale + 2 * y[0], -6, 4))
        self.log_scale = np.clip(self.log_scale + 0.1 * y[1], -6, 4)
        scaled = self.g / np.sqrt(self.v)
        parts = (self.d, self.d99, self.m9, scaled, self.p)
        factors = (1 + y[2] / 2, y[3] / 2, y[4] / 2, y[5] / 2, max(y[6], 0) / 2)
        mix = sum(k * part / rms(part) for k, part in zip(factors, parts, strict=True))
        self.p = self.p - size * mix / rms(mix)


@pytest.mark.parametrize("with_loss", [True, False])
@pytest.mark.parametrize("total_steps", [8, 400])
def test_step_size_lstm_is_its_equations(total_steps, with_loss):
    rule = make_rule("step-size-lstm", torch.float64, spread=0.5)
    random = np.random.default_rng(1)
    starts = [random.normal(size=shape) for shape in ((3, 4), (5,))]
    tensors = [SteeredTensor(rule, start) for start in starts]
    parameters = [torch.tensor(start) for start in starts]
    states = [rule.init_state(p) for p in parameters]
    for step in range(12):
        gradients = [(0.3 + step) * random.normal(size=start.shape) + start for start in starts]
        loss = 2.0 / (1 + step) + 0.3 * (-1) ** step if with_loss else None
        looks = [t.look(g, loss, total_steps) for t, g in zip(tensors, gradients, strict=True)]
        mean = np.mean([of_m9 for of_m9, _ in looks])
        for tensor, (_, features) in zip(tensors, looks, strict=True):
            tensor.move(features, mean, 0.05)
        context = Context(
            loss=None if loss is None else torch.tensor(loss, dtype=torch.float64),
            total_steps=torch.tensor(float(total_steps)),
        )
        with torch.no_grad():
            given = [torch.tensor(g) for g in gradients], parameters, states
            deltas, states = rule(*given, context)
        parameters = [p + 0.05 * d for p, d in zip(parameters, deltas, strict=True)]
        expected = [torch.tensor(tensor.p) for tensor in tensors]
        # The rule keeps the scales of its features in float32.
        torch.testing.assert_close(parameters, expected, rtol=1e-7, atol=1e-7)


def test_defaults_are_the_papers():
    lstm = create_rule("lstm")
    assert (lstm.hidden_sizes, lstm.p, lstm.output_scale) == ((20, 20), 10.0, 0.1)
    assert lstm.default_lr == create_rule("gated-lstm").default_lr == 1.0
    gated = create_rule("gated-lstm")
    assert (gated.hidden_size, gated.p, gated.use_loss) == (20, 10.0, True)
    assert gated.gate_pair.recurrence == "value"


@pytest.mark.parametrize("name", ["gated-lstm", "momentum-gated-lstm"])
def test_gates_start_as_slow_gradient_descent(name):
    for seed in range(5):
        rule = make_rule(name, seed=seed)
        pairs = [m for key, m in rule.named_modules() if key.endswith(("gate_pair", "_gates"))]
        assert len(pairs) == (1 if name == "gated-lstm" else 2)
        for pair in pairs:
            b_f, b_i = pair.bias.tolist()
            assert 4 < b_f < 5
            assert -5 < b_i < -4
            assert 0.005 < pair.weight.abs().max() <= 0.01


def test_the_forget_gate_shrinks_exactly_where_it_rounds_to_one():
    """theta' = f theta - i g in float32, with 1 - f far below the spacing of floats near 1."""
    rule = make_rule("gated-lstm", use_loss=False, hidden_size=0)
    nn.init.zeros_(rule.gate_pair.weight)
    rule.gate_pair.bias.data = torch.tensor([30.0, -1000.0])
    parameter = torch.full((1,), 1e6)
    (delta,), _ = rule([torch.ones(1)], [parameter], [rule.init_state(parameter)])
    torch.testing.assert_close(delta, torch.tensor([-1e6 * math.exp(-30.0)]))

"""Faster code takes the same steps as the rule, for every rule that has some."""

import copy
import math

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, list_rules
from learned_opt.backends.registry import FUSED_STEPS
from learned_opt.c_library import load_library
from learned_opt.optimizer import fused as driver

CASES = [
    (name, step) for name in list_rules() for step in FUSED_STEPS.get(type(create_rule(name)), ())
]
ROUNDING = {"orthogonal-momentum": 1e-3, "gated-lstm": 3e-4, "momentum-gated-lstm": 3e-4}
"""Tolerances of rules that magnify rounding, where they are not 1e-5. Newton-Schulz iterations
multiply small singular values, and so the rounding of the momentum, by 300. Gates read large
parameters, and memories near zero times e^10, with their rounding."""
SHAPES = {
    "scalar": [()],
    "empty": [(0,), (3, 0)],
    "one element": [(1,), (1, 1)],
    "many small": [(k % 5 + 1, k % 3 + 1) for k in range(40)],
    "mixed": [(300, 70), (70,), (), (0,), (2, 3, 4, 5)],
    "several pieces": [(3, 70001), (17,)],
}


def random_rule(name, settings):
    """A rule with random weights, also where fresh ones are zero."""
    torch.manual_seed(0)
    rule = create_rule(name, **settings)
    with torch.no_grad():
        for weight in rule.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return rule


def make_parameters(shapes, seed=1):
    torch.manual_seed(seed)
    return [nn.Parameter(0.3 * torch.randn(shape)) for shape in shapes]


def gradients(shapes, step, scale=1.0):
    torch.manual_seed(100 + step)
    return [scale * torch.randn(shape) for shape in shapes]


class Pair:
    """Two optimizers on equal parameters: one fused, one by the rule."""

    def __init__(self, name, shapes, groups=1, settings=None, **options):
        self.rule, self.shapes = random_rule(name, settings or {}), shapes
        self.tolerance = ROUNDING.get(name, 1e-5)
        if "total_steps" in self.rule.read_context():
            options["total_steps"] = 50
        self.sides = []
        for fused in (True, False):
            parameters = make_parameters(shapes)
            split = [{"params": parameters[k::groups], "lr": 0.01 * (k + 1)} for k in range(groups)]
            given = split if groups > 1 else parameters
            optimizer = LearnedOptimizer(given, rule=self.rule, fused=fused, **options)
            self.sides.append((parameters, optimizer))

    def step(self, grads, loss=1.5):
        for parameters, optimizer in self.sides:
            for parameter, gradient in zip(parameters, grads, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
            optimizer.step(lambda: torch.tensor(loss))

    def run(self, steps=6, scale=1.0):
        for step in range(steps):
            self.step(gradients(self.shapes, step, scale), 1.5 - 0.1 * step)

    def check(self):
        (fused, one), (eager, two) = self.sides
        for a, b in zip(fused, eager, strict=True):
            self.check_tensor(a.detach(), b.detach())
            assert one.state[a].keys() == two.state[b].keys()
            for key, value in two.state[b].items():
                self.check_tensor(one.state[a][key], value)

    def check_tensor(self, found, expected):
        # Sums cancel: their rounding is that of the largest numbers in them.
        sizes = expected.abs().nan_to_num(posinf=0.0)
        atol = self.tolerance * max(1.0, float(sizes.max()) if sizes.numel() else 0.0)
        torch.testing.assert_close(found, expected, rtol=self.tolerance, atol=atol)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].__name__}")
def name(request, monkeypatch):
    """The name of a rule, of whose faster code optimizers get one kind only."""
    name, step = request.param
    why = step().refuses_rule(create_rule(name)) or step().refuses_parameter(torch.zeros(2))
    if why:
        pytest.skip(why)
    monkeypatch.setattr(driver, "fused_steps", lambda rule: [step()])
    return name


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_steps_agree(name, shapes):
    pair = Pair(name, shapes)
    before = [parameter.detach().clone() for parameter in pair.sides[0][0]]
    pair.run()
    pair.check()
    for parameter, old in zip(pair.sides[0][0], before, strict=True):
        assert parameter.numel() == 0 or not torch.equal(parameter, old)


@pytest.mark.parametrize(
    "options",
    [
        {"maximize": True},
        {"weight_decay": 0.3},
        {"lr": 0.5},
        {"lr": torch.tensor(0.02)},
        {"groups": 3},
    ],
    ids=str,
)
def test_options_are_followed(name, options):
    pair = Pair(name, SHAPES["mixed"], **options)
    pair.run()
    pair.check()


# Squares of gradients below 1e-22 are 0 in float32; a norm of a single element takes no square.
@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1e6, 1e15])
def test_gradients_of_any_scale_agree(name, scale):
    lr = 0.1 / scale if name == "sgd" else 0.1
    pair = Pair(name, SHAPES["mixed"], lr=lr)
    pair.run(scale=scale)
    pair.check()


SETTINGS = [
    ("momentum", {"momentum": 0.8, "dampening": 0.3}),
    ("momentum", {"momentum": 0.8, "nesterov": True}),
    ("momentum", {"momentum": 0.0}),
    ("rmsprop", {"alpha": 0.9, "eps": 0.1}),
    ("adam", {"betas": (0.0, 0.9), "eps": 0.1}),
    ("adam", {"betas": (0.7, 0.0)}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_settings_of_hand_made_rules_are_followed(name, settings):
    (step,) = FUSED_STEPS[type(create_rule(name))]
    if step().refuses_rule(create_rule(name)):
        pytest.skip("the C library was not compiled")
    pair = Pair(name, SHAPES["mixed"], settings=settings, lr=0.1)
    pair.run()
    pair.check()


@pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")
@pytest.mark.filterwarnings("ignore:the update of")
def test_idle_coordinates_of_adam_keep_no_momentum_that_underflows():
    """Squares of gradients of 1e-24 are 0: without a gradient the coordinate counts as idle."""
    pair = Pair("adam", [(5,)])
    pair.step([torch.tensor([1e-24, 1e-24, 1.0, 0.0, -1e-24])])
    pair.step([torch.tensor([0.0, 1e-24, 0.0, 0.0, 0.0])])
    for _, optimizer in pair.sides:
        (state,) = optimizer.state.values()
        assert [bool(m) for m in state["m"]] == [False, True, True, False, False]
    pair.check()


def test_a_learning_rate_of_zero_moves_no_bit(name):
    pair = Pair(name, SHAPES["mixed"], lr=0.0)
    before = [parameter.detach().clone() for parameter in pair.sides[0][0]]
    pair.run(2)
    for parameter, old in zip(pair.sides[0][0], before, strict=True):
        assert torch.equal(parameter, old)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_by_both(name, bad):
    shapes = [(300, 70), (70,), (5,)]
    pair = Pair(name, shapes)
    pair.run(2)
    grads = gradients(shapes, 7)
    grads[0][299, 69] = bad
    parameters, optimizer = pair.sides[0]
    before = copy.deepcopy(optimizer.state_dict()["state"])
    old = [parameter.detach().clone() for parameter in parameters]
    with pytest.warns(RuntimeWarning) as warned:
        pair.step(grads)
    assert [str(w.message).split(" was")[0] for w in warned] == [
        "the update of parameter 0 of group 0"
    ] * 2
    assert [optimizer.skipped_updates for _, optimizer in pair.sides] == [1, 1]
    assert torch.equal(parameters[0], old[0])
    for key, value in before[0].items():
        assert torch.equal(optimizer.state_dict()["state"][0][key], value)
    assert not torch.equal(parameters[1], old[1])
    pair.check()


@pytest.mark.filterwarnings("ignore:the update of")
@pytest.mark.parametrize("huge", [1e18, 1e20, 3e38])
@pytest.mark.parametrize("place", ["gradient", "parameter"])
def test_huge_numbers_are_judged_alike(name, huge, place):
    shapes = [(300, 70), (70,)]
    pair = Pair(name, shapes)
    pair.run(2)
    grads = gradients(shapes, 7)
    if place == "gradient":
        grads[0][299, 69] = huge
    else:
        with torch.no_grad():
            for parameters, _ in pair.sides:
                parameters[0][299, 69] = huge
    pair.step(grads)
    counts = [optimizer.skipped_updates for _, optimizer in pair.sides]
    assert counts[0] == counts[1]
    pair.check()


@pytest.mark.filterwarnings("ignore:the update of")
def test_an_infinite_parameter_stays_as_the_rule_says(name):
    pair = Pair(name, [(40, 30), (7,)])
    with torch.no_grad():
        for parameters, _ in pair.sides:
            parameters[0][3, 4] = -math.inf
    pair.run(3)
    (fused, one), (_, two) = pair.sides
    assert fused[0][3, 4] == -math.inf
    assert one.skipped_updates == two.skipped_updates
    pair.check()


def test_a_default_device_and_dtype_change_nothing(name):
    runs = []
    for device, dtype in (("cpu", torch.float32), ("meta", torch.float64)):
        pair = Pair(name, SHAPES["mixed"])
        pair.run(1)
        grads = gradients(pair.shapes, 1)
        try:
            torch.set_default_dtype(dtype)
            with torch.device(device):
                for parameter, gradient in zip(pair.sides[0][0], grads, strict=True):
                    parameter.grad = gradient
                pair.sides[0][1].step(lambda: 1.0)
        finally:
            torch.set_default_dtype(torch.float32)
        runs.append(pair.sides[0][0])
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_a_tensor_without_gradient_waits(name):
    shapes = [(20, 3), (7,)]
    pair = Pair(name, shapes)
    for step in range(5):
        grads = gradients(shapes, step)
        pair.step([grads[0], None if step < 3 else grads[1]])
    pair.check()
    assert float(pair.sides[0][1].state[pair.sides[0][0][1]]["step"]) == 2


def test_a_zero_gradient_moves_no_fresh_tensor(name):
    pair = Pair(name, [(20, 3), (7,)])
    before = [parameter.detach().clone() for parameter in pair.sides[0][0]]
    pair.step([torch.zeros(20, 3), torch.zeros(7)])
    for parameter, old in zip(pair.sides[0][0], before, strict=True):
        assert torch.equal(parameter, old)
    pair.check()


def test_a_resumed_run_is_the_unbroken_one(name):
    shapes = SHAPES["mixed"]
    runs = []
    for broken in (False, True):
        pair = Pair(name, shapes)
        pair.run(3)
        parameters, optimizer = pair.sides[0]
        if broken:
            saved = copy.deepcopy(optimizer.state_dict())
            parameters = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
            plan = {"total_steps": 50} if optimizer.param_groups[0]["total_steps"] else {}
            optimizer = LearnedOptimizer(parameters, rule=pair.rule, fused=True, **plan)
            optimizer.load_state_dict(saved)
        for parameter, gradient in zip(parameters, gradients(shapes, 9), strict=True):
            parameter.grad = gradient
        optimizer.step(lambda: torch.tensor(1.0))
        runs.append(parameters)
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_the_number_of_threads_changes_rounding_at_most(name):
    """In C no bit; plain torch may add up in another order."""
    shapes, runs, threads = [(1100, 1000), (70,)], [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            pair = Pair(name, shapes)
            pair.run(2)
            pair.check()
            runs.append(pair.sides[0][0])
            in_c = pair.sides[0][1]._fused._steps[0].code == "C"
    finally:
        torch.set_num_threads(threads)
    if in_c:
        assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_a_parameter_that_autograd_saved_has_changed(name):
    (parameter,) = make_parameters([(3, 2)])
    rule = random_rule(name, {})
    plan = {"total_steps": 9} if "total_steps" in rule.read_context() else {}
    optimizer = LearnedOptimizer([parameter], rule=rule, fused=True, **plan)
    loss = parameter.square().sum()
    parameter.grad = torch.ones(3, 2)
    optimizer.step(lambda: torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()

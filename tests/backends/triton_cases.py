"""Steps in Triton equal the rule's: run on a GPU, or on the CPU by Triton's interpreter.

Not collected by itself: `test_triton_interpreted.py` runs it in a process of its own, since Triton
reads TRITON_INTERPRET when kernels are imported, and `test_triton_gpu.py` imports it.
"""

import copy
import math
import os
import warnings

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, from_pretrained
from learned_opt.backends import registry
from learned_opt.backends.triton.adam_lstm import AdamLSTMInTriton
from learned_opt.backends.triton.orthogonal import OrthogonalMomentumInTriton
from learned_opt.backends.triton.step_size import StepSizeInTriton
from learned_opt.rules.adam_lstm import AdamLSTM
from learned_opt.rules.momentum_constants import MomentumConstants, PaceConstants
from learned_opt.rules.orthogonal_momentum import OrthogonalMomentum
from learned_opt.rules.step_size_lstm import StepSizeLSTM

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# Blocks have 2048 elements in step-size-lstm and 512 in adam-lstm: one tensor has two and a rest.
SHAPES = {
    "step-size-lstm": [(70, 65), (70,), (), (0,), (2, 3, 4), (1, 1)],
    "adam-lstm": [(41, 26), (7,), (), (0,), (2, 3)],
    "orthogonal-momentum": [(70, 65), (2100,), (), (0,), (4, 3, 2), (6, 4), (1, 5)],
}
SMALL = {
    "step-size-lstm": {"hidden_size": 5},
    "adam-lstm": {"hidden_size": 3, "betas": (0.9, 0.5, 0.99)},
    "orthogonal-momentum": {},
}


def random_rule(name, **settings):
    torch.manual_seed(0)
    rule = create_rule(name, **(settings or SMALL[name]))
    with torch.no_grad():
        for weight in rule.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return rule.to(DEVICE)


def gradients(shapes, step, scale=1.0):
    torch.manual_seed(100 + step)
    return [scale * torch.randn(shape) for shape in shapes]


class Pair:
    """Two optimizers on equal parameters: one fused, one by the rule."""

    def __init__(self, name, shapes=None, groups=1, dtype=torch.float32, rule=None, **options):
        self.rule = rule or random_rule(name)
        self.shapes = shapes or SHAPES[name]
        if "total_steps" in self.rule.required_context():
            options["total_steps"] = 50
        self.parameters, self.optimizers = [], []
        for fused in (True, False):
            torch.manual_seed(1)
            values = [(0.3 * torch.randn(shape)).to(DEVICE, dtype) for shape in self.shapes]
            parameters = [nn.Parameter(value) for value in values]
            split = [{"params": parameters[k::groups], "lr": 0.01 * (k + 1)} for k in range(groups)]
            given = split if groups > 1 else parameters
            self.parameters.append(parameters)
            self.optimizers.append(LearnedOptimizer(given, rule=self.rule, fused=fused, **options))

    def step(self, grads, loss=1.5):
        for parameters, optimizer in zip(self.parameters, self.optimizers, strict=True):
            for parameter, gradient in zip(parameters, grads, strict=True):
                parameter.grad = gradient.to(DEVICE, parameter.dtype)
            optimizer.step(lambda: torch.tensor(loss, device=DEVICE))

    def run(self, steps=3, scale=1.0):
        for step in range(steps):
            self.step(gradients(self.shapes, step, scale), 1.5 - 0.1 * step)

    def check(self, rtol=1e-5, atol=1e-5):
        one, two = self.optimizers
        for a, b in zip(*self.parameters, strict=True):
            # On a GPU, matrices are orthogonalised in bfloat16, which magnifies rounding.
            is_rough = DEVICE == "cuda" and "average" in one.state[a] and a.dim() > 1
            rough = {"rtol": 0, "atol": 1e-2} if is_rough else {"rtol": rtol, "atol": atol}
            torch.testing.assert_close(a, b, **rough)
            assert one.state[a].keys() == two.state[b].keys()
            for key, value in one.state[a].items():
                close = rough if key == "average" else {"rtol": rtol, "atol": atol}
                torch.testing.assert_close(value, two.state[b][key], **close)

    def copies(self, side):
        return [p.detach().clone() for p in self.parameters[side]]


@pytest.fixture(autouse=True)
def only_triton(monkeypatch):
    """On the CPU, C would be the first choice."""
    rows = {
        StepSizeLSTM: (StepSizeInTriton,),
        AdamLSTM: (AdamLSTMInTriton,),
        OrthogonalMomentum: (OrthogonalMomentumInTriton,),
    }
    assert all(row[0] in registry.FUSED_STEPS[rule] for rule, row in rows.items())
    monkeypatch.setattr(registry, "FUSED_STEPS", rows)


@pytest.fixture(params=SHAPES)
def name(request):
    return request.param


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"maximize": True, "weight_decay": 0.3},
        {"lr": torch.tensor(0.02), "weight_decay": 0.1},
        {"groups": 2},
    ],
    ids=str,
)
def test_steps_agree(name, options):
    pair = Pair(name, **options)
    before = pair.copies(0)
    pair.run()
    pair.check()
    for parameter, old in zip(pair.parameters[0], before, strict=True):
        assert parameter.numel() == 0 or not torch.equal(parameter, old)
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [0, 0]


def test_a_tensor_learning_rate_on_the_device_is_followed(name):
    pair = Pair(name, [(5, 3), (4,)], lr=torch.tensor(0.02, device=DEVICE))
    pair.run(1)
    for optimizer in pair.optimizers:
        optimizer.param_groups[0]["lr"].fill_(0.004)
    pair.run(2)
    pair.check()


def test_bundled_weights_agree():
    for name in ("step-size-lstm", "digits-lstm"):
        pair = Pair(name, [(6, 5), (3,)], rule=from_pretrained(name).to(DEVICE))
        pair.run(2)
        pair.check()


def test_other_constants_of_orthogonal_momentum_are_followed():
    rule = create_rule("orthogonal-momentum")
    rule._constants = MomentumConstants(
        *(1.3, 0.6, 0.7, 0.8, 0.97, 5.0, 30.0, 0.7, 3.0), PaceConstants(3.0, 2.0, 0.05, 0.4, 0.2)
    )
    pair = Pair("orthogonal-momentum", [(6, 5), (3,)], rule=rule.to(DEVICE))
    pair.run(4)
    pair.check()


def test_weights_that_are_trained_in_place_are_followed(name):
    pair = Pair(name, [(5, 3), (4,)])
    pair.run(1)
    with torch.no_grad():
        for weight in pair.rule.parameters():
            weight.mul_(1.5)
    pair.run(2)
    pair.check()


@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1e6, 1e15])
def test_gradients_of_any_scale_agree(name, scale):
    pair = Pair(name, [(9, 7), (5,), ()])
    pair.run(scale=scale)
    pair.check()


def test_half_precision_parameters_agree(name):
    pair = Pair(name, [(9, 7), (5,)], dtype=torch.bfloat16)
    pair.run(1)
    for a, b in zip(pair.copies(0), pair.copies(1), strict=True):
        # The interpreter cuts digits off where a GPU rounds, so the last one may differ.
        tolerance = 2**-7 if DEVICE == "cpu" else 2**-8
        is_rough = DEVICE == "cuda" and name == "orthogonal-momentum"
        torch.testing.assert_close(a, b, rtol=tolerance, atol=2e-3 if is_rough else 0)


def test_parameters_of_two_dtypes_take_one_step():
    rule = random_rule("step-size-lstm")
    sides = []
    for fused in (True, False):
        torch.manual_seed(1)
        wide = nn.Parameter(torch.randn(4, 3).to(DEVICE))
        half = nn.Parameter(torch.randn(5).to(DEVICE, torch.bfloat16))
        optimizer = LearnedOptimizer([half, wide], rule=rule, fused=fused, total_steps=9)
        torch.manual_seed(2)
        half.grad = torch.randn(5).to(DEVICE, torch.bfloat16)
        wide.grad = torch.randn(4, 3).to(DEVICE)
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
        sides.append((half, wide, optimizer.state[wide]["h"]))
    for a, b in zip(*sides, strict=True):
        tolerance = 2**-7 if a.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(a, b, rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_views_at_any_address_agree(name, offset):
    """Vector loads need multiples of 16 bytes: an offset of one float32 has none."""
    size = 2500 if name == "step-size-lstm" else 520
    rule, results = random_rule(name), []
    for fused in (True, False):
        torch.manual_seed(1)
        flat = torch.randn(size + offset).to(DEVICE)
        gradient = torch.randn(size + offset).to(DEVICE)
        before = flat[:offset].clone()
        parameter = nn.Parameter(flat[offset:])
        optimizer = LearnedOptimizer([parameter], rule=rule, fused=fused, total_steps=9)
        parameter.grad = gradient[offset:]
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
        results.append(parameter.detach())
        assert torch.equal(flat[:offset], before)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def everything(pair, side):
    """Copies of all parameters, and of all state but of `step`."""
    states = pair.optimizers[side].state
    return [
        [parameter.detach().clone(), *(v.clone() for v in states[parameter].values())]
        for parameter in pair.parameters[side]
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_leaves_its_tensor(name, bad):
    pair = Pair(name, [(300, 7), (70,), (5,)])
    pair.run(1)
    grads = gradients(pair.shapes, 7)
    grads[0][299, 6] = bad
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.step(grads)
    new = everything(pair, 0)
    assert all(torch.equal(a, b) for a, b in zip(old[0], new[0], strict=True))
    assert not torch.equal(old[1][0], new[1][0])
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [1, 1]
    pair.run(1)
    pair.check()


def test_skipped_tensors_are_named():
    optimizer = Pair("step-size-lstm", [(4, 3), (5,)]).optimizers[0]
    tensors = optimizer.param_groups[0]["params"]
    tensors[0].grad, tensors[1].grad = torch.ones_like(tensors[0]), torch.ones_like(tensors[1])
    tensors[1].grad[2] = math.nan
    with pytest.warns(RuntimeWarning, match="0.1"):
        for _ in range(3):  # on a GPU, the count is read some steps later
            optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
            torch.cuda.synchronize() if DEVICE == "cuda" else None


@pytest.mark.parametrize("huge, skips", [(1e18, 0), (1e21, 1), (3e38, 1)])
def test_a_huge_gradient_leaves_its_tensor(name, huge, skips):
    """Its square leaves the range of float32: from there on, nothing is written."""
    pair = Pair(name, [(6, 5), (4,)])
    pair.run(1)
    grads = gradients(pair.shapes, 7)
    grads[1][3] = huge
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.step(grads)
    assert pair.optimizers[0].skipped_updates == skips
    new = everything(pair, 0)
    assert torch.equal(old[1][0], new[1][0]) == bool(skips)
    if skips:
        assert all(torch.equal(a, b) for a, b in zip(old[1], new[1], strict=True))
    assert all(bool(value.isfinite().all()) for value in new[1])


def test_a_matrix_of_huge_gradients_is_orthogonalised_as_any():
    pair = Pair("orthogonal-momentum", [(6, 5)])
    for scale in (1e-30, 1.0, 1e30):
        pair.run(1, scale)
    pair.check()
    assert pair.optimizers[0].skipped_updates == 0


def test_a_parameter_that_would_overflow_is_skipped(name):
    pair = Pair(name, [(6, 5)], lr=3e38, weight_decay=100.0)
    pair.optimizers[0].init_state()
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.run(1)
    assert all(torch.equal(a, b) for a, b in zip(old[0], everything(pair, 0)[0], strict=True))
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [1, 1]


def test_an_infinite_parameter_stays(name):
    pair = Pair(name, [(20, 30), (7,)])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for parameters in pair.parameters:
            parameters[0][3, 4] = -math.inf
        pair.run(2)
    one, two = pair.optimizers
    assert pair.parameters[0][0][3, 4] == -math.inf
    assert one.skipped_updates == two.skipped_updates
    pair.check()


def test_nothing_is_written_where_the_loss_is_not_a_number():
    pair = Pair("step-size-lstm", [(4, 3), (5,)])
    pair.run(1)
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.step(gradients(pair.shapes, 3), math.nan)
    for before, after in zip(old, everything(pair, 0), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [2, 2]


def test_coordinates_that_never_had_a_gradient_stand_still(name):
    pair = Pair(name, [(6, 5), (4,), (3, 3)])
    old = everything(pair, 0) if pair.optimizers[0].state else pair.copies(0)
    for step in range(2):
        grads = gradients(pair.shapes, step)
        grads[0][2] = 0.0
        grads[2].zero_()
        pair.step(grads)
    for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
        first = optimizer.state[parameters[0]]
        assert torch.equal(parameters[0][2].detach(), old[0][2])
        assert torch.equal(parameters[2].detach(), old[2])
        if name == "adam-lstm":
            assert first["h"][2].abs().max() == 0
            assert first["h"][1].abs().min() > 0
    pair.check()


@pytest.mark.parametrize("unit_major", [False, True])
def test_state_may_lie_unit_by_unit(unit_major):
    pair = Pair("adam-lstm", [(41, 26), (3,), ()])
    for optimizer in pair.optimizers:
        optimizer.init_state()
        for state in optimizer.state.values():
            for key in ("h", "c", "m"):
                value = state[key]
                state[key] = torch.zeros(value.shape)
                if unit_major:
                    state[key] = torch.zeros(value.movedim(-1, 0).shape).movedim(0, -1)
    pair.run()
    pair.check()
    strides = {state["h"].stride(-1) for state in pair.optimizers[0].state.values()}
    assert strides == ({41 * 26, 3, 1} if unit_major else {1})


def test_a_resumed_run_is_the_unbroken_one(name):
    runs = []
    for broken in (False, True):
        pair = Pair(name, [(30, 7), (5,)])
        pair.run(2)
        parameters, optimizer = pair.parameters[0], pair.optimizers[0]
        if broken:
            saved = copy.deepcopy(optimizer.state_dict())
            parameters = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
            plan = {"total_steps": 50} if optimizer.param_groups[0]["total_steps"] else {}
            optimizer = LearnedOptimizer(parameters, rule=pair.rule, fused=True, **plan)
            optimizer.load_state_dict(saved)
        for parameter, gradient in zip(parameters, gradients(pair.shapes, 9), strict=True):
            parameter.grad = gradient.to(DEVICE)
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
        runs.append(parameters)
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_gradients_that_move_in_memory_are_found(name):
    """The table of addresses is kept between steps; each step has new gradient tensors."""
    pair = Pair(name, [(5, 3), (4,)])
    kept = []
    for step in range(3):
        pair.step(gradients(pair.shapes, step))
        kept += [parameter.grad for parameter in pair.parameters[0]]
    assert len({gradient.data_ptr() for gradient in kept}) == 6
    pair.check()


def test_parameters_come_and_go(name):
    pair = Pair(name, [(5, 3), (4,), (2, 2)])
    for missing in (None, 1, 0, None):
        for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
            for k, gradient in enumerate(gradients(pair.shapes, 3)):
                parameters[k].grad = None if k == missing else gradient.to(DEVICE)
            optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
    pair.check()
    assert float(pair.optimizers[0].state[pair.parameters[0][1]]["step"]) == 3


@pytest.mark.parametrize("name", ["adam-lstm", "orthogonal-momentum"])
def test_updates_fade_alike_where_gradients_stop(name):
    pair = Pair(name, [(3, 2), (2,)])
    pair.run(1)
    for _ in range(30):
        pair.step([torch.zeros(shape) for shape in pair.shapes])
    pair.check()


def test_a_plan_is_followed():
    pair = Pair("orthogonal-momentum", [(5, 3), (4,)], total_steps=4)
    pair.run(4)
    pair.check()


def test_the_evaluation_average_agrees():
    pair = Pair("orthogonal-momentum", [(5, 3), (4,)])
    pair.run(4)
    for optimizer in pair.optimizers:
        optimizer.eval()
    pair.check()
    for optimizer in pair.optimizers:
        optimizer.train()
    pair.run(1)
    pair.check()


def test_kernels_of_many_shapes_are_orthogonalised_together():
    pair = Pair("orthogonal-momentum", [(6, 4), (4, 6), (6, 4), (4, 3, 2), (5,), (4, 6), (3, 128)])
    pair.run(2)
    pair.check()


def test_a_group_that_asks_for_adams_direction_gets_it():
    sides = []
    for fused in (True, False):
        torch.manual_seed(1)
        parameters = [nn.Parameter(torch.randn(6, 4).to(DEVICE)) for _ in range(2)]
        groups = [{"params": parameters[:1], "direction": "adam"}, {"params": parameters[1:]}]
        optimizer = LearnedOptimizer(groups, rule="orthogonal-momentum", fused=fused)
        for step in range(3):
            for parameter, gradient in zip(parameters, gradients(2 * [(6, 4)], step), strict=True):
                parameter.grad = gradient.to(DEVICE)
            optimizer.step()
        assert optimizer.state[parameters[0]]["v"].shape == (6, 4)
        sides.append(parameters)
    torch.testing.assert_close(sides[0][0], sides[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        sides[0][1], sides[1][1], rtol=0, atol=1e-5 if DEVICE == "cpu" else 1e-2
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_refused(name, dtype):
    said = f"it is {str(dtype)[6:]}, not float32 or bfloat16"
    with pytest.raises(ValueError, match=said):
        Pair(name, [(3, 2)], dtype=dtype)


def test_what_does_not_fit_is_refused_before_anything_moves(name):
    pair = Pair(name, [(3, 2), (4,)])
    pair.run(1)
    before = pair.copies(0)
    optimizer, (matrix, vector) = pair.optimizers[0], pair.parameters[0]
    matrix.grad = torch.ones(2, 3, device=DEVICE).T
    vector.grad = torch.ones(4, device=DEVICE)
    with pytest.raises(RuntimeError, match="0.0: its gradient is not contiguous"):
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
    matrix.grad = torch.ones(3, 2, device=DEVICE)
    key = {"step-size-lstm": "m99", "adam-lstm": "fast", "orthogonal-momentum": "m"}[name]
    optimizer.state[matrix][key] = optimizer.state[matrix][key].double()
    with pytest.raises(RuntimeError, match=f"0.0: its state '{key}' is float64, not float32"):
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
    assert all(torch.equal(a, b) for a, b in zip(before, pair.copies(0), strict=True))


def test_a_large_lstm_is_refused():
    rule = create_rule("adam-lstm", hidden_size=65)
    with pytest.raises(ValueError, match="its LSTM has 65 units, more than 64"):
        LearnedOptimizer([nn.Parameter(torch.ones(2, device=DEVICE))], rule=rule, fused=True)


def test_default_dtype_and_device_change_nothing(name):
    pair = Pair(name, [(5, 3), (4,)], lr=0.01, weight_decay=0.1)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for step in range(2):
            grads = [gradient.float() for gradient in gradients(pair.shapes, step)]
            loss = torch.tensor(1.5, device=DEVICE, dtype=torch.float32)
            for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
                for parameter, gradient in zip(parameters, grads, strict=True):
                    parameter.grad = gradient.to(DEVICE)
                with torch.device("meta"):
                    optimizer.step(lambda value=loss: value)
    finally:
        torch.set_default_dtype(before)
    pair.check()
    for optimizer in pair.optimizers:
        states = optimizer.state.values()
        assert {value.dtype for state in states for value in state.values()} == {torch.float32}

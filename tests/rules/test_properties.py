"""For any parameters, gradients and options: no step fails, and a resumed run equals a whole one.

Hypothesis draws the cases, always the same ones.
"""

import io
import math
import warnings

import pytest
import torch
from conftest import clones, make_rule, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learned_opt import LearnedOptimizer

RULES = {
    "adam": ("adam", {}),
    "momentum": ("momentum", {}),
    "lstm": ("lstm", {"hidden_sizes": (3, 2)}),
    "gated-lstm": ("gated-lstm", {"hidden_size": 3, "use_loss": False}),
    "gated-lstm with loss": ("gated-lstm", {"hidden_size": 3, "use_loss": True}),
    "momentum-gated-lstm": ("momentum-gated-lstm", {"hidden_size": 2}),
    "adam-lstm": ("adam-lstm", {"hidden_size": 3}),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
SHAPES = [(), (0,), (1,), (5,), (2, 3), (3, 0), (2, 1, 4), (7, 2)]
LAYOUTS = ["contiguous", "transposed", "strided"]
GRADIENTS = ["usual", "usual", "zero", "none", "expanded", "not finite", "tiny", "large"]

moderately = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@st.composite
def runs(draw):
    """Parameters in groups, options, and the kind of every gradient in every step."""
    count = draw(st.integers(1, 4))
    tensors = [
        {
            "shape": draw(st.sampled_from(SHAPES)),
            "dtype": draw(st.sampled_from(DTYPES)),
            "layout": draw(st.sampled_from(LAYOUTS)),
            "group": draw(st.integers(0, 1)),
        }
        for _ in range(count)
    ]
    steps = draw(st.integers(1, 5))
    return {
        "seed": draw(st.integers(0, 99)),
        "tensors": tensors,
        "lrs": draw(st.lists(st.sampled_from([0.0, 1e-3, 0.1, 1.0]), min_size=2, max_size=2)),
        "tensor_lr": draw(st.booleans()),
        "weight_decay": draw(st.sampled_from([0.0, 0.01])),
        "maximize": draw(st.booleans()),
        "chunk_size": draw(st.sampled_from([1, 3, 1 << 16])),
        "kinds": [[draw(st.sampled_from(GRADIENTS)) for _ in range(count)] for _ in range(steps)],
        "frozen": [[draw(st.booleans()) for _ in range(count)] for _ in range(steps)],
        "saved_after": draw(st.integers(0, steps)),
    }


def laid_out(value, layout):
    if layout == "transposed" and value.dim() > 1:
        return value.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided":
        return torch.stack([value, value], dim=-1)[..., 0]
    return value


def make_gradient(kind, parameter, random):
    if kind == "none":
        return None
    gradient = torch.randn(parameter.shape, dtype=parameter.dtype, generator=random)
    if kind == "expanded":
        return gradient.reshape(-1)[:1].sum().expand(parameter.shape)
    if kind == "not finite":
        return gradient * math.inf
    return gradient * {"zero": 0.0, "tiny": 1e-7, "large": 1e4}.get(kind, 1.0)


class Run:
    """A training run; another run of the same case can resume from its checkpoint."""

    def __init__(self, rule, case):
        self.case = case
        random = torch.Generator().manual_seed(case["seed"])
        groups = [{"params": [], "lr": lr} for lr in case["lrs"]]
        self.parameters = []
        for tensor in case["tensors"]:
            value = torch.randn(tensor["shape"], dtype=tensor["dtype"], generator=random)
            self.parameters.append(nn.Parameter(laid_out(value, tensor["layout"])))
            groups[tensor["group"]]["params"].append(self.parameters[-1])
        for group in groups:
            if case["tensor_lr"]:
                group["lr"] = torch.tensor(group["lr"])
        self.optimizer = LearnedOptimizer(
            [group for group in groups if group["params"]],
            rule=rule,
            weight_decay=case["weight_decay"],
            maximize=case["maximize"],
            chunk_size=case["chunk_size"],
        )

    def step(self, index):
        random = torch.Generator().manual_seed(1000 * self.case["seed"] + index)
        kinds, frozen = self.case["kinds"][index], self.case["frozen"][index]
        for parameter, kind, is_frozen in zip(self.parameters, kinds, frozen, strict=True):
            parameter.requires_grad_(not is_frozen)
            gradient = make_gradient(kind, parameter, random)
            parameter.grad = None if is_frozen else gradient
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the update of", RuntimeWarning)
            self.optimizer.step(lambda: 0.5)

    def checkpoint(self):
        buffer = io.BytesIO()
        torch.save([clones(self.parameters), self.optimizer.state_dict()], buffer)
        buffer.seek(0)
        return buffer

    def resume(self, checkpoint):
        parameters, state = torch.load(checkpoint, weights_only=True)
        with torch.no_grad():
            for own, saved in zip(self.parameters, parameters, strict=True):
                own.copy_(saved)
        self.optimizer.load_state_dict(state)

    def everything(self):
        return [clones(self.parameters), self.optimizer.state_dict()]


@pytest.mark.parametrize("name", RULES)
@moderately
@given(case=runs())
def test_a_resumed_run_equals_the_unbroken_one_bitwise(name, case):
    rule_name, options = RULES[name]
    rule = make_rule(rule_name, spread=0.3, **options)
    unbroken = Run(rule, case)
    for index in range(case["saved_after"]):
        unbroken.step(index)
    resumed = Run(rule, {**case, "lrs": [0.25, 0.25]})  # the checkpoint holds the learning rates
    resumed.resume(unbroken.checkpoint())
    assert same(resumed.everything(), unbroken.everything())
    for index in range(case["saved_after"], len(case["kinds"])):
        unbroken.step(index)
        resumed.step(index)
    assert same(resumed.everything(), unbroken.everything())


@pytest.mark.parametrize("name", RULES)
@moderately
@given(case=runs())
def test_a_step_keeps_what_it_must_keep(name, case):
    rule_name, options = RULES[name]
    run = Run(make_rule(rule_name, spread=0.3, **options), case)
    for index, (kinds, frozen) in enumerate(zip(case["kinds"], case["frozen"], strict=True)):
        before = clones(run.parameters)
        run.step(index)
        for k, parameter in enumerate(run.parameters):
            lr = case["lrs"][case["tensors"][k]["group"]]
            if lr == 0 or frozen[k] or kinds[k] in ("none", "not finite"):
                assert same(parameter, before[k])
            assert torch.isfinite(parameter).all()
            for state in run.optimizer.state.get(parameter, {}).values():
                assert state.dtype == torch.float32
                assert torch.isfinite(state).all()

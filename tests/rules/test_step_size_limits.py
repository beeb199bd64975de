"""Limits of the step-size LSTM, written down."""

import math

import pytest
import torch
from conftest import make_rule, same

from learned_opt.rules import Context

GRADIENT = torch.tensor([1.0, -2.0, 3.0]).double()
PARAMETER = torch.tensor([0.3, 0.1, -0.2]).double()


def size_of_first_step(bias=0.0):
    """RMS of the first update where the LSTM proposes a given output for the step's size."""
    rule = make_rule("step-size-lstm", torch.float64)
    rule.head.bias.data[0] = bias
    state = rule.init_state(PARAMETER)
    context = Context(total_steps=torch.tensor(20.0))
    (delta,), _ = rule([GRADIENT], [PARAMETER], [state], context)
    return delta.square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("bias", "logarithm"), [(1.5, 3.0), (9.0, 4.0), (-2.9, -5.8), (-9.0, -6.0)]
)
def test_a_step_is_multiplied_by_at_most_e_to_the_4_and_at_least_e_to_the_minus_6(bias, logarithm):
    ratio = size_of_first_step(bias) / size_of_first_step()
    assert math.log(ratio) == pytest.approx(logarithm, abs=1e-9)


def test_what_the_network_reads_lies_within_4_of_zero():
    rule = make_rule("step-size-lstm", torch.float64, spread=0.3)
    state = rule.init_state(PARAMETER)

    def gates(total_steps):
        context = Context(total_steps=torch.tensor(total_steps).double())
        return rule.gates(GRADIENT, PARAMETER, state, context)

    # (log T - 6) / 2 is 8.5 and 10.8; the logarithm of the warm-up's first step is as far below.
    assert same(gates(1e10), gates(1e12))
    assert not same(gates(1e3), gates(1e10))

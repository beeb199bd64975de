"""What step-size-lstm and general say of how they bend a step."""

import math

import pytest
import torch

from learned_opt import create_rule
from learned_opt.rules import Context
from learned_opt.rules.steered_rule import SteeredRule

NAMES = ["step-size-lstm", "general"]
CONTEXT = Context(loss=torch.tensor(2.0), total_steps=torch.tensor(100.0))


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((4, 3), (5,))]


def after_steps(rule, count):
    """Gradients, parameters and states before step `count + 1`."""
    parameters = tensors()
    states = [rule.init_state(parameter) for parameter in parameters]
    for step in range(count):
        _, states = rule(tensors(step + 1), parameters, states, CONTEXT)
    return tensors(count + 1), parameters, states


def trained(name, **settings):
    """A rule whose network does something."""
    torch.manual_seed(3)
    rule = create_rule(name, **settings)
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return rule.requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_network_leaves_the_base_alone(name):
    rule = create_rule(name).requires_grad_(False)
    assert isinstance(rule, SteeredRule)
    step = rule.steered_step(*after_steps(rule, 4), CONTEXT)
    assert step.multiplier == pytest.approx([1.0, 1.0], abs=1e-6)
    if name == "step-size-lstm":
        parts = {part: size.tolist() for part, size in step.mix.items()}
        assert parts.pop("adam") == pytest.approx([1.0, 1.0], abs=1e-5)
        assert all(sizes == [0.0, 0.0] for sizes in parts.values()) and len(parts) == 4
        # Step 5 of 100: warm-up over 3 steps, then 0.01 + 0.99 (1 + cos(0.04 pi)) / 2.
        cosine = 0.01 + 0.99 * (1 + math.cos(0.04 * math.pi)) / 2
        assert step.schedule == pytest.approx([cosine, cosine], rel=1e-5)
    else:
        # Warm-up over 3 steps, then 1 - 4 / 100 over the fourth root of 1 + 5 / 50.
        assert step.schedule == pytest.approx([0.937396, 0.937396], rel=1e-5)
        assert step.mix == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_the_one_that_the_rule_takes(name):
    rule = trained(name)
    arguments = after_steps(rule, 4)
    deltas, _ = rule(*arguments, CONTEXT)
    step = rule.steered_step(*arguments, CONTEXT)
    assert all(torch.equal(a, b) for a, b in zip(deltas, step.deltas, strict=True))
    assert not torch.allclose(step.multiplier, torch.ones(2), atol=0.05)


def test_the_size_of_a_step_is_schedule_times_multiplier():
    """The direction of step-size-lstm has a root mean square of 1, unless Adam's fades."""
    rule = trained("step-size-lstm")
    step = rule.steered_step(*after_steps(rule, 4), CONTEXT)
    sizes = [float(delta.square().mean().sqrt()) for delta in step.deltas]
    assert (step.schedule * step.multiplier).tolist() == pytest.approx(sizes, rel=1e-5)


def test_the_multiplier_of_general_is_the_factor_on_the_steps_of_its_base():
    rule = trained("general", hidden_size=3)
    arguments = after_steps(rule, 4)
    step = rule.steered_step(*arguments, CONTEXT)
    base, _ = rule.base(*arguments, CONTEXT)
    for delta, own, factor in zip(step.deltas, base, step.multiplier, strict=True):
        assert torch.allclose(delta, factor * own, rtol=1e-5)
    assert {gate: values.shape for gate, values in step.gates.items()} == dict.fromkeys(
        ("lstm_input", "lstm_forget", "lstm_output"), (2, 3)
    )


def test_a_rule_in_bfloat16_computes_widely():
    rule = create_rule("step-size-lstm").to(torch.bfloat16).requires_grad_(False)
    step = rule.steered_step(*after_steps(rule, 2), CONTEXT)
    assert step.multiplier.dtype == torch.float32
    assert step.multiplier == pytest.approx([1.0, 1.0], abs=1e-6)


def test_a_missing_number_of_steps_is_named():
    rule = create_rule("step-size-lstm").requires_grad_(False)
    with pytest.raises(ValueError, match="total_steps"):
        rule.steered_step(*after_steps(rule, 1), Context())

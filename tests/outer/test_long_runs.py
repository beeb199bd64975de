"""Ten thousand steps, a hundred times more than rules are trained for: nothing may run away."""

import math

import pytest
import torch
from conftest import make_rule
from torch import nn

from learned_opt import LearnedOptimizer, list_pretrained
from learned_opt.weights import find_rule

STEPS = 10_000
CONDITIONS = {"well-conditioned": 2.0, "ill-conditioned": 1e4}

pytestmark = pytest.mark.slow


def losses_of_a_long_run(rule):
    """Losses before every step, `[STEPS + 1, quadratics]`, and how far each parameter went."""
    random = torch.Generator().manual_seed(0)
    matrices, starts = [], []
    for condition in CONDITIONS.values():
        rotation, _ = torch.linalg.qr(torch.randn(10, 10, generator=random))
        eigenvalues = torch.logspace(0, -math.log10(condition), 10)
        matrices.append(rotation @ torch.diag(eigenvalues) @ rotation.T)
        starts.append(torch.randn(10, generator=random))
    parameters = [nn.Parameter(start.clone()) for start in starts]
    optimizer = LearnedOptimizer(parameters, rule=rule, total_steps=STEPS + 1)
    history = []
    for _ in range(STEPS + 1):
        for parameter, matrix in zip(parameters, matrices, strict=True):
            parameter.grad = matrix @ parameter.detach()
        losses = torch.stack([0.5 * p.detach() @ p.grad for p in parameters])
        history.append(losses)
        optimizer.step(losses.sum)
    assert optimizer.skipped_updates == 0
    moved = [(p.detach() - start).abs().max() for p, start in zip(parameters, starts, strict=True)]
    return torch.stack(history), torch.stack(moved)


@pytest.mark.parametrize("name", [*list_pretrained(), "orthogonal-momentum"])
def test_a_bundled_rule_never_exceeds_ten_times_the_first_loss(name):
    losses, _ = losses_of_a_long_run(find_rule(name))
    assert (losses <= 10 * losses[0]).all()


@pytest.mark.parametrize("rule_name", ["gated-lstm", "momentum-gated-lstm", "adam-lstm"])
def test_an_untrained_rule_that_starts_as_descent_never_exceeds_the_first_loss(rule_name):
    losses, _ = losses_of_a_long_run(make_rule(rule_name).requires_grad_(False))
    assert (losses <= 1.01 * losses[0]).all()
    assert (losses[-1] < losses[0]).all()


def test_the_untrained_lstm_drifts_no_faster_than_its_output_allows():
    """Its updates are random but bounded, since |h| < 1: the way grows at most with the steps."""
    rule = make_rule("lstm").requires_grad_(False)
    losses, moved = losses_of_a_long_run(rule)
    longest = rule.output_scale * (rule.head.weight.abs().sum() + rule.head.bias.abs().sum())
    assert torch.isfinite(losses).all()
    assert (moved <= STEPS * longest).all()

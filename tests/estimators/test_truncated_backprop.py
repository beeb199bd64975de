"""Truncated backpropagation: the full trajectory, and a gradient with the bias that theory says."""

import pytest
import torch
from conftest import same
from estimator_cases import (
    F64,
    TRAINABLE,
    Fixed,
    LearnedRate,
    Quadratics,
    close,
    estimate,
    make_meta_parameters,
    make_runs,
    meta_objective,
    vector,
)


@pytest.mark.parametrize(
    "initialization", [None, vector(1.0, -1.0, 0.3)], ids=["random", "learned"]
)
@pytest.mark.parametrize("rule", TRAINABLE)
def test_a_window_of_the_whole_run_is_full_backprop(rule, initialization):
    meta_parameters = make_meta_parameters(rule, initialization)
    task = Quadratics(dimensions=3)
    full = estimate(
        "full", meta_parameters, make_runs(meta_parameters, task, 6), how=meta_objective("log")
    )
    whole = make_runs(meta_parameters, task, 6, truncation_length=6)
    whole.clocks.lengths = [6] * 3  # they are spread, so that runs do not end all at once
    truncated = estimate("truncated", meta_parameters, whole, how=meta_objective("log"))
    close(truncated.gradients, full.gradients)
    close(truncated.meta_loss, full.meta_loss)


@pytest.mark.parametrize("rule", TRAINABLE)
def test_windows_that_carry_state_follow_the_full_trajectory(rule):
    meta_parameters = make_meta_parameters(rule)
    task = Quadratics(dimensions=3)
    full = make_runs(meta_parameters, task, 7)
    estimate("full", meta_parameters, full)
    windows = make_runs(meta_parameters, task, 7, truncation_length=2)
    windows.clocks.lengths = [7] * 3
    total = windows._planned_steps()
    windows._planned_steps = lambda: total - 1  # planned steps are rounded up to whole windows
    for outer_step in range(3):
        estimate("truncated", meta_parameters, windows, outer_step=outer_step)
    one_more = make_runs(meta_parameters, task, 7, truncation_length=1)
    one_more.clocks.lengths, one_more.inner = [8] * 3, windows.inner
    one_more._planned_steps = lambda: total - 1
    estimate("truncated", meta_parameters, one_more, outer_step=3)
    assert same(one_more.inner.parameters, full.inner.parameters)
    assert same(one_more.inner.states, full.inner.states)


def test_its_bias_is_what_earlier_windows_would_have_contributed():
    # loss = a theta^2 / 2 and theta_t = (1 - rate a)^t theta_0, so that by the rate
    #   d loss_t = -a^2 t (1 - rate a)^(2t - 1) theta_0^2.
    # Truncated at s, the last multiple of the window before t, only t - s of the t factors count.
    a, rate, start, truncation_length, length = 3.0, 0.1, 2.0, 3, 9
    task = Fixed(vector(start), lambda theta, _: a * theta.square().sum() / 2, vector(0))

    def terms(factors):
        q = 1 - rate * a
        return [-(a**2) * factors(t) * q ** (2 * t - 1) * start**2 for t in range(1, length + 1)]

    true = sum(terms(lambda t: t)) / length
    bias = -sum(terms(lambda t: (t - 1) // truncation_length * truncation_length)) / length

    meta_parameters = make_meta_parameters(LearnedRate(rate))
    (full,) = estimate(
        "full", meta_parameters, make_runs(meta_parameters, task, length), lr=1.0
    ).gradients
    assert float(full) == pytest.approx(true, rel=1e-12)
    runs = make_runs(meta_parameters, task, length, truncation_length=truncation_length)
    runs.clocks.lengths = [length] * 3
    parts = [
        estimate("truncated", meta_parameters, runs, outer_step=k, lr=1.0).gradients[0]
        for k in range(3)
    ]
    assert float(sum(parts) / 3) == pytest.approx(true + bias, rel=1e-12)
    assert abs(bias) > 0.1 * abs(true)


def test_a_learned_initialisation_gets_a_gradient_from_runs_that_begin_now():
    meta_parameters = make_meta_parameters("sgd", vector(1.0, -1.0, 0.3))
    runs = make_runs(meta_parameters, Quadratics(dimensions=3), 8, truncation_length=2, runs=4)
    assert runs.clocks.lengths == [2, 4, 6, 8]
    first = estimate("truncated", meta_parameters, runs)
    assert first.gradients[0].abs().min() > 0
    # Only the first run ends here, so that it alone begins in the next window.
    expected = make_runs(
        meta_parameters, Quadratics(dimensions=3), 8, truncation_length=2, runs=4, indices=[0]
    )
    estimate("truncated", meta_parameters, expected)
    begins = estimate("truncated", meta_parameters, expected, outer_step=1)
    second = estimate("truncated", meta_parameters, runs, outer_step=1)
    close(second.gradients[0], begins.gradients[0] / 4)
    assert begins.gradients[0].abs().min() > 0


def test_runs_without_a_window_are_refused():
    meta_parameters = make_meta_parameters("lstm")
    for name in ("truncated", "pes"):
        with pytest.raises(ValueError, match="truncation_length"):
            estimate(name, meta_parameters, make_runs(meta_parameters, Quadratics(dimensions=3)))


def test_restarted_runs_are_not_linked_to_the_initialisation():
    meta_parameters = make_meta_parameters("sgd", vector(1.0, -1.0, 0.3))
    runs = make_runs(meta_parameters, Quadratics(dimensions=3), 2, truncation_length=2, restart=1.0)
    estimate("truncated", meta_parameters, runs)
    assert runs.clocks.offsets == [2, 2, 2]
    again = estimate("truncated", meta_parameters, runs, outer_step=1)
    assert torch.equal(again.gradients[0], torch.zeros(3, dtype=F64))

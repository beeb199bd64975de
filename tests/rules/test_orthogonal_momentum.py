import math

import numpy as np
import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.rules import Context
from learned_opt.rules.parts.orthogonalize import direction_scale, is_matrix_shape, orthogonalize
from learned_opt.rules.parts.whole_tensors import rms

F64 = torch.float64


def polynomial(values, iterations=4):
    """The iterations on the singular values alone."""
    values = values / (values**8).sum() ** (1 / 8)
    for a, b, c in [
        (8.3007, -24.0375, 17.4661),
        (4.0059, -2.9253, 0.5424),
        (3.4840, -2.5614, 0.5024),
        (2.5153, -1.8615, 0.4425),
        (1.875, -1.25, 0.375),
    ][:iterations]:
        values = a * values + b * values**3 + c * values**5
    return values


def random(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 4), (3, 6), (20, 3)])
@pytest.mark.parametrize("iterations", [1, 4, 5])
def test_orthogonalising_maps_singular_values_and_keeps_singular_vectors(shape, iterations):
    matrix = random(*shape)
    u, s, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    expected = u @ np.diag(polynomial(s, iterations)) @ vt
    found = orthogonalize(matrix, iterations)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(64, 64), (32, 256), (5, 4)])
@pytest.mark.parametrize("decay", [0.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_singular_values_come_near_one(shape, decay, dtype):
    u, _, vt = np.linalg.svd(random(*shape).numpy(), full_matrices=False)
    s = np.exp(-decay * np.linspace(0, 1, min(shape)))  # down to 0.018 of the largest
    matrix = torch.tensor(u * s @ vt).to(dtype)
    found = np.linalg.svd(orthogonalize(matrix, 4).double().numpy(), compute_uv=False)
    assert 0.78 < found.min() and found.max() < 1.22


@pytest.mark.parametrize("shape", [(8, 9), (8, 40)])
def test_many_iterations_end_at_the_orthogonal_matrix(shape):
    matrix = random(*shape).float()
    u, _, vt = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    np.testing.assert_allclose(orthogonalize(matrix, 60).numpy(), u @ vt, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e15, 1e30])
def test_orthogonalising_has_no_scale(scale):
    matrix = random(6, 9).float()
    expected = orthogonalize(matrix, 4)
    torch.testing.assert_close(orthogonalize(scale * matrix, 4), expected, rtol=1e-4, atol=1e-4)


def test_zero_stays_zero_and_so_do_the_derivatives():
    matrix = torch.zeros(3, 4, requires_grad=True)
    result = orthogonalize(matrix, 4)
    assert torch.equal(result, torch.zeros(3, 4))
    result.sum().backward()
    assert matrix.grad.isfinite().all()


def test_dead_rows_and_columns_stay_still():
    gradient = random(4, 6).float()
    gradient[1], gradient[:, 2] = 0, 0
    moved = orthogonalize(gradient, 4)
    assert not moved[1].any() and not moved[:, 2].any()
    assert moved[0, 0] != 0


def numpy_rms(values):
    return np.sqrt((values**2).mean())


def reference(gradients, start, *, schedule, vector=False):
    """A dozen lines of numpy written from the equations; deltas by step, and the average."""
    p, m, v, average, size, pace = start.copy(), 0.0, 0.0, start.copy(), 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        if t > 1 and g.any():
            cosine = (g * m).sum() / np.sqrt((g**2).sum() * (m**2).sum())
            change = 0.9 * max(cosine - 0.2, 0) + 0.6 * min(cosine, 0)
            distance = numpy_rms(p - average) / max(numpy_rms(p), 0.01)
            largest = 0.0 if vector else min(max((0.2 - distance) / 0.05, 0.0), 1.0)
            pace = min(max(pace + change / (t + 10), -3.0), largest)
        if vector:
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            ahead, root = m, np.sqrt(v / (1 - 0.99**t))
            u = m / (1 - 0.9**t) / np.where(root == 0, 1, root)
            u = u / max(numpy_rms(u), 0.03)
        else:
            m = 0.8 * m + 0.2 * g
            ahead = 0.8 * m + 0.2 * g
            left, s, right = np.linalg.svd(ahead, full_matrices=False)
            s = polynomial(s)
            u = left @ np.diag(s) @ right * np.sqrt(max(g.shape))
        size = 0.99 * size + 0.01 * numpy_rms(g)
        u = u * min(1, numpy_rms(ahead) / (0.1 * size / (1 - 0.99**t)))
        step = 6.8e-3 * schedule(t) * np.exp(pace)
        p = p - step * np.sqrt(max(numpy_rms(p), 0.01) / 0.1) * u
        average = average + 9 / (t + 8) * (p - average)
    return p, average


def planned(t, total=20):
    return min(1, t / max(0.03 * total, 1)) * max(1 - (t - 1) / total, 0.01) / (1 + t / 50) ** 0.25


@pytest.mark.parametrize("total", [None, 20], ids=["open", "planned"])
@pytest.mark.parametrize("last", [20, 3], ids=["to the end", "gradients stop"])
@pytest.mark.parametrize(
    "shape", [(3, 5), (7,), (1, 4), (2000,)], ids=["matrix", "vector", "row", "sparse"]
)
def test_it_is_its_equations(shape, last, total):
    """Steps fade where the momentum is below a tenth of the usual gradient."""
    gradients = [random(*shape, seed=k) * (k < last) for k in range(20)]
    if shape == (2000,):  # gradients in one coordinate: its direction is divided by 0.03
        gradients = [gradient * (torch.arange(2000) == 7) for gradient in gradients]
    start = 0.3 * random(*shape, seed=99)
    schedule = planned if total else lambda t: min(1, t / 20) / math.sqrt(1 + t / 50)
    vector = len(shape) == 1 or 1 in shape
    expected, average = reference(
        [g.numpy() for g in gradients], start.numpy(), schedule=schedule, vector=vector
    )
    parameter = torch.nn.Parameter(start.clone())
    rule = create_rule("orthogonal-momentum").double()
    optimizer = LearnedOptimizer([parameter], rule=rule, total_steps=total)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor(expected), rtol=1e-9, atol=1e-12)
    state = optimizer.state[parameter]
    found, _ = rule.evaluation_point(parameter.detach(), state)
    torch.testing.assert_close(found, torch.tensor(average), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64), 8.0),
        ((10, 96), 9.797959),  # sqrt(96)
        ((97, 16), 9.814896),  # sqrt(97) * (96 / 97)^(1/3)
        ((256, 2048), 16.317191),  # sqrt(2048) * (96 / 2048)^(1/3)
        ((3072, 768), 17.457978),  # sqrt(3072) * (96 / 3072)^(1/3)
        ((32, 16, 3, 3), 12.0),  # sqrt(16 * 9)
        ((12, 3, 5), 3.872983),  # sqrt(15)
        ((64, 3, 7, 7), 12.124356),  # sqrt(147): its width is 64
        ((256, 128, 3, 3), 24.475787),  # sqrt(128 * 9) * (96 / 256)^(1/3)
        ((8, 768, 3), 24.0),  # sqrt(768 * 3) * (96 / 768)^(1/3)
    ],
)
def test_the_scale_of_a_direction(shape, expected):
    assert direction_scale(shape) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_the_step_of_a_wide_matrix_and_of_a_kernel(fused):
    """Of one step, whose direction has singular values near 1: its norm says the scale."""
    norms = {}
    for shape in ((40, 90), (300, 300), (40, 10, 3, 3)):
        parameter = nn.Parameter(0.1 * random(*shape).sign().float())  # RMS .1: no factor
        optimizer = LearnedOptimizer([parameter], rule="orthogonal-momentum", lr=1.0, fused=fused)
        optimizer.train()
        before = parameter.detach().clone()
        parameter.grad = random(*shape, seed=1).float()
        optimizer.step()
        norms[shape] = (parameter.detach() - before).norm().item() / 0.05  # schedule(1) = 1 / 20
    # sqrt(short side) * scale / sqrt(1 + 1 / 50), and an even spread of values around 1.
    assert norms[40, 90] == pytest.approx(math.sqrt(40 * 90 / 1.02), rel=0.02)
    assert norms[300, 300] == pytest.approx(300 * (96 / 300) ** (1 / 3) / 1.02**0.5, rel=0.02)
    assert norms[40, 10, 3, 3] == pytest.approx(math.sqrt(40 * 90 / 1.02), rel=0.02)


def test_a_kernel_is_stepped_as_the_matrix_of_its_output_channels():
    rule, gradient = create_rule("orthogonal-momentum"), random(4, 3, 2, 2).float()
    parameter = random(4, 3, 2, 2, seed=1).float()
    (delta,), _ = rule([gradient], [parameter], [rule.init_state(parameter)])
    flat = parameter.reshape(4, 12)
    (expected,), _ = rule([gradient.reshape(4, 12)], [flat], [rule.init_state(flat)])
    assert torch.equal(delta.reshape(4, 12), expected)


def test_tensors_of_one_shape_step_together_as_each_would_alone():
    rule = create_rule("orthogonal-momentum").double()
    parameters = [random(4, 6, seed=k) for k in range(3)] + [random(6, 4, seed=7), random(5)]
    gradients = [random(*p.shape, seed=10 + k) for k, p in enumerate(parameters)]
    states = [rule.init_state(p) for p in parameters]
    together, _ = rule(gradients, parameters, states)
    for one, gradient, parameter, state in zip(
        together, gradients, parameters, states, strict=True
    ):
        (alone,), _ = rule([gradient], [parameter], [state])
        torch.testing.assert_close(one, alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(4, 6), (8,)])
def test_without_a_gradient_the_update_dies_with_the_momentum(shape):
    rule = create_rule("orthogonal-momentum")
    parameter = torch.nn.Parameter(random(*shape).float())
    optimizer = LearnedOptimizer([parameter], rule=rule)
    for k in range(100):
        parameter.grad = random(*shape, seed=k).float()
        optimizer.step()
    parameter.grad = torch.zeros(shape)
    before = parameter.detach().clone()
    for _ in range(60):
        optimizer.step()
    last = parameter.detach().clone()
    for _ in range(2000):
        optimizer.step()
    assert (last - before).abs().max() > 1e-3  # the momentum runs out
    assert (parameter.detach() - last).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((3, 4), True),
        ((3,), False),
        ((), False),
        ((0, 4), False),
        ((2, 3, 4), True),
        ((1, 3), False),
        ((3, 1), False),
        ((3, 1, 1), False),
        ((1, 3, 5, 5), False),
        ((2, 2), True),
        ((1024, 2), True),
        ((1025, 2), False),
        ((1025, 32), False),
        ((1025, 33), True),
        ((2, 8192), True),
        ((2, 8193), False),
        ((8192, 1024), True),
        ((8193, 1024), False),
        ((8193, 1025), True),
        ((8200, 1024), False),
        ((1024, 8193), False),
        ((9000, 1200), True),
        ((50_000, 768), False),
    ],
)
def test_what_is_a_matrix(shape, matrix):
    assert is_matrix_shape(shape) == matrix


def test_steps_are_relative_to_the_root_of_the_weights_size():
    moved = []
    for scale in (0.4, 0.1, 0.01, 1e-4, 0.0):
        rule, parameter = (
            create_rule("orthogonal-momentum").double(),
            scale * torch.ones(3, 5).double(),
        )
        (delta,), _ = rule([random(3, 5)], [parameter], [rule.init_state(parameter)])
        moved.append(float(rms(delta)))
    ratios = [one / moved[1] for one in moved]
    assert ratios == pytest.approx([2.0, 1.0, 0.1**0.5, 0.1**0.5, 0.1**0.5])


def test_the_average_begins_at_the_first_parameters_after_a_step():
    rule, parameter = create_rule("orthogonal-momentum").double(), random(2, 3)
    state = rule.init_state(parameter)
    assert torch.equal(rule.evaluation_point(parameter, state)[0], parameter)
    _, (state,) = rule([random(2, 3, seed=1)], [parameter], [state])
    moved = parameter + 1
    average, state = rule.evaluation_point(moved, state)
    assert torch.equal(average, moved)  # c = 9 / 9
    again, _ = rule.evaluation_point(moved + 5, state)
    assert torch.equal(again, average)  # that step is in already


@pytest.mark.parametrize("gradient", [1.0, 2e19, 1e20])
def test_a_vector_moves_by_gradients_whose_squares_just_fit(gradient):
    rule, parameter = create_rule("orthogonal-momentum"), torch.full((3,), 0.1)
    (delta,), _ = rule([torch.full((3,), gradient)], [parameter], [rule.init_state(parameter)])
    # The first of 20 steps of warm-up, at the usual size of weights.
    torch.testing.assert_close(delta, torch.full((3,), -0.05 / (51 / 50) ** 0.5))


def test_rms_of_numbers_whose_squares_overflow():
    assert float(rms(torch.full((4,), 1e25))) == pytest.approx(1e25)
    assert float(rms(torch.full((4,), 1e-25))) == pytest.approx(1e-25)
    assert float(rms(torch.empty(0))) == 0


@pytest.mark.parametrize(
    "settings", [{"momentum": 1.0}, {"iterations": 0}, {"warm_up": 0.0}, {"decay_after": math.nan}]
)
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        create_rule("orthogonal-momentum", **settings)


@pytest.mark.parametrize("total", [None, 20], ids=["open", "planned"])
def test_weight_decay_follows_the_schedule(total):
    parameters = [torch.nn.Parameter(random(3, 5)), torch.nn.Parameter(random(4))]
    rule = create_rule("orthogonal-momentum").double()
    optimizer = LearnedOptimizer(parameters, rule=rule, weight_decay=0.5, total_steps=total)
    expected = [parameter.detach().clone() for parameter in parameters]
    for t in range(1, 15):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        schedule = planned(t) if total else min(1, t / 20) / math.sqrt(1 + t / 50)
        expected = [(1 - 6.8e-3 * 0.5 * schedule) * one for one in expected]
        torch.testing.assert_close([p.detach() for p in parameters], expected)


def test_past_the_planned_steps_it_steps_on_at_a_hundredth():
    rule = create_rule("orthogonal-momentum").double()
    factors = [
        float(rule.schedule(torch.tensor(float(t), dtype=F64), torch.tensor(100.0, dtype=F64)))
        for t in (1, 3, 51, 100, 101, 500)
    ]
    # 1 / 3, 0.98, 0.5, 0.01, 0.01, 0.01 over the fourth root of 1 + t / 50
    assert factors == pytest.approx(
        [0.33168719, 0.96582759, 0.41940361, 0.00759836, 0.00758575, 0.00549101]
    )
    assert Context().total_steps is None

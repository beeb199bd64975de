"""Hand-designed rules come out as their equations say."""

import math

import pytest
import torch

from learned_opt import UpdateRule, create_rule
from learned_opt.explanation.measurements.dynamics import measure_modes
from learned_opt.explanation.measurements.gradient_scale import measure_scale_response
from learned_opt.explanation.measurements.memory import fit_momentum, measure_echo
from learned_opt.explanation.measurements.schedule import measure_schedule
from learned_opt.explanation.measurements.symmetry import measure_symmetry
from learned_opt.explanation.measurements.update_curve import GradientDensity, measure_update_curve
from learned_opt.explanation.words import percent
from learned_opt.rules import CoordinateRule

NORMAL = GradientDensity.of([torch.randn(100_001, generator=torch.Generator().manual_seed(0))])


class SignDescent(UpdateRule):
    """A rule of whole tensors, as a user may write it."""

    default_lr = 0.5

    def init_tensor_state(self, parameter):
        return {}

    def update(self, gradients, parameters, states, context):
        return [-gradient.sign() for gradient in gradients], list(states)


class OverTime(CoordinateRule):
    """Gradient descent divided by the number of the step."""

    def coordinate_state(self):
        return {}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        return -gradient / state["step"], {}


class Spiral(CoordinateRule):
    """A state of two numbers that a step shrinks to 0.9 and turns by 0.3 radians."""

    def coordinate_state(self):
        return {"z": (2,)}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        x, y = state["z"].unbind(-1)
        c, s = 0.9 * math.cos(0.3), 0.9 * math.sin(0.3)
        z = torch.stack([c * x - s * y + gradient, s * x + c * y], dim=-1)
        return -z[:, 0], {"z": z}


def test_a_density_knows_the_typical_gradient():
    assert NORMAL.typical == pytest.approx(1, abs=0.01)
    assert NORMAL.sizes[0] < 2e-3 < 3.2 < NORMAL.sizes[-1]
    assert GradientDensity.of([torch.tensor([0.0, -2.0]), torch.tensor(0.0)]).sizes[0] == 2.0
    with pytest.raises(ValueError, match="no gradient other than zero"):
        GradientDensity.of([torch.zeros(3)])


# Over normal gradients, the cosine of g and sign g is E|g| / sqrt(E g^2) = sqrt(2 / pi).


def test_sgd_is_proportional_to_the_gradient_and_clips_nothing():
    found = measure_update_curve(create_rule("sgd"), NORMAL)
    assert found.clipping is None and found.clipped == 0
    assert found.like_gradient == pytest.approx(1, abs=1e-6)
    assert found.like_sign == pytest.approx(0.7979, abs=0.005)
    assert found.updates[0] == pytest.approx(1e-2 * found.gradients[0])
    assert found.sentence() == (
        "The first update is proportional to the gradient; no gradient met is clipped."
    )


def test_the_first_update_of_adam_is_the_sign():
    found = measure_update_curve(create_rule("adam"), NORMAL)
    assert found.clipping == pytest.approx(1e-8, rel=0.01) and found.clipped == 1
    assert found.like_sign == pytest.approx(1, abs=1e-6)
    assert found.like_gradient == pytest.approx(0.7979, abs=0.005)
    assert found.sentence() == (
        "The first update has the gradient's sign, and one size for all gradients."
    )


@pytest.mark.parametrize(
    ("rule", "clipping"),
    [
        # |u| = g / (g + eps): its log slope is eps / (g + eps).
        (create_rule("adam", eps=1e-3), 1e-3),
        # |u| = g / (sqrt(1 - alpha) g + eps), 0.1 g with alpha = 0.99.
        (create_rule("rmsprop", alpha=0.99, eps=1e-3), 1e-2),
    ],
)
def test_the_clipping_point_follows_epsilon(rule, clipping):
    found = measure_update_curve(rule, NORMAL)
    assert found.clipping == pytest.approx(clipping, rel=0.02)
    share = 1 - math.erf(clipping / math.sqrt(2))
    assert found.clipped == pytest.approx(share, abs=0.005)


def test_a_rule_of_whole_tensors_is_probed_at_one_coordinate():
    found = measure_update_curve(SignDescent(), NORMAL)
    assert found.updates == (0.5,) * len(found.updates) and found.negative == found.updates
    assert found.like_sign == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "momentum", "following"),
    [
        # Under a constant gradient g / (1 - beta), under noise g / sqrt(1 - beta^2).
        (create_rule("sgd"), 0.0, 1.0),
        (create_rule("momentum"), 0.9, 4.359),
        (create_rule("momentum", momentum=0.5), 0.5, 1.732),
        (create_rule("adam"), 0.9, 4.359),
        (create_rule("adam", betas=(0.5, 0.999)), 0.5, 1.732),
        (create_rule("rmsprop"), 0.0, 1.0),
        (SignDescent(), 0.0, 1.0),
    ],
)
def test_the_echo_of_a_gradient_is_the_rules_momentum(rule, momentum, following):
    found = measure_echo(rule, 0.01)
    assert found.momentum == pytest.approx(momentum, abs=0.005)
    assert found.fit > 0.99
    assert found.following == pytest.approx(following, rel=0.03)
    if not isinstance(rule, SignDescent):
        assert found.impulse[0] == pytest.approx(math.sqrt(1 - momentum**2), rel=0.03)


def test_what_is_no_momentum_fits_none():
    flat = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert fit_momentum(flat)[1] < 0.5
    assert fit_momentum(torch.zeros(5, dtype=torch.float64)) == (0.0, 0.0)
    beta, fit = fit_momentum(-3 * 0.73 ** torch.arange(60, dtype=torch.float64))
    assert beta == pytest.approx(0.73, abs=1e-4) and fit == pytest.approx(1)


class Rebound(CoordinateRule):
    """Takes back 30% of each gradient in the next step, adds `late` of it in the one after that.

    It drifts by 0.01.
    """

    def __init__(self, late=0.0):
        super().__init__(late=late)
        self.late = late

    def coordinate_state(self):
        return {"last": (), "second": ()}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        delta = 0.3 * state["last"] - gradient - self.late * state["second"] + 0.01
        return delta, {"last": gradient, "second": state["last"]}


def test_an_update_that_is_taken_back_is_no_momentum():
    echo = measure_echo(Rebound(), 1.0)
    assert echo.impulse[1] / echo.impulse[0] == pytest.approx(-0.3, abs=0.01)
    start = "A gradient moves a weight at once; the next update takes back 30% of that"
    assert echo.sentence().startswith(f"{start}. A steady gradient")
    late = measure_echo(Rebound(late=0.5), 1.0).sentence()
    assert late.startswith(f"{start}, later ones add 0.5 times as much. A steady gradient")


def test_updates_that_go_on_without_gradients_are_not_said_to_stop():
    ends = {
        rule: measure_schedule(rule, 1.0).sentence().split(". ")[1]
        for rule in (create_rule("sgd"), Rebound())
    }
    assert list(ends.values()) == [
        "They stop with the gradients.",
        "When gradients stop, they halve at once.",
    ]


@pytest.mark.parametrize(
    # 0.9^7 and 0.8^4 are the first powers below a half.
    ("rule", "halving"),
    [("sgd", 1), ("momentum", 7), ("adam", 7)],
)
def test_the_schedule_of_a_rule_that_has_none(rule, halving):
    found = measure_schedule(create_rule(rule), 0.01)
    assert found.halving == halving
    assert found.idle == 0 and not found.told
    # Adam's first update is 1, later ones sqrt((1 - 0.9) / (1 + 0.9)) = 0.229 under noise.
    last = sum(found.noise[-50:]) / 50 / found.noise[0]
    expected = {"sgd": 1.0, "momentum": 2.294, "adam": 0.229}[rule]
    assert last == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("rule", "text"), [
    ("adam", "updates are largest at step 1 and shrink to 22% of that by step 300."),
    ("sgd", "updates do not shrink."),
    ("momentum", "updates do not shrink."),
])  # fmt: skip
def test_the_text_of_the_schedule_gives_the_end_of_the_curve_that_is_drawn(rule, text):
    found = measure_schedule(create_rule(rule), 0.01)
    # The picture shows each update over the largest. For Adam that ends at 0.229, with scatter.
    assert found.end == found.noise[-1] / max(found.noise)
    assert found.noise[found.peak - 1] == max(found.noise)
    assert f"Under steady noise, {text}" in found.sentence()


def test_a_schedule_is_found():
    found = measure_schedule(OverTime(), 1.0)
    assert [size * step for step, size in enumerate(found.noise, 1)] == pytest.approx(
        [1.0] * 300, rel=0.1
    )
    assert found.peak == 1


def test_a_planned_number_of_steps_is_told():
    found = measure_schedule(create_rule("step-size-lstm"), 0.01)
    assert [len(found.told[steps]) for steps in (30, 100, 300)] == [30, 100, 300]
    # Untrained: 0.01 + 0.99 (1 + cos(pi (t - 1) / T)) / 2, at t = T over its largest.
    ends = [found.told[steps][-1] / max(found.told[steps]) for steps in (30, 100, 300)]
    assert ends == pytest.approx([0.01275, 0.01025, 0.01004], rel=0.01)
    assert found.plan_sentence() == (
        "Told that it has 30, 100 or 300 steps, it ends with an update of 1.0% to 1.3% of its "
        "largest."
    )


@pytest.mark.parametrize(
    ("rule", "slope"), [("sgd", 1), ("momentum", 1), ("adam", 0), ("rmsprop", 0)]
)
def test_update_size_against_gradient_scale(rule, slope):
    found = measure_scale_response(create_rule(rule), 0.1)
    assert found.slope == pytest.approx(slope, abs=1e-3)
    assert found.high == pytest.approx(1e3)
    if slope:
        assert found.low == pytest.approx(1e-7) and found.growth == pytest.approx(1e10, rel=1e-3)
        assert found.sentence() == (
            "Ten times larger gradients make updates 10 times as large, over all ten decades."
        )


def test_adam_breaks_where_gradients_near_epsilon():
    found = measure_scale_response(create_rule("adam", eps=1e-4), 0.1)
    # The log slope is eps / (g + eps): 0.1 at 9 eps.
    assert 3e-4 < found.low < 3e-3
    assert found.sentence() == "The scale of gradients does not matter, above 0.001."


class LogBend(CoordinateRule):
    """Its log slope, 0.5 at the typical gradient of 1, changes by 1 in a decade."""

    default_lr = 1.0

    def coordinate_state(self):
        return {}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        decade = gradient.abs().clamp(min=1e-30).log10()
        return -gradient.sign() * 10 ** (0.5 * decade + 0.5 * decade**2), {}


def test_a_slope_that_holds_nowhere_else_is_said_to_hold_near_the_typical_gradient():
    found = measure_scale_response(LogBend(), 1.0)
    assert 0.5 < found.low <= found.high < 2
    assert found.sentence().startswith("Ten times larger gradients make updates ")
    assert found.sentence().endswith(" times as large, near the typical gradient only.")


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (create_rule("sgd"), []),
        (create_rule("momentum", momentum=0.8), [0.8]),
        (create_rule("adam"), [0.999, 0.9]),
        (create_rule("rmsprop"), [0.99]),
        (create_rule("orthogonal-momentum"), [0.8]),
    ],
)
def test_eigenvalues_are_the_decays(rule, values):
    found = measure_modes(rule, 0.01)
    assert [real for real, _ in found.eigenvalues] == pytest.approx(values, abs=1e-4)
    assert all(imaginary == 0 for _, imaginary in found.eigenvalues)
    assert found.residual < 1e-6
    assert (found.state_size == 0) == (not values)


def test_the_eigenvalues_of_an_lstm_without_weights_are_its_forget_gates():
    rule = create_rule("lstm", hidden_sizes=(3,), forget_bias=2.0)
    with torch.no_grad():
        rule.layers[0].weight.zero_()
        rule.head.weight.fill_(1.0)
    found = measure_modes(rule, 0.01)
    assert found.eigenvalues == ((pytest.approx(0.880797, abs=1e-5), 0),)  # sigmoid(2)


def test_a_spiral_has_a_pair_of_complex_eigenvalues():
    found = measure_modes(Spiral(), 1.0)
    expected = 0.9 * math.cos(0.3), 0.9 * math.sin(0.3)
    assert found.eigenvalues == (
        pytest.approx(expected, abs=1e-5),
        pytest.approx((expected[0], -expected[1]), abs=1e-5),
    )
    assert "a pair of them turns the state once in 21 steps" in found.sentence()  # 2 pi / 0.3
    assert found.residual < 1e-9


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        # Gradients ten times as large: |10 u - u| / (|10 u| + |u|) = 9 / 11.
        ("sgd", {"scale": 9 / 11}),
        ("momentum", {"scale": 9 / 11}),
        ("adam", {"rotation": None}),
        ("rmsprop", {"rotation": None}),
        ("orthogonal-momentum", {"coordinates": None}),
    ],
)
def test_symmetries_hold_and_break_as_the_equations_say(rule, broken):
    found = measure_symmetry(create_rule(rule), 0.1)
    assert list(found.deviations) == [
        "sign", "scale", "rows and columns", "coordinates", "rotation",
    ]  # fmt: skip
    for name, value in found.deviations.items():
        if name not in broken:
            assert value < 1e-3, name
        elif broken[name] is None:
            assert value > 0.2, name
        else:
            assert value == pytest.approx(broken[name], abs=1e-3), name
    if rule == "sgd":
        assert found.sentence() == (
            "It is symmetric under sign flips, reordered rows and columns, reordered coordinates "
            "and rotations; rescaled gradients change its updates most (deviation 0.82 of 1)."
        )


def test_a_percentage_has_two_significant_digits():
    shares = 0.02, 0.0996, 0.347, 0.00994, 0.000812
    assert [percent(share) for share in shares] == ["2.0%", "10%", "35%", "0.99%", "0.081%"]

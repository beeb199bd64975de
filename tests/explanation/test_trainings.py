"""What trainings show: paths of states, sizes and directions by layer."""

import pytest
import torch

from learned_opt import create_rule
from learned_opt.explanation.measurements.dynamics import StatePath, measure_path
from learned_opt.explanation.measurements.tensor_steps import TensorSteps, measure_tensor_steps
from learned_opt.explanation.measurements.trainings import TRAININGS, train
from learned_opt.rules import CoordinateRule


class Explosion(CoordinateRule):
    """Doubles the step with each step."""

    def coordinate_state(self):
        return {}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        return -(1e30 ** state["step"]) * gradient, {}


def test_a_training_learns_and_draws_no_global_random_number():
    before = torch.random.get_rng_state()
    for name in TRAININGS:
        losses = [step.loss for step in train(create_rule("orthogonal-momentum"), name, 40, seed=0)]
        assert len(losses) == 40 and sum(losses[-5:]) < sum(losses[:5])
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_training_is_the_same_again():
    first, again = (list(train(create_rule("sgd"), "conv", 3, seed=1)) for _ in range(2))
    assert [step.loss for step in first] == [step.loss for step in again]
    other = list(train(create_rule("sgd"), "conv", 3, seed=2))
    assert other[0].loss != first[0].loss


def test_a_step_is_what_the_rule_wrote():
    steps = list(train(create_rule("momentum", momentum=0.5), "narrow", 3, seed=0))
    first, second = steps[:2]
    for k in range(len(first.names)):
        assert torch.allclose(first.updates[k], -0.01 * first.gradients[k])
        expected = -0.01 * (0.5 * first.gradients[k] + second.gradients[k])
        assert torch.allclose(second.updates[k], expected)
        moved = first.parameters[k] + first.updates[k]
        assert torch.allclose(second.parameters[k], moved)


def test_a_training_ends_where_it_is_not_finite():
    assert 0 < len(list(train(Explosion(), "narrow", 20, seed=0))) < 20


def test_the_path_of_a_momentum_is_one_number():
    rule = create_rule("momentum")
    found = measure_path(rule, list(train(rule, "narrow", 20, seed=0)), 0.01)
    assert (found.what, found.size, found.variance) == ("coordinate", 1, (1.0,))
    assert len(found.paths) == 24 and {len(path) for path in found.paths} == {20}
    assert all(y == 0 for path in found.paths for _, y in path)
    # Constant gradients hold it at 10 g: fixed points in the order of the gradients.
    places = [x for x, _ in found.fixed]
    assert places in (sorted(places), sorted(places, reverse=True))


def test_gradient_descent_has_no_path():
    rule = create_rule("sgd")
    found = measure_path(rule, list(train(rule, "narrow", 5, seed=0)), 0.01)
    assert (found.size, found.paths, found.sentence()) == (0, (), "")


def test_the_lines_of_a_network_per_tensor_are_tensors():
    rule = create_rule("step-size-lstm", hidden_size=4)
    found = measure_path(rule, list(train(rule, "narrow", 20, seed=0)), 0.01)
    assert found.what == "tensor" and len(found.paths) == 6  # three layers, with biases
    assert found.fixed == ()
    assert sum(found.variance) == pytest.approx(1)


@pytest.mark.parametrize(("names", "start"), [
    (("m", "average"), "Besides m and average, each tensor"),
    (("m", "v", "average"), "Besides m, v and average, each tensor"),
    (("m",), "Besides m, each tensor"),
    ((), "Each tensor"),
])  # fmt: skip
def test_state_of_the_shape_of_the_parameter_is_named_beside_that_of_the_tensor(names, start):
    found = StatePath("tensor", (), (), (0.5, 0.3, 0.2), 3, names)
    assert found.sentence() == f"{start} keeps 3 numbers; 3 directions hold 90% of their variance."


def test_the_state_of_the_default_is_named():
    rule = create_rule("orthogonal-momentum")
    found = measure_path(rule, list(train(rule, "narrow", 20, seed=0)), 0.01)
    assert found.sentence().startswith("Besides m and average, each tensor keeps 3 numbers;")


@pytest.mark.parametrize(
    ("rule", "direction"),
    [("sgd", "gradient"), ("adam", "Adam")],
)
def test_a_rule_points_along_itself(rule, direction):
    found = measure_tensor_steps(create_rule(rule), names=["softmax", "deep"])
    assert found.mix[direction] == pytest.approx(1, abs=1e-5)
    assert max(found.mix, key=found.mix.get) == direction
    assert not found.steered and found.schedule == ()
    assert list(found.layers["softmax"]) == ["first", "vectors"]
    assert list(found.layers["deep"]) == ["first", "inner", "last", "vectors"]
    assert {len(sizes) for sizes in found.sizes.values()} == {100}


def test_the_factor_of_a_network_on_its_base_is_found():
    rule = create_rule("step-size-lstm", hidden_size=2)
    with torch.no_grad():
        rule.head.bias[0] = 0.25  # the factor is exp(2 * 0.25)
    found = measure_tensor_steps(rule, names=["narrow", "conv"])
    assert found.steered
    for row in found.layers.values():
        assert list(row.values()) == pytest.approx([1.6487] * len(row), rel=1e-3)
    assert max(found.schedule) == 1 and found.schedule[-1] < 0.05
    assert "The network multiplies the base's step by 1.6 in all layers." in found.sentence()


def test_an_untrained_network_is_its_base():
    found = measure_tensor_steps(create_rule("general"), names=["narrow"])
    sizes = [size for row in found.sizes.values() for size in row]
    assert sizes == pytest.approx([1.0] * len(sizes), rel=1e-5)


def test_trainings_that_diverge_are_named():
    found = measure_tensor_steps(Explosion(), names=["narrow", "wide"])
    assert "Diverged: narrow, wide." in found.sentence()


def test_updates_along_no_direction_are_said_to_be():
    rows = {"first": 1.0, "inner": 1.0, "last": 1.0, "vectors": 1.0}
    found = TensorSteps(True, {}, {"deep": rows}, (), {"gradient": -0.4, "momentum": 0.1})
    said = "like none of those below, nearest to that of momentum (cosine 0.10)."
    assert said in found.sentence()

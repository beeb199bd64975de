"""Every rule against its equation, against torch.optim, and against finite differences."""

import math

import pytest
import torch
from conftest import COORDINATE_RULES, clones, make_model, make_rule, same, train, without_step
from torch.func import functional_call, vmap

from learned_opt import LearnedOptimizer, UpdateRule, create_rule, list_rules
from learned_opt.functional import apply_rule
from learned_opt.rules import Context
from learned_opt.rules import rule_name as registered_name

HAND_DESIGNED = {
    "sgd": ("sgd", {}, torch.optim.SGD, {}),
    "momentum": ("momentum", {}, torch.optim.SGD, {"momentum": 0.9}),
    "momentum 0": ("momentum", {"momentum": 0.0}, torch.optim.SGD, {"momentum": 0.0}),
    "nesterov": (
        "momentum",
        {"momentum": 0.8, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "dampening": (
        "momentum",
        {"momentum": 0.9, "dampening": 0.3},
        torch.optim.SGD,
        {"momentum": 0.9, "dampening": 0.3},
    ),
    "rmsprop": ("rmsprop", {}, torch.optim.RMSprop, {}),
    "rmsprop alpha": ("rmsprop", {"alpha": 0.95, "eps": 1e-2}, torch.optim.RMSprop,
                      {"alpha": 0.95, "eps": 1e-2}),
    "adam": ("adam", {}, torch.optim.Adam, {}),
    "adam betas": ("adam", {"betas": (0.5, 0.9), "eps": 1e-4}, torch.optim.Adam,
                   {"betas": (0.5, 0.9), "eps": 1e-4}),
    "adam beta 0": ("adam", {"betas": (0.0, 0.99)}, torch.optim.Adam, {"betas": (0.0, 0.99)}),
    "adamw": ("adam", {}, torch.optim.AdamW, {"weight_decay": 0.1}),
}  # fmt: skip
LSTM_RULES = list_rules("*lstm")


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float32, 1e-6, 1e-6), (torch.float64, 1e-12, 1e-13)]
)
@pytest.mark.parametrize("case", HAND_DESIGNED)
def test_hand_designed_rules_equal_torch_optim(case, dtype, rtol, atol):
    name, settings, reference, options = HAND_DESIGNED[case]
    lr = 0.003 if name in ("adam", "rmsprop") else 0.05
    models = [make_model(dtype) for _ in range(2)]
    rule = make_rule(name, dtype, **settings)
    decay = options.get("weight_decay", 0.0)
    ours = LearnedOptimizer(models[0].parameters(), lr=lr, rule=rule, weight_decay=decay)
    theirs = reference(models[1].parameters(), lr=lr, **options)
    losses = [train(model, o, 100) for model, o in zip(models, (ours, theirs), strict=True)]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=rtol * 10, atol=atol)
    torch.testing.assert_close(
        *(clones(model.parameters()) for model in models), rtol=rtol, atol=atol
    )
    assert losses[0][-1] < 0.9 * losses[0][0]


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_a_gradient_whose_square_overflows_does_what_it_does_in_torch(name):
    """Of the rule itself; `LearnedOptimizer` skips such an update (test_finite_guard)."""
    reference = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[name]
    theirs = torch.nn.Parameter(torch.ones(1))
    optimizer, rule, ours = reference([theirs], lr=0.1), make_rule(name), torch.ones(1)
    state = rule.init_state(ours)
    for gradient in (1.0, 1e25, 1.0, 1.0):
        theirs.grad = torch.tensor([gradient])
        optimizer.step()
        (ours,), (state,) = apply_rule(rule, [theirs.grad], [ours], [state], Context(), lr=0.1)
    torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize("gradient", [2e19, 1e20, 3e20])
def test_a_gradient_whose_square_just_fits_moves_as_in_torch(gradient):
    theirs = torch.nn.Parameter(torch.ones(1))
    optimizer, rule, ours = torch.optim.Adam([theirs], lr=0.1), make_rule("adam"), torch.ones(1)
    state = rule.init_state(ours)
    theirs.grad = torch.tensor([gradient])
    for step in (1, 2):
        optimizer.step()
        (ours,), (state,) = apply_rule(rule, [theirs.grad], [ours], [state], Context(), lr=0.1)
        torch.testing.assert_close(ours, theirs.detach())
        torch.testing.assert_close(ours, torch.tensor([1 - 0.1 * step]))


def inputs_of(rule, shape=(3, 2), seed=0):
    """A gradient, a parameter and a state in mid-run, away from kinks."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    gradient, parameter = draw(*shape), draw(*shape)
    state = {k: 0.3 + v + 0.2 * draw(*v.shape).abs() for k, v in rule.init_state(parameter).items()}
    state["step"] = torch.tensor(3.0, dtype=torch.float64)
    return gradient, parameter, state


def small(name):
    """Few weights, and every path differentiable."""
    special = {
        "lstm": {"hidden_sizes": (3, 2)},
        "adam-lstm": {"hidden_size": 3, "differentiate_inputs": True},
    }
    settings = special.get(name, {"hidden_size": 3} if name in LSTM_RULES else {})
    return make_rule(name, torch.float64, spread=0.3, **settings)


CONTEXT = Context(loss=torch.tensor(0.7), total_steps=torch.tensor(20.0))


def test_rules_are_listed_by_pattern_and_with_descriptions():
    assert list_rules("*gated*") == ["gated-lstm", "momentum-gated-lstm"]
    assert list_rules("none") == []
    rows = list_rules(with_description=True)
    assert [name for name, _ in rows] == list_rules()
    assert all(description and "\n" not in description for _, description in rows)


@pytest.mark.parametrize("name", list_rules())
def test_derivatives_are_those_of_finite_differences(name):
    rule = small(name)
    gradient, parameter, state = inputs_of(rule)
    step = state.pop("step")
    weights = {key: value.detach() for key, value in rule.named_parameters()}
    keys = [*state, *weights]

    def run(gradient, parameter, *rest):
        named = dict(zip(keys, rest, strict=True))
        states = [{"step": step, **{key: named[key] for key in state}}]
        deltas, new = functional_call(
            rule,
            {key: named[key] for key in weights},
            ([gradient], [parameter], states, CONTEXT),
        )
        return deltas[0], *(new[0][key] for key in state)

    leaves = [gradient, parameter, *state.values(), *weights.values()]
    assert torch.autograd.gradcheck(run, [leaf.clone().requires_grad_() for leaf in leaves])


def test_a_rule_changes_none_of_its_inputs(rule_name):
    rule = small(rule_name)
    gradient, parameter, state = inputs_of(rule)
    before = [clones([gradient, parameter]), {key: value.clone() for key, value in state.items()}]
    weights = clones(rule.parameters())
    results = [rule([gradient], [parameter], [state], CONTEXT) for _ in range(2)]
    assert same([[gradient, parameter], state], before)
    assert same(clones(rule.parameters()), weights)
    assert same(*results)
    assert results[0][1][0]["step"] == 4
    assert not same(results[0][0][0], torch.zeros_like(gradient))


@pytest.mark.parametrize("rule_name", COORDINATE_RULES)
def test_all_tensors_at_once_equal_one_at_a_time(rule_name):
    rule = small(rule_name)
    cases = [inputs_of(rule, shape, seed) for seed, shape in enumerate([(2, 2), (), (5,)])]
    cases[1][2]["step"] += 2
    deltas, states = rule(*map(list, zip(*cases, strict=True)), CONTEXT)
    for k, (gradient, parameter, state) in enumerate(cases):
        delta, new = rule([gradient], [parameter], [state], CONTEXT)
        torch.testing.assert_close([deltas[k], states[k]], [delta[0], new[0]], rtol=1e-12, atol=0)
        assert deltas[k].shape == gradient.shape


def test_vmap_equals_one_at_a_time(rule_name):
    rule = small(rule_name)
    cases = [inputs_of(rule, seed=seed) for seed in range(3)]
    cases[0][0][0] = 0.0
    for tensor in cases[0][2].values():
        tensor.zero_()
    stacked = torch.utils._pytree.tree_map(lambda *tensors: torch.stack(tensors), *cases)

    def run(gradient, parameter, state):
        return rule([gradient], [parameter], [state], CONTEXT)

    together = vmap(run)(*stacked)
    for k, case in enumerate(cases):
        mine = torch.utils._pytree.tree_map(lambda tensor, k=k: tensor[k], together)
        torch.testing.assert_close(mine, run(*case), rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_rule_equals_the_eager_one(rule_name):
    torch._dynamo.reset()
    rule = small(rule_name)
    gradient, parameter, state = inputs_of(rule)
    compiled = torch.compile(rule, backend="eager", fullgraph=True)
    results = [f([gradient], [parameter], [state], CONTEXT) for f in (rule, compiled)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-15)


def test_idle_coordinates_stay_bitwise_while_their_neighbours_move(rule_name):
    rule = make_rule(rule_name, spread=0.5)
    parameter = torch.linspace(-1, 1, 6)
    gradient = torch.tensor([0.0, 1.0, 0.0, -2.0, 0.0, 1e-6])
    fresh = state = rule.init_state(parameter)
    dead = gradient == 0
    for _ in range(20):
        (delta,), (state,) = rule([gradient], [parameter], [state], CONTEXT)
        assert delta[dead].tolist() == [0.0] * 3
        assert delta[~dead].abs().min() > 0
    for key, value in without_step(state).items():
        if value.shape[:1] != parameter.shape:  # not per coordinate
            continue
        assert same(value[dead], fresh[key][dead].detach())


@pytest.mark.parametrize("rule_name", [n for n in list_rules() if n not in ("sgd", "rmsprop")])
def test_a_coordinate_that_has_moved_is_idle_no_more(rule_name):
    rule = make_rule(rule_name, spread=0.5)
    parameter, state = torch.ones(1), rule.init_state(torch.ones(1))
    for gradient in (torch.ones(1), torch.zeros(1)):
        (delta,), (state,) = rule([gradient], [parameter], [state], CONTEXT)
    assert delta != 0


def test_a_step_of_no_tensors_is_no_step(rule_name):
    assert make_rule(rule_name)([], [], [], CONTEXT) == ([], [])


def test_gates_lie_between_zero_and_one_and_fit_the_parameter(rule_name):
    rule = small(rule_name)
    gradient, parameter, state = inputs_of(rule)
    before = {key: value.clone() for key, value in state.items()}
    gates = rule.gates(gradient, parameter, state, CONTEXT)
    assert same(state, before)
    assert bool(gates) == (rule_name in LSTM_RULES)
    for value in gates.values():
        assert torch.broadcast_shapes(value.shape[:2], (3, 2)) == (3, 2)
        assert 0 <= value.min() and value.max() <= 1


def test_a_missing_piece_of_context_is_said_in_words(rule_name):
    rule = make_rule(rule_name)
    arguments = [torch.ones(1)], [torch.ones(1)], [rule.init_state(torch.ones(1))]
    words = {
        "loss": r"needs the loss.*closure",
        "total_steps": r"needs total_steps, the planned number of optimizer steps",
    }
    for field in rule.required_context():
        with pytest.raises(ValueError, match=words[field]):
            rule(*arguments)
    if not rule.required_context():
        rule(*arguments)


@pytest.mark.parametrize(
    ("name", "wrong", "given"),
    [
        ("momentum", {"momentum": 1.0}, 1.0),
        ("momentum", {"dampening": -0.1}, -0.1),
        ("momentum", {"nesterov": True, "dampening": 0.1}, 0.1),
        ("adam", {"betas": (0.9, 1.5)}, 1.5),
        ("adam", {"eps": -1.0}, -1.0),
        ("rmsprop", {"alpha": 1.5}, 1.5),
        ("rmsprop", {"eps": math.nan}, "nan"),
        ("lstm", {"hidden_sizes": ()}, "()"),
        ("lstm", {"hidden_sizes": (4, 0)}, "(4, 0)"),
        ("lstm", {"p": 0.0}, 0.0),
        ("gated-lstm", {"hidden_size": -1}, -1),
        ("gated-lstm", {"recurrence": "values"}, "values"),
        ("momentum-gated-lstm", {"p": -1.0}, -1.0),
        ("step-size-lstm", {"hidden_size": 0}, 0),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_value(name, wrong, given):
    with pytest.raises(ValueError) as caught:
        create_rule(name, **wrong)
    assert all(key in str(caught.value) for key in wrong)
    assert str(given) in str(caught.value)


def test_names_and_settings(rule_name):
    rule = create_rule(rule_name)
    assert isinstance(rule, UpdateRule)
    assert rule_name == registered_name(rule)
    assert all(key in repr(rule) for key in rule.settings)
    with pytest.raises(ValueError, match="unknown setting"):
        create_rule(rule_name, no_such_setting=1)

"""C takes the steps of a population of rules as the rule itself does under vmap, in place."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import same
from torch.func import vmap

from learned_opt import create_rule
from learned_opt.c_library import load_library
from learned_opt.rules.step_size_lstm import StepSizeLSTM
from meta_train.inner.step.rule_in_c import RuleInC, why_not_in_c
from meta_train.inner.step.rule_step import StepInput, rule_steps

pytestmark = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")

RUNS = 5
SHAPES = [(6, 7), (6,), (), (2, 3, 4), (0, 3), (70, 33)]


def make_rule(**settings):
    torch.manual_seed(0)
    return create_rule("step-size-lstm", **settings)


def make(rule, seed=0, shapes=SHAPES, runs=RUNS, **changes):
    """A population before its first step: runs of other sizes, losses, weights and lengths."""
    draw = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=draw)

    parameters = [0.3 * randn(runs, *shape) for shape in shapes]
    given = StepInput(
        weight_decay=0.1,
        gradients=[randn(runs, *shape) for shape in shapes],
        parameters=parameters,
        states=[
            {key: value.clone() for key, value in vmap(rule.init_state)(value).items()}
            for value in parameters
        ],
        loss=randn(runs),
        lr=0.01,
        total=torch.arange(9.0, 9 + runs),
        weights={
            name: value.detach() + 0.3 * randn(runs, *value.shape)
            for name, value in rule.named_parameters()
        },
    )
    return replace(given, **changes)


def cast(given, dtype):
    def to(value):
        return value.to(dtype) if isinstance(value, torch.Tensor) else value

    return StepInput(
        given.weight_decay,
        list(map(to, given.gradients)),
        list(map(to, given.parameters)),
        [{key: to(value) for key, value in state.items()} for state in given.states],
        *(to(given.loss), to(given.lr), to(given.total)),
        {key: to(value) for key, value in given.weights.items()},
    )


def in_place(rule, given, moving=None):
    """The parameters and states after a step in C; those given stay as they are."""
    given = copy.deepcopy(given)
    moving = torch.ones(len(given.parameters[0]), dtype=torch.bool) if moving is None else moving
    RuleInC(rule)(given, moving)
    return given.parameters, given.states


def other_gradients(given, seed, idle=()):
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(value.shape, generator=draw) * float(k not in idle)
        for k, value in enumerate(given.parameters)
    ]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {}),
        ({"hidden_size": 1}, {}),
        ({"hidden_size": 37}, {}),
        ({"parameter_scale": True}, {}),
        ({}, {"loss": None}),
        ({}, {"lr": torch.linspace(-0.02, 0.05, RUNS), "weight_decay": 0.0}),
        ({}, {"lr": torch.tensor(0.02), "total": torch.tensor(3.0)}),
        ({}, {"loss": torch.tensor([0.0, 1.0, -2.0, 1e3, 1e-9])}),
        ({}, {"idle": (0, 2)}),
    ],
    ids=str,
)
def test_c_is_as_exact_as_the_rule(settings, changes):
    rule = make_rule(**settings)
    exact_rule = copy.deepcopy(rule).double()
    changes = dict(changes)
    idle = changes.pop("idle", ())
    fast = slow = make(rule, **changes)
    exact = cast(slow, torch.float64)
    for step in range(6):
        gradients = other_gradients(slow, step, idle if step < 3 else ())
        double = [value.double() for value in gradients]
        found = in_place(rule, replace(fast, gradients=gradients))
        own = rule_steps(rule, replace(slow, gradients=gradients))
        true = rule_steps(exact_rule, replace(exact, gradients=double))
        fast, slow, exact = (
            replace(given, parameters=list(p), states=list(s))
            for given, (p, s) in zip((fast, slow, exact), (found, own, true), strict=True)
        )
    with torch.no_grad():
        for mine, theirs, right in zip(tensors(fast), tensors(slow), tensors(exact), strict=True):
            if not right.numel():
                continue
            scale = max(1.0, float(right.abs().max()))
            off_c, off_rule = (float((x - right).abs().max()) / scale for x in (mine, theirs))
            # Sums cancel where the parts of a mix do.
            assert off_c <= 2 * off_rule + 1e-5
            assert off_rule < 1e-4


def tensors(given):
    return [*given.parameters, *(state[key] for state in given.states for key in sorted(state))]


def rows_of(found, rows):
    parameters, states = found
    return [value[rows] for value in (*parameters, *(s[k] for s in states for k in sorted(s)))]


def test_each_run_is_stepped_as_if_alone():
    rule = make_rule()
    given = make(rule)
    together = in_place(rule, given)
    for run in range(RUNS):
        row = slice(run, run + 1)
        alone = replace(
            given,
            gradients=[value[row] for value in given.gradients],
            parameters=[value[row] for value in given.parameters],
            states=[{key: value[row] for key, value in state.items()} for state in given.states],
            loss=given.loss[row],
            total=given.total[row],
            weights={key: value[row] for key, value in given.weights.items()},
        )
        assert same(rows_of(in_place(rule, alone), [0]), rows_of(together, [run]))


def test_one_object_steps_one_population_after_another():
    rule = make_rule()
    one = RuleInC(rule)
    moving = torch.ones(RUNS, dtype=torch.bool)
    populations = [make(rule), make(rule, seed=1), make(rule, shapes=[(3, 3)])]
    expected = [in_place(rule, given) for given in populations]
    for given, (parameters, states) in zip(populations, expected, strict=True):
        one(given, moving)
        assert same((given.parameters, given.states), (parameters, states))
    first = populations[0]
    again = in_place(rule, first)
    one(first, moving)
    assert same((first.parameters, first.states), again)
    # One state tensor is another than before.
    first.states[0]["m9"] = torch.zeros_like(first.states[0]["m9"])
    again = in_place(rule, first)
    one(first, moving)
    assert same((first.parameters, first.states), again)


def test_gradients_of_any_layout_are_read():
    rule = make_rule()
    given = make(rule, shapes=[(6, 7), (6,)])
    turned = [given.gradients[0].mT.contiguous().mT, given.gradients[1]]
    assert not turned[0].is_contiguous()
    assert same(in_place(rule, replace(given, gradients=turned)), in_place(rule, given))


def test_runs_that_do_not_move_stay_as_they_are():
    rule = make_rule()
    given = make(rule)
    moving = torch.tensor([True, False, True, False, True])
    given.gradients[0][1] = torch.nan
    found = in_place(rule, given, moving)
    assert same(rows_of(found, ~moving), rows_of((given.parameters, given.states), ~moving))
    usual = in_place(rule, make(rule))
    assert same(rows_of(found, moving), rows_of(usual, moving))


@pytest.mark.parametrize("spoilt", ["gradient", "state", "weight"])
def test_runs_with_doubtful_numbers_are_stepped_by_the_rule(spoilt):
    rule = make_rule()
    given = make(rule)
    usual = in_place(rule, given)
    if spoilt == "gradient":
        given.gradients[0][3] = 1e20
    elif spoilt == "state":
        given.states[1]["h"][3] = torch.inf
    else:
        given.weights["head.bias"][3] = torch.nan
    found = in_place(rule, given)
    expected = rule_steps(rule, given)
    for mine, theirs in zip(rows_of(found, [3]), rows_of(expected, [3]), strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)
    others = [0, 1, 2, 4]
    assert same(rows_of(found, others), rows_of(usual, others))


@pytest.mark.parametrize("kind", ["dtype", "layout", "no length"])
def test_tensors_that_c_cannot_read_are_stepped_by_the_rule(kind):
    rule = make_rule()
    given = make(rule, shapes=[(6, 7), (6,)])
    if kind == "dtype":
        given.parameters[0] = given.parameters[0].double()
    elif kind == "layout":
        given.parameters[0] = given.parameters[0].transpose(1, 2).contiguous().transpose(1, 2)
    else:
        with pytest.raises(ValueError, match="needs total_steps"):
            RuleInC(rule)(replace(given, total=None), torch.ones(RUNS, dtype=torch.bool))
        return
    expected = rule_steps(rule, given)
    RuleInC(rule)(given, torch.ones(RUNS, dtype=torch.bool))
    assert same((given.parameters, given.states), (expected[0], expected[1]))


@pytest.mark.parametrize("what", ["h", "weights"])
def test_wrong_shapes_are_left_to_the_rule_which_raises(what):
    rule = make_rule()
    given = make(rule)
    if what == "h":
        given.states[0]["h"] = given.states[0]["h"][:, :-1].contiguous()
    else:
        given.weights["lstm.weight"] = given.weights["lstm.weight"][:, :-1].contiguous()
    with pytest.raises(RuntimeError):
        RuleInC(rule)(given, torch.ones(RUNS, dtype=torch.bool))


def test_numbers_do_not_depend_on_the_number_of_threads():
    rule = make_rule()
    given = make(rule, shapes=[(300, 400), (300,)], runs=7)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = in_place(rule, given)
        torch.set_num_threads(3)
        three = in_place(rule, given)
    finally:
        torch.set_num_threads(before)
    assert same(one, three)


def test_what_c_does_not_take_is_said():
    assert why_not_in_c(create_rule("step-size-lstm")) is None
    adam = create_rule("adam")
    assert why_not_in_c(adam) == "there is no code in C for populations of Adam"
    with pytest.raises(ValueError, match="populations of Adam"):
        RuleInC(adam)

    class Own(StepSizeLSTM):
        """May have other equations."""

    assert "populations of Own" in why_not_in_c(Own())
    double = create_rule("step-size-lstm").double()
    assert why_not_in_c(double) == "C steps float32 on the CPU, not torch.float64 on cpu"

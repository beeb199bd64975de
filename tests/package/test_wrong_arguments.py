"""Something else in place of a rule, a module or a name gives one line that says what to give."""

import pytest
import torch
from torch import nn

from learned_opt import (
    GateMonitor,
    Initialization,
    LearnedOptimizer,
    adapt,
    create_rule,
    explain,
    from_pretrained,
    list_rules,
    load_card,
    load_initialization,
    load_rule,
    save_initialization,
    save_rule,
)
from learned_opt.checks.arguments import shown
from learned_opt.rules.adam_lstm import AdamLSTM

MODEL = nn.Linear(2, 1)
MSE = nn.functional.mse_loss
DATA = torch.rand(6, 2), torch.rand(6, 1)


def optimizer():
    return LearnedOptimizer(MODEL.parameters())


CALLS = {
    "params": (lambda: LearnedOptimizer(MODEL), "params must be parameters, got a Linear: give"),
    "lr": (
        lambda: LearnedOptimizer(MODEL.parameters(), "step-size-lstm"),
        "lr must be a number, got 'step-size-lstm': give a rule as rule=...",
    ),
    "rule": (
        lambda: LearnedOptimizer(MODEL.parameters(), rule=AdamLSTM),
        "rule must be an UpdateRule, a name or a path, got the class AdamLSTM: give an instance",
    ),
    "module as rule": (
        lambda: LearnedOptimizer(MODEL.parameters(), rule=MODEL),
        "rule must be an UpdateRule, a name or a path, got a Linear",
    ),
    "rule as name": (lambda: create_rule(AdamLSTM()), "rule must be a name, got an AdamLSTM"),
    "weights as rule": (
        lambda: create_rule("digits-lstm"),
        "'digits-lstm' is pretrained weights, not a rule: use from_pretrained('digits-lstm')",
    ),
    "saved name": (
        lambda: save_rule("adam-lstm", "never.safetensors"),
        "rule must be an UpdateRule, got 'adam-lstm': give create_rule('adam-lstm')",
    ),
    "saved path": (
        lambda: save_rule("never.safetensors", create_rule("adam-lstm")),
        "rule must be an UpdateRule, got 'never.safetensors': create_rule makes a rule",
    ),
    "saved optimizer": (
        lambda: save_rule(optimizer(), "never.safetensors"),
        "rule must be an UpdateRule, got a LearnedOptimizer: the rule of a LearnedOptimizer is",
    ),
    "explained optimizer": (
        lambda: explain(optimizer()),
        "rule must be an UpdateRule, a name or a path, got a LearnedOptimizer: the rule of",
    ),
    "explained number": (lambda: explain(3), "rule must be an UpdateRule, a name or a path, got 3"),
    "number among the compared": (
        lambda: explain("adam", compare=["sgd", 1]),
        "compare[1] must be an UpdateRule, a name or a path, got 1",
    ),
    "compared name": (
        lambda: explain("adam", compare="sgd"),
        "compare must be a list of rules, got 'sgd'",
    ),
    "writer": (lambda: GateMonitor(3), "writer must be a folder or a SummaryWriter, got 3"),
    "adapted name": (
        lambda: adapt("omniglot-maml", DATA),
        "module must be an nn.Module, got 'omniglot-maml'",
    ),
    "adapting optimizer": (
        lambda: adapt(MODEL, DATA, rule=optimizer()),
        "rule must be an UpdateRule, a name or a path, got a LearnedOptimizer: the rule of",
    ),
    "initialization of a name": (
        lambda: Initialization.of("omniglot-maml"),
        "module must be an nn.Module, got 'omniglot-maml'",
    ),
    "rule of an initialization": (
        lambda: Initialization.of(MODEL, rule="sgd"),
        "rule must be an UpdateRule, got 'sgd': give create_rule('sgd')",
    ),
    "saved module": (
        lambda: save_initialization(MODEL, "never.safetensors"),
        "initialization must be an Initialization, got a Linear; Initialization.of(module)",
    ),
    "path of a rule": (lambda: load_rule(3), "path must be a path, got 3"),
    "name or path": (lambda: from_pretrained(3), "name_or_path must be a name or a path, got 3"),
    "card": (lambda: load_card(None), "name_or_path must be a name or a path, got None"),
    "path of an initialization": (
        lambda: load_initialization(2.5),
        "name_or_path must be a name or a path, got 2.5",
    ),
    "path to save to": (lambda: save_rule(create_rule("sgd"), 3), "path must be a path, got 3"),
    "saved card": (
        lambda: save_rule(create_rule("sgd"), "never.safetensors", 3),
        "card must be a mapping, got 3",
    ),
    "path of an initialization to save": (
        lambda: save_initialization(Initialization.of(MODEL), None),
        "path must be a path, got None",
    ),
    "values": (lambda: Initialization(3), "parameters must be tensors by name, got 3"),
    "value": (
        lambda: Initialization({"weight": [1.0]}),
        "parameters['weight'] must be a tensor, got [1.0]",
    ),
    "names to adapt": (
        lambda: Initialization.of(MODEL, only=3),
        "only must be a list of names or prefixes, got 3",
    ),
    "names to keep": (
        lambda: Initialization.of(MODEL).apply_to(MODEL, keep=3),
        "keep must be a list of names or prefixes, got 3",
    ),
    "support": (lambda: adapt(MODEL, 3), "support must be a pair (inputs, targets) or a list of"),
    "loss": (
        lambda: adapt(MODEL, DATA, loss="mse"),
        "loss must be a function (output, targets), got 'mse'",
    ),
    "adapted names": (
        lambda: adapt(MODEL, DATA, loss=MSE, only=3),
        "only must be a list of names or prefixes, got 3",
    ),
    "functional": (
        lambda: adapt(MODEL, DATA, functional="no"),
        "functional must be True or False, got 'no'",
    ),
    "true steps": (
        lambda: adapt(MODEL, DATA, loss=MSE, steps=True),
        "steps must be a whole number of at least 0, got True",
    ),
    "true rate": (
        lambda: adapt(MODEL, DATA, loss=MSE, lr=True),
        "lr must be a finite number, got True",
    ),
    "pattern": (lambda: list_rules(3), "filter must be a pattern such as '*lstm', got 3"),
    "compared number": (
        lambda: explain("adam", compare=3),
        "compare must be a list of rules, got 3",
    ),
    "seed": (lambda: explain("adam", seed="one"), "seed must be a whole number, got 'one'"),
    "bounds": (
        lambda: GateMonitor("never", saturated=0.1),
        "saturated must be a list, got 0.1",
    ),
    "number of parameters": (lambda: LearnedOptimizer(3), "params must be parameters, got 3"),
    "true lr": (
        lambda: LearnedOptimizer(MODEL.parameters(), lr=True),
        "lr must be a number, got True",
    ),
    "true plan": (
        lambda: LearnedOptimizer(MODEL.parameters(), total_steps=True),
        "total_steps must be a whole number of at least 1, got True",
    ),
    "applied to a name": (
        lambda: load_initialization("omniglot-maml").apply_to("conv4"),
        "module must be an nn.Module, got 'conv4'",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_one_line_says_what_to_give(call, message):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (2.5, "2.5"),
        ("two\nlines", "'two\\nlines'"),
        ("x" * 200, f"'{'x' * 76}..."),
        (nn.Sequential(MODEL, MODEL), "a Sequential"),
        (torch.optim.Adam(MODEL.parameters()), "an Adam"),
        (nn.Linear, "the class Linear"),
        (torch.ones(2, 3), "a Tensor [2, 3]"),
        (torch.tensor(2), "tensor(2)"),
        ({"lr": 1}, "{'lr': 1}"),
        ([MODEL] * 9, "a list"),
    ],
)
def test_an_argument_is_shown_in_a_few_words(value, text):
    assert shown(value) == text

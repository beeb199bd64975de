"""CONFORMANCE.md, lines 33 to 35: hooks."""

import torch
from conftest import make_model, make_optimizer, step_with, train
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from learned_opt import LearnedOptimizer


def test_33_step_hooks_run_in_order_once_and_can_be_removed(rule):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    calls = []

    def note(name):
        return lambda optimizer, args, kwargs: calls.append(name)

    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
        register_optimizer_step_post_hook(note("global post")),
    ]
    try:
        train(model, optimizer, 1)
        assert calls == ["global pre", "pre", "post", "global post"]
    finally:
        for handle in handles:
            handle.remove()
    train(model, optimizer, 1)
    assert len(calls) == 4


def test_34_no_rule_brings_a_step_of_its_own(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(2))
    assert type(optimizer) is LearnedOptimizer
    assert not hasattr(rule, "step")


def test_34_hooks_fire_once_when_a_framework_subclasses_the_optimizer(rule):
    derived = type("Derived", (LearnedOptimizer,), {})
    model = make_model()
    optimizer = derived(model.parameters(), rule=rule, total_steps=100)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    train(model, optimizer, 2)
    assert calls == ["post", "post"]


def test_35_state_dict_hooks_run_in_order(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(2))
    calls = []
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("save pre"))
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("save first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("save post"))
    saved = optimizer.state_dict()
    assert calls == ["save first", "save pre", "save post"]

    calls.clear()
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("load pre"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("load first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("load post"))
    optimizer.load_state_dict(saved)
    assert calls == ["load first", "load pre", "load post"]


def test_35_a_load_pre_hook_may_replace_the_state(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(2))
    step_with(optimizer, torch.ones(2))

    def at_step_seven(optimizer, state_dict):
        state = {0: {**state_dict["state"][0], "step": torch.tensor(7.0)}}
        return {**state_dict, "state": state}

    optimizer.register_load_state_dict_pre_hook(at_step_seven)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state_dict()["state"][0]["step"] == 7


def test_35_unknown_state_keys_are_kept_and_do_not_disturb_the_step(rule):
    optimizer, parameters = make_optimizer(rule, torch.ones(2, 3), chunk_size=2)
    step_with(optimizer, torch.ones(2, 3))
    saved = optimizer.state_dict()
    saved["state"][0].update({"a_note": "mine", "a_number": 5, "a_vector": torch.ones(7)})
    optimizer.load_state_dict(saved)
    step_with(optimizer, torch.ones(2, 3))
    kept = optimizer.state[parameters[0]]
    assert (kept["a_note"], kept["a_number"]) == ("mine", 5)
    assert kept["step"] == 2

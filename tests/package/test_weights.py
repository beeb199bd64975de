import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_rule, same
from safetensors.torch import save_file

import learned_opt.files
import learned_opt.weights
from learned_opt import (
    LearnedOptimizer,
    UpdateRule,
    from_pretrained,
    list_pretrained,
    load_card,
    load_rule,
    save_rule,
)
from learned_opt.rules import Context
from learned_opt.rules.sgd import SGD
from learned_opt.weights import rule_digest

CONTEXT = Context(loss=torch.tensor(1.0), total_steps=torch.tensor(9.0))
SETTINGS = {
    "momentum": {"momentum": 0.5, "nesterov": True},
    "adam": {"betas": (0.8, 0.95), "eps": 1e-3},
    "lstm": {"hidden_sizes": (5, 3), "p": 7.0},
    "gated-lstm": {"hidden_size": 0, "recurrence": "logit", "use_loss": False},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rule.safetensors"


@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["defaults", "settings"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rule_survives_the_round_trip_bitwise(rule_name, settings, dtype, path):
    rule = make_rule(rule_name, dtype, **settings.get(rule_name, {}))
    save_rule(rule, path)
    loaded = load_rule(path)
    assert type(loaded) is type(rule)
    assert loaded.settings == rule.settings
    assert [type(v) for v in loaded.settings.values()] == [type(v) for v in rule.settings.values()]
    assert same(dict(loaded.state_dict()), dict(rule.state_dict()))
    assert loaded.dtype == dtype
    assert rule_digest(loaded) == rule_digest(rule)


@pytest.mark.parametrize(
    ("dtype", "written"),
    [("float32", None), ("bfloat16", "bfloat16"), ("float64", "float64")],
)
def test_a_file_names_the_dtype_of_a_rule_without_weights(dtype, written, path):
    save_rule(make_rule("adam", getattr(torch, dtype)), path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert header.get("dtype") == written  # files of float32 rules are as they were before
    assert load_rule(path).dtype == getattr(torch, dtype)


def test_every_bundled_file_is_listed_with_a_description():
    folder = Path(learned_opt.weights.__file__).parent / "pretrained"
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == list_pretrained()
    assert list_pretrained("*size*") == ["step-size-lstm"]
    assert dict(list_pretrained(with_description=True)).keys() == set(list_pretrained())
    for name, description in list_pretrained(with_description=True):
        assert description.startswith(load_card(name)["rule"])


def test_digests_tell_rules_settings_and_weights_apart():
    rules = [
        make_rule("adam"),
        make_rule("adam", eps=1e-3),
        make_rule("rmsprop"),
        make_rule("lstm"),
        make_rule("lstm", seed=1),
        make_rule("lstm", output_scale=0.01),
    ]
    assert len({rule_digest(rule) for rule in rules}) == len(rules)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.array, torch.tensor])
def test_equal_numbers_of_any_type_make_equal_rules(kind, path):
    plain = make_rule("orthogonal-momentum", momentum=0.5, iterations=3, warm_up=8)
    integer = {np.float64: np.int64, np.float32: np.uint8}.get(kind, kind)
    same_rule = make_rule(
        "orthogonal-momentum", momentum=kind(0.5), iterations=integer(3), warm_up=kind(8.0)
    )
    assert same_rule.settings == plain.settings
    assert {type(value) for value in same_rule.settings.values()} == {int, float}
    assert rule_digest(same_rule) == rule_digest(plain)
    save_rule(same_rule, path)
    assert load_rule(path).settings == plain.settings


def test_equal_numbers_in_lists_make_equal_rules():
    plain = make_rule("adam-lstm", hidden_size=3, betas=(0.5, 0.75))
    other = make_rule("adam-lstm", hidden_size=np.int32(3), betas=np.array([0.5, 0.75]))
    assert other.settings == plain.settings
    assert rule_digest(other) == rule_digest(plain)


def test_the_card_survives_and_holds_what_was_given(rule, path):
    card = {"trained_on": "digits", "loss": 0.25, "seeds": [1, 2]}
    save_rule(rule, path, card)
    assert load_card(path) == card
    save_rule(rule, path)
    assert load_card(path) == {}


def test_loading_touches_no_random_numbers_and_no_device_context(rule, path):
    save_rule(rule, path)
    before = torch.get_rng_state()
    with torch.device("meta"):
        loaded = load_rule(path)
    assert same(torch.get_rng_state(), before)
    assert loaded.device.type == "cpu"
    assert same(dict(loaded.state_dict()), dict(rule.state_dict()))


def test_a_rule_read_under_inference_mode_is_made_of_ordinary_tensors(rule, path, monkeypatch):
    save_rule(rule, path)
    monkeypatch.setattr(learned_opt.weights, "_bundled", lambda: {"mine": path})
    with torch.inference_mode():
        shared = optimizer_named("mine").rule
    assert not any(tensor.is_inference() for tensor in [*shared.parameters(), *shared.buffers()])
    with torch.inference_mode():
        own = from_pretrained("mine")
    assert not any(tensor.is_inference() for tensor in own.parameters())
    copied = copy.deepcopy(shared).requires_grad_(True)
    parameter = torch.ones(2)
    deltas, _ = copied([torch.ones(2)], [parameter], [copied.init_state(parameter)], CONTEXT)
    if list(copied.parameters()):
        deltas[0].sum().backward()


def test_a_rule_without_values_has_no_digest(rule):
    message = "meta device"
    with pytest.raises(ValueError, match=message):
        rule_digest(rule.to("meta"))
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(1))], rule=rule, total_steps=9)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 50, 0.5, -1])
def test_a_truncated_file_is_called_damaged(path, kept):
    save_rule(make_rule("lstm"), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"rule\.safetensors is damaged"):
        load_rule(path)


def test_garbage_is_called_damaged(path):
    path.write_bytes(os.urandom(4096))
    with pytest.raises(ValueError, match=r"rule\.safetensors is damaged"):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(1))], rule=path)


def header(**changes):
    rule = make_rule("adam")
    return {
        "format": learned_opt.weights.FORMAT,
        "version": "1",
        "rule": "adam",
        "settings": json.dumps(rule.settings),
        "card": "{}",
    } | changes


FOREIGN = {
    "no header": (None, "format"),
    "another format": (header(format="other"), "format"),
    "newer": (header(version="2"), "newer version"),
    "version": (header(version="two"), "two|version"),
    "unknown rule": (header(rule="adma"), "did you mean 'adam'"),
    "no rule": ({k: v for k, v in header().items() if k != "rule"}, "rule"),
    "settings": (header(settings="{"), "property name"),
    "settings of another type": (header(settings="[1]"), "settings|mapping"),
    "unknown setting": (header(settings='{"epz": 1}'), "did you mean 'eps'"),
    "refused setting": (header(settings='{"eps": -1}'), "eps must be at least 0"),
    "weights of another rule": (
        header(rule="lstm", settings="{}"),
        "it lacks the weight head.bias",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_file_is_refused_in_one_line_that_names_it(case, path):
    metadata, message = FOREIGN[case]
    save_file({}, path, metadata=metadata)
    with pytest.raises(ValueError, match=message) as caught:
        load_rule(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("card", ["{", "3"])
def test_a_damaged_card_is_refused_in_one_line_that_names_the_file(card, path):
    save_file({}, path, metadata=header(card=card))
    with pytest.raises(ValueError) as caught:
        load_card(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_rule(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"absent\.safetensors"):
        from_pretrained(tmp_path / "absent.safetensors")


def test_an_unknown_name_is_answered_with_the_nearest_one(monkeypatch, path):
    monkeypatch.setattr(learned_opt.weights, "_bundled", lambda: {"digits-lstm": path})
    with pytest.raises(ValueError, match=r"'digit-lstm'; did you mean 'digits-lstm'\?"):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(1))], rule="digit-lstm")


def optimizer_named(name):
    return LearnedOptimizer([torch.nn.Parameter(torch.ones(1))], rule=name, total_steps=9)


def test_optimizers_with_the_name_of_a_bundled_rule_share_one_frozen_rule(monkeypatch, path, rule):
    save_rule(rule, path)
    monkeypatch.setattr(learned_opt.weights, "_bundled", lambda: {"mine": path})
    first = optimizer_named("mine").rule
    assert optimizer_named("mine").rule is first
    assert optimizer_named(str(path)).rule is first
    assert not any(weight.requires_grad for weight in first.parameters())


def test_what_a_caller_does_to_a_bundled_rule_changes_no_other(monkeypatch, path, rule):
    save_rule(rule, path)
    monkeypatch.setattr(learned_opt.weights, "_bundled", lambda: {"mine": path})
    shared = optimizer_named("mine").rule
    own = from_pretrained("mine")
    assert all(weight.requires_grad for weight in own.parameters())
    digest = rule_digest(own)
    own.double().to("meta")
    for other in (shared, optimizer_named("mine").rule, from_pretrained("mine")):
        assert (other.dtype, other.device.type) == (torch.float32, "cpu")
        assert rule_digest(other) == digest


def test_a_rule_read_from_a_path_is_the_callers_own(rule, path):
    save_rule(rule, path)
    first, second = from_pretrained(path), from_pretrained(str(path))
    assert first is not second
    assert all(weight.requires_grad for weight in first.parameters())


@pytest.mark.parametrize("name", list_pretrained())
def test_bundled_rules_load_and_say_where_they_come_from(name):
    assert isinstance(from_pretrained(name), UpdateRule)
    assert load_card(name)


@pytest.mark.parametrize("function", ["os.replace", "os.fsync", "os.open"])
def test_a_failed_write_leaves_the_old_file_whole_and_nothing_else(path, function, monkeypatch):
    save_rule(make_rule("adam"), path)
    before = path.read_bytes()
    module, name = function.split(".")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(getattr(learned_opt.files, module), name, full)
    with pytest.raises(OSError, match=r"rule\.safetensors: No space left on device"):
        save_rule(make_rule("lstm"), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"absent/rule\.safetensors"):
        save_rule(make_rule("adam"), tmp_path / "absent" / "rule.safetensors")


def test_a_rule_that_nobody_could_load_is_not_saved(path):
    class Mine(SGD):
        pass

    with pytest.raises(ValueError, match="Mine.*not registered"):
        save_rule(Mine(), path)
    assert not path.exists()

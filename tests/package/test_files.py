"""Files: damage is found, memory and time are bounded, modes and leftovers are as a shell's."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import make_rule, same
from safetensors import safe_open
from safetensors.torch import save, save_file

import learned_opt
from learned_opt import (
    LearnedOptimizer,
    from_pretrained,
    list_pretrained,
    load_card,
    load_rule,
    save_rule,
)
from learned_opt.adaptation import Initialization, load_initialization, save_initialization
from learned_opt.files import _open_temporary, read_tensors, write_atomically, write_tensors
from learned_opt.rules.per_tensor_rates import LayerStepRates, MetaSGD
from meta_train.runtime.checkpoint_files import read_checkpoint, write_checkpoint

ONE = [torch.nn.Parameter(torch.ones(1))]


def write_rule(folder):
    path = folder / "rule.safetensors"
    save_rule(make_rule("lstm", hidden_sizes=(2,)), path, {"task": "digits"})
    return path


def write_initialization(folder):
    path = folder / "start.safetensors"
    values = {"weight": torch.arange(4.0), "bias": torch.ones(1)}
    rule = LayerStepRates(shapes=[[4], [1]], steps=2)
    save_initialization(Initialization(values, rule=rule, lr=0.5, steps=3), path)
    return path


def write_one_checkpoint(folder):
    return write_checkpoint(folder, 1, {"weight": torch.arange(4.0)}, {"seconds": 12.5})


FILES = {
    "rule": (write_rule, load_rule),
    "card": (write_rule, load_card),
    "initialization": (write_initialization, load_initialization),
    "checkpoint": (write_one_checkpoint, read_checkpoint),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_change_of_any_bit_is_called_damage_in_one_short_line(kind, tmp_path):
    write, load = FILES[kind]
    path = write(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=path.name) as caught:
            load(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    path.write_bytes(content)
    load(path)


def test_the_digest_covers_header_and_tensors(tmp_path):
    path = write_rule(tmp_path)
    content = path.read_bytes()
    for old, new in ((b'\\"digits\\"', b'\\"digitz\\"'), (b"[2]", b"[3]"), (content[-4:], b"1234")):
        path.write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match="damaged: its content does not match its digest"):
            load_rule(path)


def test_equal_tensors_and_facts_make_equal_files(tmp_path):
    """safetensors itself writes the facts in random order."""
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.float64)}
    facts = {"z": 'ü " \n \x7f', "c": '{"digest":"no"}', "card": "", "m": "5"}
    contents = set()
    for k in range(20):
        write_tensors(tmp_path / f"{k}", tensors, "mine", facts)
        contents.add((tmp_path / f"{k}").read_bytes())
    (content,) = contents
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    assert list(header) == ["c", "card", "digest", "format", "m", "z"]
    loaded, metadata = read_tensors(tmp_path / "0", "mine", list(facts))
    assert metadata == {"format": "mine", **facts}
    assert {key: value.tolist() for key, value in loaded.items()} == {
        "a": [1.0, 1.0], "b": [0.0, 1.0, 2.0],
    }  # fmt: skip
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata()["z"] == facts["z"]
        assert file.get_tensor("b").tolist() == [0.0, 1.0, 2.0]


def test_files_without_a_digest_are_read(tmp_path):
    rule = make_rule("lstm", hidden_sizes=(2,))
    header = {"format": "learned_opt.rule", "version": "1", "rule": "lstm", "card": "{}"}
    header["settings"] = json.dumps(rule.settings)
    path = tmp_path / "old.safetensors"
    save_file(rule.state_dict(), path, metadata=header)
    assert same(dict(load_rule(path).state_dict()), dict(rule.state_dict()))
    # A damaged name of the digest does not make a file an old one.
    save_file(rule.state_dict(), path, metadata={**header, "dhgest": "0" * 64})
    with pytest.raises(ValueError, match="damaged: unknown header field 'dhgest'"):
        load_rule(path)


@pytest.mark.parametrize("write", [b"", b"x" * 100_000])
def test_what_was_loaded_stays_when_the_file_is_overwritten(write, tmp_path):
    # The values of a mapped file would change, or reading them would end the process.
    values = {"weight": torch.arange(50_000.0)}
    path = tmp_path / "start.safetensors"
    save_initialization(Initialization(values), path)
    loaded = load_initialization(path)
    tensors, _ = read_tensors(path, "learned_opt.adaptation.initialization",
                              ["version", "names", "facts", "card"])  # fmt: skip
    with path.open("r+b") as file:
        file.truncate(len(write))
        file.write(write)
    assert torch.equal(loaded.parameters["weight"], values["weight"])
    assert torch.equal(tensors["parameters/weight"], values["weight"])


def test_every_dtype_and_shape_survives_under_any_context(tmp_path):
    tensors = {
        str(dtype): torch.tensor([[0, 1], [1, 0]]).to(dtype)
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16,
                      torch.float32, torch.float64)
    } | {"empty": torch.zeros(0, 3), "number": torch.tensor(2.5)}  # fmt: skip
    write_tensors(tmp_path / "a", tensors, "mine", {"x": "y"})
    with torch.device("meta"), torch.inference_mode():
        read, metadata = read_tensors(tmp_path / "a", "mine", ["x"])
    assert metadata == {"format": "mine", "x": "y"}
    assert same(read, tensors)
    assert not any(tensor.is_inference() or tensor.is_meta for tensor in read.values())


# files that ask for more than they hold


def rule_file(path, name, settings, weights=None):
    header = {"version": "1", "rule": name, "settings": settings, "card": "{}"}
    write_tensors(path, weights or {}, "learned_opt.rule", header)
    return path


def initialization_file(path, name, settings, weights):
    facts = {"lr": None, "steps": 1, "rule": name, "settings": settings, "dtype": "float32"}
    header = {"version": "1", "names": "[]", "card": "{}", "facts": json.dumps(facts)}
    tensors = {f"rule/{key}": value for key, value in weights.items()}
    write_tensors(path, tensors, "learned_opt.adaptation.initialization", header)
    return path


LARGE = {
    "steps": ("layer-step-rates", {"shapes": [[1]], "steps": 500_000_000}, "settings make"),
    "shape": ("meta-sgd", {"shapes": [[30_000, 30_000]]}, "it lacks the weight rates.0"),
    "shapes": ("meta-sgd", {"shapes": [[1]] * 100_000}, "shapes of the rule has 100000 entries"),
    "layers": ("lstm", {"hidden_sizes": [1] * 200_000}, "sizes of the rule has 200000 entries"),
    "width": ("lstm", {"hidden_sizes": [40_000]}, "it lacks the weight head.bias"),
    "hidden": ("adam-lstm", {"hidden_size": 10**9}, "it lacks the weight|overflow"),
}


@pytest.mark.parametrize("case", LARGE)
def test_small_files_ask_for_little_memory_and_time(case, tmp_path):
    name, settings, message = LARGE[case]
    rates = {"rates": torch.zeros(1, 1)}
    path = initialization_file(tmp_path / "start.safetensors", name, settings, rates)
    began = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        load_initialization(path)
    assert time.monotonic() - began < 5
    assert str(path) in str(caught.value) and len(str(caught.value)) < 800


def test_many_layers_that_the_file_holds_are_loaded(tmp_path):
    shapes = [[2], []] * 100
    for rule in (MetaSGD(shapes=shapes), LayerStepRates(shapes=shapes, steps=1)):
        path = tmp_path / "start.safetensors"
        save_initialization(Initialization({}, rule=rule), path)
        assert same(load_initialization(path).rule.state_dict(), rule.state_dict())
    deep = make_rule("lstm", hidden_sizes=(1,) * 70)
    save_rule(deep, path)
    assert load_rule(path).settings == deep.settings


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adam-lstm", '{"hidden_size": "3"}', "hidden_size must be a whole number, got '3'"),
        ("adam-lstm", '{"hidden_size": 3.5}', "hidden_size must be a whole number, got 3.5"),
        ("adam-lstm", '{"hidden_size": true}', "hidden_size must be a whole number, got True"),
        ("adam-lstm", '{"hidden_size": 1e400}', "hidden_size must be a whole number, got inf"),
        (
            "adam-lstm",
            f'{{"hidden_size": 1{"0" * 300}}}',
            "setting hidden_size of the rule cannot be 1000",
        ),
        (
            "adam-lstm",
            '{"differentiate_inputs": 1}',
            "differentiate_inputs must be True or False, got 1",
        ),
        ("adam-lstm", '{"direction_gain": NaN}', "direction_gain must be a number, got nan"),
        ("lstm", '{"hidden_sizes": 3}', "hidden_sizes must be a list, got 3"),
        ("lstm", '{"hidden_sizes": [[3]]}', r"hidden_sizes\[0\] must be a whole number, got \[3\]"),
        ("lstm", f'{{"hidden_sizes": {"[" * 100_000}{"]" * 100_000}}}', "nested deeper than 32"),
        ("lstm", f'{{"hidden_sizes": {"[" * 40}{"]" * 40}}}', "nested deeper than 32"),
        ("adam", '{"betas": [0.9]}', r"betas must be a list of 2, got \[0.9\]"),
        ("adam", '{"eps": null}', "eps must be a number, got None"),
        ("orthogonal-momentum", '{"iterations": 1000000000}', "iterations must be from 1 to 100"),
        ("x" * 100_000, "{}", "unknown rule"),
    ],
)
def test_settings_of_wrong_type_or_range_are_refused(name, settings, message, tmp_path):
    path = rule_file(tmp_path / "rule.safetensors", name, settings)
    with pytest.raises(ValueError, match=message) as caught:
        load_rule(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 800


def test_weights_of_another_dtype_are_refused(tmp_path):
    rule = make_rule("lstm", hidden_sizes=(2,))
    for dtype, message in ((torch.int32, "dtype torch.int32"), (torch.float64, "have the dtypes")):
        weights = {**rule.state_dict(), "head.bias": torch.zeros(1, dtype=dtype)}
        path = rule_file(tmp_path / "a", "lstm", json.dumps(rule.settings), weights)
        with pytest.raises(ValueError, match=message):
            load_rule(path)


def test_deep_cards_are_refused(tmp_path):
    for depth in (40, 100_000):
        header = {"version": "1", "rule": "sgd", "settings": "{}"}
        header["card"] = f'{{"a": {"[" * depth}{"]" * depth}}}'
        write_tensors(tmp_path / "a", {}, "learned_opt.rule", header)
        with pytest.raises(ValueError, match="damaged card: lists are nested deeper than 32"):
            load_card(tmp_path / "a")


@pytest.mark.parametrize("facts", ["{", "3", "null", "[" * 100_000, '{"only": 3}'])
def test_bad_facts_of_an_initialization_are_refused(facts, tmp_path):
    header = {"version": "1", "names": "[]", "card": "{}", "facts": facts}
    path = tmp_path / "start.safetensors"
    write_tensors(path, {}, "learned_opt.adaptation.initialization", header)
    with pytest.raises(ValueError, match="start.safetensors holds no initialisation"):
        load_initialization(path)


def test_a_parameter_that_the_header_does_not_name_is_not_dropped(tmp_path):
    header = {"version": "1", "names": "[]", "card": "{}", "facts": '{"lr": null, "steps": 1}'}
    path = tmp_path / "start.safetensors"
    tensors = {"parameters/weight": torch.ones(2)}
    write_tensors(path, tensors, "learned_opt.adaptation.initialization", header)
    with pytest.raises(ValueError, match="not those that its header names"):
        load_initialization(path)


# modes, paths and leftovers


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are Unix's")
@pytest.mark.parametrize(("mask", "expected"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_a_new_file_obeys_the_umask_and_an_old_one_keeps_its_mode(mask, expected, tmp_path):
    before = os.umask(mask)
    try:
        path = write_rule(tmp_path)
        assert mode(path) == expected
        path.chmod(0o604)
        write_rule(tmp_path)
        assert mode(path) == 0o604
    finally:
        os.umask(before)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rule = make_rule("lstm", hidden_sizes=(2,))
    save_rule(rule, "~/rule", {"task": "digits"})
    assert [path.name for path in tmp_path.iterdir()] == ["rule"]
    weights = dict(rule.state_dict())
    assert same(dict(load_rule("~/rule").state_dict()), weights)
    assert same(dict(from_pretrained("~/rule").state_dict()), weights)
    assert same(dict(LearnedOptimizer(ONE, rule="~/rule").rule.state_dict()), weights)
    assert load_card("~/rule") == {"task": "digits"}
    save_initialization(Initialization({"a": torch.ones(1)}), "~/start")
    assert load_initialization("~/start").parameters["a"].tolist() == [1.0]
    write_atomically(Path("~/table.json"), b"{}")
    assert (tmp_path / "table.json").read_bytes() == b"{}"


KILLED = """
import os, signal, sys
from learned_opt.files import write_atomically
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(sys.argv[1], b"new")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is Unix's")
def test_what_a_killed_write_leaves_is_removed_by_the_next(tmp_path):
    path = tmp_path / "table[1].json"
    path.write_bytes(b"old")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    own = tmp_path / ".table[1].json.bak"
    own.write_bytes(b"mine")
    handle, in_use = _open_temporary(path)  # of another writer, at this moment
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert set(tmp_path.iterdir()) == {path, own, in_use}
    os.close(handle)
    write_atomically(path, b"newer")
    assert set(tmp_path.iterdir()) == {path, own}


def test_safetensors_of_others_are_no_rules(tmp_path):
    (tmp_path / "a").write_bytes(save({"a": torch.ones(1)}))
    with pytest.raises(ValueError, match="not of the format learned_opt.rule"):
        load_rule(tmp_path / "a")


@pytest.mark.parametrize("name", list_pretrained())
def test_bundled_weights_carry_their_digest(name, tmp_path):
    content = bytearray((Path(learned_opt.__file__).parent / f"pretrained/{name}.safetensors")
                        .read_bytes())  # fmt: skip
    content[-2] ^= 1
    (tmp_path / "changed").write_bytes(content)
    with pytest.raises(ValueError, match="does not match its digest"):
        load_rule(tmp_path / "changed")

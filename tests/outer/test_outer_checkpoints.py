"""Checkpoints: whole or absent, the last good ones kept, damage and full disks survived."""

import json
import math
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from test_trainer import make_trainer, weights

from learned_opt.files import write_tensors
from meta_train.outer.checkpoint import load_checkpoint
from meta_train.runtime.checkpoint_files import (
    FORMAT,
    list_checkpoints,
    put_aside,
    read_checkpoint,
    read_newest,
    write_checkpoint,
)

TENSORS = {"a": torch.arange(6.0), "b": torch.tensor(3)}


def newest(folder):
    """Path and facts of the newest intact checkpoint; damaged ones are put aside."""
    damaged = {}
    path, _, facts = read_newest(folder, damaged)
    put_aside(damaged, path)
    return path, facts


def damage(path):
    path.write_bytes(path.read_bytes()[:-4])


def test_what_is_written_is_read_and_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        write_checkpoint(tmp_path, step, TENSORS, {"step": step}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000002.safetensors",
        "step-00000010.safetensors",
    ]
    tensors, facts = read_checkpoint(list_checkpoints(tmp_path)[-1])
    assert facts == {"step": 10}
    assert all(torch.equal(value, TENSORS[key]) for key, value in tensors.items())


def test_facts_are_json_that_others_can_read(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_checkpoint(tmp_path, 1, TENSORS, {"best": math.inf})
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_passed_over_aloud_and_put_aside(tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step, TENSORS, {"step": step}, keep=3)
    damage(list_checkpoints(tmp_path)[-1])
    with pytest.warns(
        UserWarning, match=r"step-00000003\.safetensors is damaged.* continuing from"
    ):
        path, facts = newest(tmp_path)
    assert path.name == "step-00000002.safetensors"
    assert facts == {"step": 2}
    assert (tmp_path / "step-00000003.safetensors.damaged").exists()
    assert len(list_checkpoints(tmp_path)) == 2
    assert newest(tmp_path)[0] == path  # and no warning


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a tensor": lambda path: flip(path, -1),
    "a number": lambda path: flip(path, path.read_bytes().index(b"12.5")),
    "the name of a tensor": lambda path: flip(path, path.read_bytes().index(b"meta_parameters")),
    "no facts": lambda path: write_tensors(path, TENSORS, FORMAT, {}),
    "facts that are no JSON": lambda path: write_tensors(path, TENSORS, FORMAT, {"facts": "{"}),
    "a list of facts": lambda path: write_tensors(path, TENSORS, FORMAT, {"facts": "[3]"}),
    "deep facts": lambda path: write_tensors(path, TENSORS, FORMAT, {"facts": "[" * 100_000}),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_named_in_one_line_and_the_older_one_is_taken(damage, tmp_path):
    tensors = {"meta_parameters/a": torch.arange(6.0)}
    for step in (1, 2):
        write_checkpoint(tmp_path, step, tensors, {"seconds": 12.5, "step": step})
    DAMAGES[damage](list_checkpoints(tmp_path)[-1])
    with pytest.warns(UserWarning, match=r"step-00000002\.safetensors is damaged") as caught:
        path, facts = newest(tmp_path)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert path.name == "step-00000001.safetensors" and facts == {"seconds": 12.5, "step": 1}
    assert torch.equal(read_checkpoint(path)[0]["meta_parameters/a"], torch.arange(6.0))


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    write_checkpoint(tmp_path, 1, TENSORS, {})
    with pytest.raises(ValueError, match="step-00000001.safetensors is no checkpoint of a meta"):
        load_checkpoint(tmp_path, {}, {})


def test_if_all_are_damaged_the_newest_is_named_and_nothing_moved(tmp_path):
    for step in (1, 2):
        write_checkpoint(tmp_path, step, TENSORS, {})
        damage(list_checkpoints(tmp_path)[-1])
    with pytest.raises(ValueError, match="step-00000002"):
        newest(tmp_path)
    assert len(list_checkpoints(tmp_path)) == 2


def test_what_killed_saves_left_behind_is_removed(tmp_path):
    write_checkpoint(tmp_path, 1, TENSORS, {})
    (tmp_path / ".step-00000002.safetensors.x1y2").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert newest(tmp_path)[0].name == "step-00000001.safetensors"
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000001.safetensors", "notes.txt"}
    assert read_newest(tmp_path / "nowhere", {}) is None


def test_a_folder_that_is_set_after_the_trainer_was_made_gets_checkpoints(tmp_path):
    trainer = make_trainer(None)
    trainer.folder = tmp_path
    trainer.save()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000000.safetensors"
    ]
    again = make_trainer(None)
    again.folder = tmp_path
    assert again.resume()


def test_a_run_does_not_begin_in_the_folder_of_another(tmp_path):
    """Its checkpoints would be deleted as the older ones, and a resume would take the other's."""
    trainer = make_trainer(tmp_path)
    trainer.train(progress=False)
    before = sorted(path.read_bytes() for path in list_checkpoints(tmp_path / "checkpoints"))
    other = make_trainer(tmp_path)
    for begin in (other.train, other.save):
        with pytest.raises(ValueError, match=r"another run: call resume\(\) before train"):
            begin()
    assert before == sorted(p.read_bytes() for p in list_checkpoints(tmp_path / "checkpoints"))
    assert other.resume()
    assert other.outer_step == trainer.outer_step
    other.train(progress=False)
    trainer.train(progress=False)  # its own folder still


def test_a_run_that_moves_to_the_folder_of_another_is_refused(tmp_path):
    make_trainer(tmp_path / "other").train(progress=False)
    before = sorted(p.read_bytes() for p in list_checkpoints(tmp_path / "other/checkpoints"))
    trainer = make_trainer(tmp_path / "own")
    trainer.save()
    trainer.folder = tmp_path / "other"
    with pytest.raises(ValueError, match="is of another run"):
        trainer.save()
    assert before == sorted(
        p.read_bytes() for p in list_checkpoints(tmp_path / "other/checkpoints")
    )
    assert trainer.checkpoints.written_at == -1


def test_a_run_whose_newest_checkpoint_is_damaged_ends_the_same(tmp_path):
    unbroken = make_trainer(None)
    unbroken.train(progress=False)
    make_trainer(tmp_path, outer_steps=6).train(progress=False)
    damage(list_checkpoints(tmp_path / "checkpoints")[-1])
    resumed = make_trainer(tmp_path)
    with pytest.warns(UserWarning, match="damaged"):
        assert resumed.resume()
    assert resumed.outer_step == 4
    resumed.train(progress=False)
    for one, other in zip(weights(resumed), weights(unbroken), strict=True):
        assert torch.equal(one, other)


def without_digest(path, rename=lambda name: name):
    """Write a checkpoint as early versions did, perhaps with a tensor under another name."""
    tensors, facts = read_checkpoint(path)
    tensors = {rename(name): tensor for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "facts": json.dumps(facts)}
    path.write_bytes(safetensors.torch.save(tensors, metadata=metadata))


# One character of a name differs, as after a bit has flipped.
RENAMED = {
    "a weight": ("meta_parameters/rule.head.weight", "meta_parameters/rule.head.weighu"),
    "the best": ("best/rule.head.bias", "best/rule.head.bias!"),
    "an average": ("meta_optimizer/average/n_averaged", "meta_optimizer/average/n_averafed"),
    "a moment": ("meta_optimizer/optimizer/0/exp_avg", "meta_optimizer/optimizer/0/exp_awg"),
    "a weight's number": ("meta_optimizer/optimizer/1/step", "meta_optimizer/optimizer/q/step"),
    "another weight": ("meta_optimizer/optimizer/0/step", "meta_optimizer/optimizer/100/step"),
    "an inner parameter": ("inner/0/1/parameters/theta", "inner/0/1/parameters/thete"),
    "an inner state": ("inner/0/2/states/theta/m", "inner/0/2/states/theta/l"),
    "an end that was kept": ("inner/0/0/kept/0/alive", "inner/0/0/kept/0/alivd"),
    "a run": ("inner/0/1/alive", "inner/0-1/alive"),
    "a part": ("inner/0/1/alive", "innerr0/1/alive"),
    "a part's end": ("best/rule.head.bias", "best.rule.head.bias"),
}


@pytest.mark.parametrize("which", RENAMED)
def test_a_renamed_tensor_in_an_old_checkpoint_is_damage_and_the_older_one_is_taken(
    tmp_path, which
):
    settings = {"restart": 0.9, "horizons": (4,), "outer_steps": 6}
    make_trainer(tmp_path, **settings).train(progress=False)
    old, new = list_checkpoints(tmp_path / "checkpoints")
    before, after = RENAMED[which]
    assert before in read_checkpoint(new)[0]
    without_digest(old)
    without_digest(new, lambda name: after if name == before else name)
    resumed = make_trainer(tmp_path, **settings)
    with pytest.warns(UserWarning, match=r"step-00000006\.safetensors is damaged: ") as caught:
        assert resumed.resume()
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert resumed.outer_step == 4
    assert new.with_name("step-00000006.safetensors.damaged").exists()
    resumed.train(progress=False)
    unbroken = make_trainer(None, **settings)
    unbroken.train(progress=False)
    for one, other in zip(weights(resumed), weights(unbroken), strict=True):
        assert torch.equal(one, other)


def test_if_all_old_checkpoints_are_renamed_the_newest_is_named(tmp_path):
    make_trainer(tmp_path, outer_steps=6).train(progress=False)
    before, after = RENAMED["a weight"]
    for path in list_checkpoints(tmp_path / "checkpoints"):
        without_digest(path, lambda name: after if name == before else name)
    with pytest.raises(ValueError, match="step-00000006.safetensors is damaged"):
        make_trainer(tmp_path).resume()
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 2


def test_old_checkpoints_that_are_intact_are_resumed_without_a_word(tmp_path):
    make_trainer(tmp_path, outer_steps=6, meta_optimizer="rmsprop").train(progress=False)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        without_digest(path)
    resumed = make_trainer(tmp_path, outer_steps=6, meta_optimizer="rmsprop")
    assert resumed.resume() and resumed.outer_step == 6


def test_a_checkpoint_has_no_pickle_and_says_what_it_holds(tmp_path):
    trainer = make_trainer(tmp_path, restart=0.5, outer_steps=8)
    trainer.train(progress=False)
    tensors, facts = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    parts = {name.split("/")[0] for name in tensors}
    assert parts == {"meta_parameters", "best", "meta_optimizer", "inner"}
    assert any("/kept/0/" in name for name in tensors)
    assert any(name.startswith("meta_optimizer/optimizer/0/exp_avg") for name in tensors)
    assert facts["outer_step"] == 8
    assert facts["model_selection"]["best_value"] is None
    json.dumps(facts, allow_nan=False)


FULL_DISK = """
import contextlib, io, json, resource, signal, sys
from meta_train.jobs.cli import main

out = sys.argv[1]
job = ["--task", "quadratic", "--rule", "adam-lstm", "--rule_settings", '{"hidden_size": 3}',
       "--train.runs", "2", "--train.horizons", "[4]", "--train.truncation_length", "2",
       "--train.checkpoint_every", "1", "--train.gates_every", "5", "--evaluate.steps", "5",
       "--evaluate.seeds", "1", "--evaluate.workers", "1", "--device", "cpu",
       "--progress", "false", "--out", out]

def run(*more):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main([*job, *more])
    print(json.dumps([status, errors.getvalue()]))

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run("--train.outer_steps", "3")
limit(4000)  # room for the configuration, not for a checkpoint
run("--train.outer_steps", "6", "--resume", "true")
limit(resource.RLIM_INFINITY)
run("--train.outer_steps", "6", "--resume", "true")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits are set as on Unix")
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path):
    out = tmp_path / "run"
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert result.returncode == 0, result.stderr
    first, full, again = map(json.loads, result.stdout.splitlines())
    assert first == [0, ""]
    assert full[0] == 2
    last = full[1].strip().splitlines()[-1]
    assert last.startswith("python -m meta_train: error: ")
    assert f"could not write {out}/checkpoints/step-00000004.safetensors: File too large" in last
    assert again[0] == 0, again[1]
    names = [path.name for path in (out / "checkpoints").iterdir()]
    assert sorted(names) == ["step-00000005.safetensors", "step-00000006.safetensors"]

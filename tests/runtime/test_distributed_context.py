"""Several processes: the same meta-parameters as one, the same files, and ends in order."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from ranked_training import CASES, JOB, make_trainer, train_all

from learned_opt import create_rule
from learned_opt.files import read_tensors
from meta_train.evaluation.validation.task_validator import TaskValidator
from meta_train.jobs.cli import main
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.distributed import DistributedContext, joined
from meta_train.tasks import create_task

SCRIPT = str(Path(__file__).with_name("ranked_training.py"))
BOUND = 120

OWN_SCRIPT = """
import sys
import meta_train.runtime.distributed
from learned_opt import create_rule
from meta_train import MetaTrainer, TrainSettings, create_task

settings = TrainSettings(outer_steps=2, runs=2, horizons=(2,), truncation_length=2)
with meta_train.runtime.distributed.joined("cpu") as (distributed, device):
    trainer = MetaTrainer(
        create_rule("adam-lstm", hidden_size=3), create_task("quadratic"), settings,
        folder=sys.argv[1], device=device, distributed=distributed,
    )
    trainer.train(progress=False)
    print(f"rank {distributed.rank} of {distributed.size} trained", flush=True)
"""


def start(size, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={size}", *map(str, arguments)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # signals to all of them, as from a terminal
    )


def finish(processes):
    try:
        out, errors = processes.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired:
        os.killpg(processes.pid, signal.SIGKILL)
        raise
    return processes.returncode, out, errors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every case on 2, then on 1, then on 4 processes, into one folder."""
    folder = tmp_path_factory.mktemp("ranks")
    for size in (2, 1, 4):
        if size == 1:
            train_all(DistributedContext(), folder)
            continue
        status, _, errors = finish(start(size, SCRIPT, "all", folder))
        assert status == 0, errors
    return folder


def distance(left, right):
    pairs = [read_tensors(path, "test", [])[0] for path in (left, right)]
    return max(float((value - pairs[1][key]).abs().max()) for key, value in pairs[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", list(CASES))
def test_any_number_of_processes_gives_the_same_meta_parameters(trained, name, size):
    before = make_trainer(name, DistributedContext()).meta_parameters.state_dict()
    after = read_tensors(trained / f"{name}-1", "test", [])[0]
    assert max(float((after[key] - value).abs().max()) for key, value in before.items()) > 1e-3
    assert distance(trained / f"{name}-1", trained / f"{name}-{size}") < 1e-6


@pytest.mark.slow
def test_a_run_is_taken_on_by_other_numbers_of_processes(trained, tmp_path):
    unbroken = make_trainer("truncated", DistributedContext())
    for step in range(6):
        unbroken.take_outer_step()
        if step % 2:
            number = (2, 1, 4)[step // 2]
            saved = read_tensors(trained / f"taken-on-{number}", "test", [])[0]
            for key, value in unbroken.meta_parameters.state_dict().items():
                torch.testing.assert_close(saved[key], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_job_on_two_processes_leaves_the_files_of_one(tmp_path):
    status, out, errors = finish(start(2, "-m", "meta_train", *JOB, "--out", tmp_path / "two"))
    assert status == 0, errors
    assert out.count("run folder: ") == out.count("learned / best: mean") // 2 == 1
    assert main([*JOB, "--out", str(tmp_path / "one")]) == 0
    names = [{path.name for path in (tmp_path / n).iterdir()} for n in ("one", "two")]
    assert names[0] == names[1]
    assert len(list((tmp_path / "two" / "tensorboard" / "meta-training").iterdir())) == 1
    tables = [json.loads((tmp_path / n / "table.json").read_text()) for n in ("one", "two")]
    means = [table["columns"]["family"]["rows"][0]["mean_loss"] for table in tables]
    assert means[0] == pytest.approx(means[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("mistaken", "error: a mistake of process 1"),
        ("killed", "another process of this run ended"),
    ],
)
def test_a_process_that_fails_ends_all_and_the_checkpoint_stands(tmp_path, how, said):
    began = time.monotonic()
    status, _, errors = finish(start(2, SCRIPT, how, tmp_path / "run"))
    assert time.monotonic() - began < 60
    assert status != 0
    # Anywhere in a line: the other process's progress bar may stand before it.
    own = re.findall(r"python -m meta_train: .*", errors)
    assert len(own) == 1, errors
    assert said in own[0]
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name.startswith("step-00000002")
    with open(tmp_path / "run" / "config.yaml") as file:
        config = yaml.safe_load(file)
    task, cpu = create_task("quadratic"), torch.device("cpu")
    resumed = MetaTrainer(
        create_rule("adam-lstm", hidden_size=3),
        task,
        TrainSettings(**config["train"]),
        folder=tmp_path / "run",
        device=cpu,
        validate=TaskValidator(task.validation(), config["evaluate"]["steps"], cpu),
    )
    assert resumed.resume()
    resumed.train(progress=False)
    assert resumed.outer_step == 6


@pytest.mark.slow
def test_ctrl_c_and_bad_values_are_said_once(tmp_path):
    run = tmp_path / "run"
    more = ["--train.outer_steps", "100000", "--progress", "false"]
    processes = start(2, "-m", "meta_train", *JOB, *more, "--out", run)
    while not list_checkpoints(run / "checkpoints"):
        assert processes.poll() is None
        time.sleep(0.05)
    os.killpg(processes.pid, signal.SIGINT)
    status, _, errors = finish(processes)
    assert status != 0
    assert errors.count("stopped by SIG") == 1, errors

    status, _, errors = finish(start(2, "-m", "meta_train", *JOB, "--train.lr", "-1"))
    assert status != 0
    assert errors.count("lr must be positive, got -1") == 1, errors


def test_alone_everything_is_this_process():
    with joined("cpu") as (distributed, device):
        assert distributed == DistributedContext(0, 1)
        assert device.type == "cpu"
    assert distributed.gather("thing") == ["thing"]
    assert distributed.from_first(lambda: 3) == 3
    assert list(distributed.share(3)) == [0, 1, 2]


def test_runs_are_shared_evenly_and_none_is_lost():
    for size in (1, 2, 3, 4):
        shares = [list(DistributedContext(rank, size).share(7)) for rank in range(size)]
        assert sum(shares, []) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match="runs=2 cannot be shared by 3 processes"):
        DistributedContext(0, 3).share(2)


def trainer_of_a_script(**named):
    rule, task = create_rule("adam-lstm", hidden_size=3), create_task("quadratic")
    return MetaTrainer(rule, task, TrainSettings(outer_steps=1), device="cpu", **named)


def test_a_script_under_torchrun_that_does_not_join_is_told_what_to_write(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="torchrun started 2 processes.*joined") as refused:
        trainer_of_a_script()
    assert len(str(refused.value).splitlines()) == 1
    assert trainer_of_a_script(distributed=DistributedContext()).distributed.size == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert trainer_of_a_script().distributed.size == 1


@pytest.mark.slow
def test_a_script_joins_with_the_lines_that_it_is_told_to_write(tmp_path):
    script = tmp_path / "own.py"
    script.write_text(OWN_SCRIPT)
    status, out, errors = finish(start(2, script, tmp_path / "run"))
    assert status == 0, errors
    assert sorted(re.findall(r"rank \d of \d trained", out)) == [
        "rank 0 of 2 trained",
        "rank 1 of 2 trained",
    ]
    assert len(list((tmp_path / "run" / "tensorboard" / "meta-training").iterdir())) == 1

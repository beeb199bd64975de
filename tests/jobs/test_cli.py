"""The command line: help, config files, one-line errors, resume, and a whole small job."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from learned_opt import create_rule, from_pretrained, list_rules, load_card
from meta_train.estimators import list_estimators
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.jobs.cli import build_parser, main
from meta_train.outer.meta_optimizer import META_OPTIMIZERS, SCHEDULES
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.tasks import list_tasks

TINY = [
    "--task", "quadratic",
    "--rule_settings", '{"hidden_size": 3}',
    "--train.outer_steps", "4",
    "--train.runs", "2",
    "--train.horizons", "[4]",
    "--train.truncation_length", "2",
    "--train.checkpoint_every", "2",
    "--train.gates_every", "2",
    "--evaluate.steps", "5",
    "--evaluate.seeds", "2",
    "--evaluate.workers", "1",
    "--device", "cpu",
]  # fmt: skip


def test_the_job_leaves_everything_in_its_folder(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TINY, "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.yaml", "weights.safetensors", "table.json", "curves.png", "checkpoints",
        "tensorboard",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "learned / best" in printed
    assert max(len(line) for line in printed.splitlines() if str(out) not in line) <= 100
    data = json.loads((out / "table.json").read_text())
    assert len(data["columns"]) == 2
    assert data["columns"]["long"]["steps"] == 50
    assert from_pretrained(out / "weights.safetensors").settings["hidden_size"] == 3
    assert load_card(out / "weights.safetensors")["task"] == "quadratic"


def test_the_recorded_config_repeats_the_run(tmp_path):
    assert main([*TINY, "--out", str(tmp_path / "a")]) == 0
    config = tmp_path / "a" / "config.yaml"
    assert yaml.safe_load(config.read_text())["train"]["outer_steps"] == 4
    assert main(["--config", str(config), "--out", str(tmp_path / "b")]) == 0
    first, second = (
        json.loads((tmp_path / name / "table.json").read_text())["columns"] for name in "ab"
    )
    assert first == second


def test_a_run_is_not_overwritten_but_resumed_if_asked(tmp_path, capsys):
    arguments = [*TINY, "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*arguments, "--resume", "true"]) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as one does to free the disk
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--rule", "lstmm"], "did you mean 'lstm'"),
        (["--task", "digit-mlp"], "did you mean 'digits-mlp'"),
        (["--train.lr", "fast"], "train.lr must be of type float, got fast"),
        (["--train.dtype", "half"], "train.dtype must be one of 'float32', 'float64', got half"),
        (["--train.lr", "-1"], "lr must be positive, got -1"),
        (["--train.objective", "logg"], "did you mean 'log'"),
        (["--rule_settings", '{"hiden_size": 3}'], "did you mean 'hidden_size'"),
        (["--task_settings", '{"activation": "rellu"}'], "did you mean 'relu'"),
        (
            ["--rule_settings", '{"hidden_size": "abc"}'],
            "hidden_size must be a whole number, got 'abc'",
        ),
        (["--task_settings", '{"hidden": 5}'], "hidden must be a list, got 5"),
        (["--evaluate.workers", "-1"], "error: evaluate.workers must be at least 0, got -1"),
        (["--evaluate.steps", "0"], "error: evaluate.steps must be at least 1, got 0"),
        (["--train.lr", "-1"], "error: train.lr must be positive, got -1.0"),
        (["--evaluate.seeds", "0"], "error: evaluate.seeds must be at least 1, got 0"),
        (["--validate.steps", "0"], "error: validate.steps must be at least 1, got 0"),
        (["--validate.seeds", "0"], "error: validate.seeds must be at least 1, got 0"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--threads", "99999999"], "threads must be at most 1024, got 99999999"),
        (["few-shot", "--threads", "0"], "threads must be at least 1, got 0"),
        (["--device", "gpu0"], "gpu0"),
        (["--outer", "3"], "--outer"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--resume", "true"], "resume needs out"),
        (
            ["fewshot"],
            "unknown command 'fewshot'; did you mean 'few-shot'? "
            "(known: benchmark, explain, few-shot)",
        ),
        (["few_shot", "--help"], "unknown command 'few_shot'; did you mean 'few-shot'?"),
        (["train"], "unknown command 'train' (known: benchmark, explain, few-shot)"),
        (["--task", "nope"], "unknown task 'nope' (known: autoencoder, "),
        (["few-shot", "--row", "nope"], "'nope' (known: "),
    ],
)
def test_a_bad_value_gets_one_line_that_names_it(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert named in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_the_job_runs_on_a_gpu(tmp_path):
    assert main([*TINY, "--device", "cuda", "--out", str(tmp_path / "run")]) == 0


def test_help_names_everything_that_can_be_chosen():
    text = "".join(build_parser().format_help().split())  # names may be broken at a hyphen
    trainable = [name for name in list_rules() if list(create_rule(name).parameters())]
    names = [*trainable, *list_tasks(), *list_estimators(), *OBJECTIVES, *SCHEDULES]
    assert [name for name in [*names, *META_OPTIMIZERS] if name not in text] == []


def test_the_usage_names_the_other_commands():
    usage = build_parser().format_help().split("\n\n")[0]
    assert "python -m meta_train [few-shot | explain | benchmark]" in usage


def test_the_help_names_every_task_that_is_accepted():
    text = build_parser().format_help()
    help_of_task = "".join(text.partition("--task TASK")[2].partition("--task_settings")[0].split())
    for name in list_tasks(with_files=True):
        assert name in help_of_task, name


NESTED = """
task: mixture
task_settings:
  families:
    quadratic: {dimensions: 3}
    wide: {task: quadratic, dimensions: 5}
    random-mlp: {data: [digits], depth: [1, 1], width: [4, 5]}
  weights: [1, 1, 2]
rule_settings: {hidden_size: 3}
train:
  estimator: es
  estimator_settings: {sigma: 0.02, clip: 2.0}
  horizon_stages: [[2, 3], [4, 5]]
  imitate: adam
  imitate_weight: [0.5, 0.1]
  outer_steps: 3
  groups: 2
  runs: 2
  validate_every: 2
  gates_every: 2
evaluate: {steps: 3, seeds: 1, workers: 1}
device: cpu
"""


@pytest.mark.slow
def test_a_nested_configuration_of_a_family_of_families_runs_and_is_recorded(tmp_path, capsys):
    (tmp_path / "job.yaml").write_text(NESTED)
    out = tmp_path / "run"
    assert main(["--config", str(tmp_path / "job.yaml"), "--out", str(out)]) == 0
    recorded = yaml.safe_load((out / "config.yaml").read_text())
    given = yaml.safe_load(NESTED)
    assert recorded["task_settings"] == given["task_settings"]
    assert {key: recorded["train"][key] for key in given["train"]} == given["train"]
    titles = [c["title"] for c in json.loads((out / "table.json").read_text())["columns"].values()]
    assert any(title.startswith("wide: ") for title in titles)
    capsys.readouterr()
    assert main(["--config", str(out / "config.yaml"), "--out", str(out), "--resume", "true"]) == 0
    assert "meta-trained adam-lstm on mixture: 3 outer steps" in capsys.readouterr().out


def test_a_run_that_learns_nothing_says_so_in_one_line_and_is_saved(tmp_path, capsys):
    out = tmp_path / "run"
    useless = [
        "--train.outlier_factor",
        "1e-9",
        "--train.max_consecutive_skips",
        "3",
        "--progress",
        "false",
    ]
    assert main([*TINY, *useless, "--train.checkpoint_every", "1000", "--out", str(out)]) == 3
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "stopped after outer step 3: the last 3 meta-gradients" in error
    assert f"continue with --out {out} --resume true" in error
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == [
        "step-00000000.safetensors",
        "step-00000003.safetensors",
    ]


def test_resume_without_a_checkpoint_and_a_start_after_a_killed_first_save(tmp_path, capsys):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / ".step-00000001.safetensors.abc").write_bytes(b"half")
    assert main([*TINY, "--out", str(out), "--resume", "true"]) == 2
    assert "start the run without --resume" in capsys.readouterr().err
    assert main([*TINY, "--out", str(out)]) == 0


def test_help_documents_every_setting():
    result = subprocess.run(
        [sys.executable, "-m", "meta_train", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    )
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "--train.outer_steps" in result.stdout
    assert "Unvalidated" not in result.stdout  # a type that jsonargparse could not resolve
    for setting in result.stdout.split("\n  --")[1:]:
        assert len(setting.split()) > 5, setting


FEW_SHOT = [
    *("few-shot", "--row", "anil", "--outer_steps", "4", "--episodes", "3", "--device", "cpu"),
    *("--row_settings", '{"inner_lr": 0.02}', "--progress", "false"),
]


@pytest.mark.parametrize("command", [TINY, FEW_SHOT], ids=["main", "few-shot"])
@pytest.mark.parametrize("resume", [["--resume", "true"], ["--resume=true"], ["--resume"]])
def test_a_run_is_resumed_with_its_own_settings_as_it_says(command, resume, tmp_path, capsys):
    out = tmp_path / "a run"
    assert main([*command, "--out", str(out)]) == 0
    before = yaml.safe_load((out / "config.yaml").read_text())
    few_shot = ["few-shot"] if command is FEW_SHOT else []
    assert main([*few_shot, *resume, "--out", str(out)]) == 0
    assert yaml.safe_load((out / "config.yaml").read_text()) == before
    further = "--outer_steps" if few_shot else "--train.outer_steps"
    assert main([*few_shot, "--out", str(out), further, "6", *resume]) == 0
    assert list_checkpoints(out / "checkpoints")[-1].name == "step-00000006.safetensors"
    changed = ["--row_settings", '{"inner_lr": 0.03}'] if few_shot else ["--train.lr", "0.5"]
    assert main([*few_shot, "--out", str(out), *changed, *resume]) == 2
    assert "was made with" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", [TINY, FEW_SHOT], ids=["main", "few-shot"])
def test_the_advice_after_sigterm_works(command, tmp_path):
    few_shot = ["few-shot"] if command is FEW_SHOT else []
    steps = "--outer_steps" if few_shot else "--train.outer_steps"
    started = subprocess.Popen(
        [sys.executable, "-m", "meta_train", *command, steps, "100000", "--out", "a run"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    while not list_checkpoints(tmp_path / "a run" / "checkpoints"):
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    error = started.communicate(timeout=60)[1]
    assert started.returncode == 130
    advice = error.strip().splitlines()[-1].rpartition(" with ")[2]
    assert advice == "--out 'a run' --resume true"
    done = int(re.search(r"after outer step (\d+)", error)[1])
    subprocess.run(
        [sys.executable, "-m", "meta_train", *few_shot, *shlex.split(advice), steps, str(done + 1)],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def hear_ctrl_c():
    """Tests that a shell started in the background ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number", "delay"),
    [
        *((os.killpg, signal.SIGINT, delay) for delay in (0.0, 0.2, 1.0, 5.0)),
        *((os.kill, signal.SIGTERM, delay) for delay in (0.0, 1.0)),
        (os.killpg, signal.SIGTERM, 1.0),
    ],
)
def test_a_signal_ends_the_comparison_at_once_and_in_one_line(send, number, delay, tmp_path):
    long = ["--evaluate.steps", "5000", "--evaluate.workers", "2", "--progress", "false"]
    started = subprocess.Popen(
        [sys.executable, "-u", "-m", "meta_train", *TINY, *long, "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the workers, too.
        preexec_fn=hear_ctrl_c,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    while "were skipped" not in (line := started.stdout.readline()):
        assert line, started.stderr.read()
    time.sleep(delay)
    began = time.monotonic()
    send(started.pid, number)
    error = started.communicate(timeout=60)[1].strip()
    assert time.monotonic() - began < 10
    assert started.returncode == 130
    assert error == f"stopped at once; continue with --out {tmp_path / 'run'} --resume true"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_ctrl_c_while_modules_are_imported_ends_at_once_and_in_one_line(delay, tmp_path):
    """Some modules swallow the exception while they are imported, and stay half made."""
    out = ["--out", str(tmp_path / "run")]
    started = subprocess.Popen(
        [sys.executable, "-m", "meta_train", *TINY, *out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    while "libtorch" not in Path(f"/proc/{started.pid}/maps").read_text():
        time.sleep(0.01)
    time.sleep(delay)
    started.send_signal(signal.SIGINT)
    output, error = started.communicate(timeout=60)
    assert (started.returncode, output) == (130, "")
    assert error.strip() == "stopped before anything began"
    assert not (tmp_path / "run").exists()

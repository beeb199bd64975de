"""`python -m meta_train benchmark`: bad input is one line, and a second call continues."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS
from meta_train.evaluation.benchmark.games import GAMES
from meta_train.evaluation.benchmark.records import Records
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.jobs import cli
from meta_train.jobs.benchmark import job
from meta_train.jobs.benchmark.cli import parse
from meta_train.jobs.benchmark.job import make_plan

ROOT = Path(__file__).parents[3]
SMALL = [
    "benchmark", "--quick", "--tasks", "logistic", "cart-pole", "--optimizers", "sgd",
    "adamw-cosine", "--trials", "2", "--seeds", "1", "--workers", "1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "logistc"], "unknown task 'logistc'; did you mean 'logistic'?"),
        (["--optimizers", "adam-w"], "unknown optimizer 'adam-w'; did you mean"),
        (["--optimizer", "no_module:make"], "cannot import 'no_module'"),
        (["--optimizer", "json"], "--optimizer takes module:function, got 'json'"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--seeds", "1001"], "--seeds must be at most 1000, got 1001"),
        (["--again", "mon"], "--again mon: it is none of the optimizers of this call"),
        (
            ["--optimizers", "muon", "adamw-cosine", "--again", "sgd"],
            "--again sgd: it is none of the optimizers of this call",
        ),
        (["--trials", "1"], "--trials must be at least 2, got 1"),
        (["--workers", "-1"], "--workers must be at least 1, got -1"),
        (["--length", "0"], "--length must be from 0.1 to 1000, got 0.0"),
        (["--length", "nan"], "length must be of type float, got nan"),
        (["--seeds", "two"], "seeds"),
        (["--config", "file.yaml"], "--config"),
        (["--wrong"], "--wrong"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["benchmark", *arguments])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m meta_train benchmark: error: ")
    assert message in line


def test_ctrl_c_names_the_folder_to_continue_with(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_all", interrupted)
    assert cli.main([*SMALL, "--out", str(tmp_path / "some results")]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    folder = shlex.quote(str(tmp_path / "some results"))
    assert last == f"stopped; the same command with --out {folder} continues"


def test_an_own_optimizer_that_cannot_be_built_ends_the_benchmark_at_once(tmp_path, capsys):
    out = tmp_path / "results"
    arguments = ["--tasks", "logistic", "--optimizer", "json:dumps", "--out", str(out)]
    assert cli.main(["benchmark", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: on task logistic, json:dumps(model, steps) fails: TypeError" in line
    assert not out.exists()


def test_a_file_cannot_name_a_function_to_import(tmp_path, monkeypatch, capsys):
    (tmp_path / "evil_benchmark.py").write_text('open("made", "w").close()\ndef make(m, n): ...\n')
    (tmp_path / "job.yaml").write_text("optimizer: [evil_benchmark:make]\nquick: true\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for command in (["benchmark", "--config", "job.yaml"], ["--config", "job.yaml"]):
        with pytest.raises(SystemExit) as end:
            cli.main(command)
        assert end.value.code == 2
    assert not (tmp_path / "made").exists()


def test_all_is_run_unless_something_is_named():
    plan = make_plan(parse([]))
    assert [task.name for task in plan.tasks] == list(TASKS)
    assert [game.name for game in plan.games] == list(GAMES)
    names = [contestant.name for contestant in plan.contestants]
    assert names[0] == "orthogonal-momentum" and set(names[1:]) <= set(CONTESTANTS)
    assert (plan.seeds, plan.trials, plan.sensitivity) == (5, 14, True)
    quick = make_plan(parse(["--quick"]))
    assert len(quick.tasks) == 6 and quick.tasks[0].steps == TASKS["mnist1d-conv"].steps // 4
    assert (quick.seeds, quick.trials, quick.sensitivity) == (2, 5, False)


def test_a_task_that_is_named_twice_is_run_and_shown_once():
    plan = make_plan(parse(["--tasks", "pinn", "logistic", "pinn"]))
    assert [task.name for task in plan.tasks] == ["pinn", "logistic"]


def test_tasks_can_be_longer_and_games_keep_their_steps():
    plan = make_plan(parse(["--tasks", "logistic", "pinn", "cart-pole", "--length", "10"]))
    assert plan.steps() == {"logistic": 10000, "pinn": 20000, "cart-pole": 500}
    plan = make_plan(parse(["--quick", "--tasks", "pinn", "--length", "0.5"]))
    assert plan.steps() == {"pinn": 1000}


def test_a_second_call_runs_only_what_is_missing(tmp_path, capsys):
    out = ["--out", str(tmp_path / "results")]
    assert cli.main([*SMALL, *out]) == 0
    captured = capsys.readouterr()
    assert "AdamW, cosine, tuned" in captured.out
    assert max(map(len, captured.out.splitlines()[:-4])) <= 80  # then come paths
    assert f"All tables:\n  {tmp_path / 'results' / 'benchmark.md'}\n" in captured.out
    assert f"Picture:\n  {tmp_path / 'results' / 'benchmark.png'}\n" in captured.out
    assert "[1/" in captured.err
    folder = tmp_path / "results"
    assert sorted(path.name for path in folder.iterdir()) == [
        "benchmark.json", "benchmark.md", "benchmark.png",
    ]  # fmt: skip
    assert "| AdamW, cosine, tuned " in (folder / "benchmark.md").read_text()
    before = (folder / "benchmark.json").read_bytes()
    assert cli.main([*SMALL, *out]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1  # nothing was run
    assert (folder / "benchmark.json").read_bytes() == before
    assert cli.main([*SMALL, *out, "--again", "sgd"]) == 0
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines and all(", sgd (" in line for line in lines)
    fewer = [*SMALL[: SMALL.index("--optimizers")], "--optimizers", "nadamw", *out]
    assert cli.main(fewer) == 0
    lines = capsys.readouterr().err.splitlines()
    counts = [line[1 : line.index("]")].split("/") for line in lines if line.startswith("[")]
    assert counts and all(int(done) <= int(wanted) for done, wanted in counts)
    assert cli.main([word for word in [*SMALL, *out] if word != "--quick"]) == 2
    assert "was measured with another steps 'logistic'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("RuntimeError('not today')", "RuntimeError: not today"),
        ("KeyError('lr')", "KeyError: it lacks 'lr'"),
    ],
)
def test_an_optimizer_that_raises_is_a_failed_run(error, said, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "my_failing", raising=False)
    (tmp_path / "my_failing.py").write_text(
        "import torch\n"
        "class Failing(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n"
        f"        raise {error}\n"
        "def make(model, steps):\n"
        "    return Failing(model.parameters(), lr=0.1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [word for word in SMALL if word != "cart-pole"]
    out = tmp_path / "results"
    given = [*arguments, "--optimizer", "my_failing:make", "--out", str(out)]
    assert cli.main(given) == 0
    assert f"seed 0: failed: {said}" in capsys.readouterr().err
    assert said in (out / "benchmark.md").read_text()
    assert any(
        key.optimizer == "my_failing:make" for key, _ in Records(out / "benchmark.json", {}).items()
    )


@pytest.mark.slow
def test_several_processes_measure_the_same(tmp_path):
    found = []
    for workers in ("1", "2"):
        words = [*SMALL[:-1], workers, "--out", str(tmp_path / workers)]
        result = subprocess.run(
            [sys.executable, "-m", "meta_train", *words], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        records = Records(tmp_path / workers / "benchmark.json", {})
        found.append({key: _figures(result) for key, result in records.items()})
    assert found[0] == found[1]


def _figures(result):
    """What does not depend on the machine's speed."""
    names = ("losses", "error", "diverged", "figure", "works")
    return {name: value for name, value in vars(result).items() if name in names}

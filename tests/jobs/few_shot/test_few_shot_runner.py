"""Few-shot methods that stop, resume, or begin with the result of another method."""

import os
import shlex
import signal

import torch
from few_shot_cases import SMALL_SINE, TINY, results_of, take_made_up

from learned_opt.adaptation import load_initialization
from meta_train.jobs.cli import main
from meta_train.jobs.few_shot import runner
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.tasks.episodes.sine import Sine

CPU = torch.device("cpu")


def test_a_resumed_method_equals_the_unbroken_one(tmp_path):
    given = [*TINY, *SMALL_SINE, "--row", "anil"]
    given[2] = "6"
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    train = ["--train", '{"runs": 3, "schedule": "constant", "checkpoint_every": 2}']
    assert main([*given, *train, "--out", str(unbroken)]) == 0
    assert main([*given, *train, "--outer_steps", "4", "--out", str(broken)]) == 0
    assert main([*given, *train, "--out", str(broken), "--resume", "true"]) == 0
    assert results_of(broken)["anil"]["results"] == results_of(unbroken)["anil"]["results"]
    assert list_checkpoints(broken / "checkpoints")


def test_an_interrupted_method_says_how_to_resume(tmp_path, capsys, monkeypatch):
    from meta_train.outer.trainer import MetaTrainer

    take = MetaTrainer.take_outer_step

    def interrupted(self, **how):
        if self.outer_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, **how)

    monkeypatch.setattr(MetaTrainer, "take_outer_step", interrupted)
    out = tmp_path / "run"
    assert main([*TINY, *SMALL_SINE, "--out", str(out)]) == 130
    again = capsys.readouterr().err.split("continue with ")[1].split()
    monkeypatch.setattr(MetaTrainer, "take_outer_step", take)
    assert main(["few-shot", *again]) == 0  # word for word
    assert results_of(out)["maml"]["outer_steps"] == 3


def test_a_method_begins_with_the_result_of_another(tmp_path, capsys):
    small = ["--task_settings", '{"hidden": [4]}', "--steps", "[0, 1]"]
    still = ["--train", '{"runs": 2, "lr": 1e-12}', "--row", "learned-gated-lstm"]
    assert main([*TINY, *small, *still, "--out", str(tmp_path / "a")]) == 0
    found = results_of(tmp_path / "a")["learned-gated-lstm"]
    assert found["begins_with"]["row"] == "maml"
    own = load_initialization(tmp_path / "a" / "initialization.safetensors").parameters
    assert main([*TINY, *small, "--row", "maml", "--out", str(tmp_path / "b")]) == 0
    maml = tmp_path / "b" / "initialization.safetensors"
    for key, value in load_initialization(maml).parameters.items():
        torch.testing.assert_close(own[key], value)
        assert not torch.equal(value, Sine(hidden=(4,), shots=1, queries=1).template()[key])
    # The same from the file. A resumed run keeps what it began with.
    given = [*TINY, *small, *still, "--begin", str(maml), "--out", str(tmp_path / "c")]
    assert main(given) == 0
    assert results_of(tmp_path / "c")["learned-gated-lstm"]["results"] == found["results"]
    assert not (tmp_path / "c" / "maml").exists()
    again = [*TINY, *small, *still, "--out", str(tmp_path / "a"), "--resume", "true"]
    assert main(again) == 0
    assert results_of(tmp_path / "a")["learned-gated-lstm"]["results"] == found["results"]
    capsys.readouterr()
    wide = ["--task_settings", '{"hidden": [5]}', "--out", str(tmp_path / "d")]
    assert main([*TINY, *wide, *still, "--begin", str(maml)]) == 2
    error = capsys.readouterr().err
    assert "'body.0.weight' is [4, 1] in the initialisation to begin with" in error
    assert not (tmp_path / "d").exists()


def test_a_method_begins_with_the_jobs_own_result_in_any_order(tmp_path):
    found = []
    for rows in ("maml,learned-gated-lstm", "learned-gated-lstm,maml"):
        out = tmp_path / rows
        given = [*TINY, *SMALL_SINE, "--row", rows, "--steps", "[1]", "--out", str(out)]
        assert main(given) == 0
        assert not (out / "learned-gated-lstm" / "maml").exists()
        for name in ("maml", "learned-gated-lstm"):
            found.append(load_initialization(out / name / "initialization.safetensors").parameters)
    for key in found[0]:
        assert torch.equal(found[0][key], found[2][key]) and torch.equal(
            found[1][key], found[3][key]
        )


def test_an_interruption_before_the_method_itself_starts_can_be_resumed(tmp_path, monkeypatch):
    from meta_train.outer.trainer import MetaTrainer

    take = MetaTrainer.take_outer_step

    def interrupted(self, **how):
        os.kill(os.getpid(), signal.SIGTERM)
        return take(self, **how)

    given = [*TINY, *SMALL_SINE, "--row", "learned-gated-lstm", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(MetaTrainer, "take_outer_step", interrupted)
    assert main(given) == 130
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(MetaTrainer, "take_outer_step", take)
    assert main([*given, "--resume", "true"]) == 0
    assert (tmp_path / "run" / "initialization.safetensors").exists()


def test_a_used_method_of_the_job_is_not_trained_again(tmp_path, monkeypatch):
    take_made_up(monkeypatch)
    names = ["fine-tuning", "nearest-neighbour"]
    monkeypatch.setattr("meta_train.few_shot.settings.list_methods", lambda sine: names)
    given = [*TINY, "--data", "omniglot", "--row", "all", "--ways", "3", "--queries", "2"]
    given += ["--test_queries", "3", "--task_settings", '{"hidden": 4}', "--train", '{"runs": 2}']
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "nearest-neighbour" / "fine-tuning").exists()
    left = [
        load_initialization(tmp_path / "run" / name / "initialization.safetensors")
        for name in names
    ]
    assert torch.equal(left[0].parameters["body.0.weight"], left[1].parameters["body.0.weight"])


def test_a_resumed_job_keeps_results_that_it_has_not_repeated(tmp_path, monkeypatch):
    given = [*TINY, *SMALL_SINE, "--row", "maml,anil", "--steps", "[1]"]
    out = tmp_path / "run"
    assert main([*given, "--out", str(out)]) == 0
    before = results_of(out)
    monkeypatch.setattr(
        "meta_train.jobs.few_shot.job.evaluate_trained", lambda *_: (_ for _ in ()).throw(OSError)
    )
    assert main([*given, "--out", str(out), "--resume", "true"]) == 2
    assert results_of(out) == before


def test_a_run_at_its_time_limit_takes_no_step_when_resumed(tmp_path):
    given = [*TINY, *SMALL_SINE, "--max_minutes", "0.005", "--out", str(tmp_path / "run")]
    given[given.index("--outer_steps") + 1] = "100000"
    assert main(given) == 0
    before = results_of(tmp_path / "run")
    assert 0 < before["maml"]["outer_steps"] < 100_000
    assert main([*given, "--resume", "true"]) == 0
    assert results_of(tmp_path / "run") == before


def test_an_interruption_of_testing_says_how_to_resume(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    out = tmp_path / "a folder"
    with monkeypatch.context() as patch:
        patch.setattr("meta_train.jobs.few_shot.job.evaluate_trained", interrupted)
        assert main([*TINY, *SMALL_SINE, "--out", str(out)]) == 130
    again = shlex.split(capsys.readouterr().err.split("continue with ")[1])
    assert main(["few-shot", *again]) == 0  # word for word
    assert results_of(out)["maml"]["outer_steps"] == 3
    with monkeypatch.context() as patch:
        patch.setattr("meta_train.jobs.few_shot.runner.make_trainer", interrupted)
        assert main([*TINY, *SMALL_SINE, "--out", str(tmp_path / "b")]) == 130
    assert "stopped before there was anything to continue" in capsys.readouterr().err


def test_a_run_remembers_what_it_began_with(tmp_path, capsys):
    maml = ["--row", "maml", "--out", str(tmp_path / "maml")]
    assert main([*TINY, *SMALL_SINE, *maml]) == 0
    start = tmp_path / "maml" / "initialization.safetensors"
    given = [*TINY, *SMALL_SINE, "--row", "anil", "--out", str(tmp_path / "run")]
    assert main([*given, "--begin", str(start)]) == 0
    before = results_of(tmp_path / "run")
    assert before["anil"]["begins_with"] == {"file": str(start)}
    start.unlink()
    for further in ([], ["--begin", str(start)]):
        assert main([*given, *further, "--resume", "true"]) == 0
        assert results_of(tmp_path / "run") == before
    other = str(tmp_path / "other.safetensors")
    assert main([*given, "--begin", other, "--resume", "true"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"began with {start} and continues" in told and f"without --begin {other}" in told
    plain = [*TINY, *SMALL_SINE, "--row", "maml", "--out", str(tmp_path / "maml")]
    assert main([*plain, "--begin", other, "--resume", "true"]) == 2
    assert "began without --begin" in " ".join(capsys.readouterr().err.split())


def test_a_run_cut_off_before_its_first_checkpoint_starts_correctly(tmp_path, monkeypatch):
    given = [*TINY, *SMALL_SINE, "--row", "maml-further"]
    assert main([*given, "--out", str(tmp_path / "whole")]) == 0
    make = runner.make_trainer

    def make_and_fail(name, *rest):
        trainer = make(name, *rest)
        if name == "maml-further":
            trainer.train = lambda **_: (_ for _ in ()).throw(OSError(28, "no space"))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(runner, "make_trainer", make_and_fail)
        assert main([*given, "--out", str(tmp_path / "cut")]) == 2
    assert main([*given, "--out", str(tmp_path / "cut"), "--resume", "true"]) == 0
    found, expected = (results_of(tmp_path / name)["maml-further"] for name in ("cut", "whole"))
    assert found["results"] == expected["results"]
    assert found["begins_with"]["row"] == "maml"

"""Few-shot jobs that are broken off, go on, or begin with what others have learned."""

import os
import shlex
import shutil
import signal

import torch
from few_shot_cases import SMALL_SINE, TINY, rows_of, take_made_up

from learned_opt.adaptation import load_initialization
from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.cli import main
from meta_train.jobs.few_shot import runner
from meta_train.jobs.few_shot.folders import job_folder
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.tasks.episodes.sine import Sine

CPU = torch.device("cpu")


def test_a_resumed_row_is_the_unbroken_one(tmp_path):
    given = [*TINY, *SMALL_SINE, "--row", "anil"]
    given[2] = "6"
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    train = ["--train", '{"runs": 3, "schedule": "constant", "checkpoint_every": 2}']
    assert main([*given, *train, "--out", str(unbroken)]) == 0
    assert main([*given, *train, "--outer_steps", "4", "--out", str(broken)]) == 0
    assert main([*given, *train, "--out", str(broken), "--resume", "true"]) == 0
    assert rows_of(broken)["anil"]["results"] == rows_of(unbroken)["anil"]["results"]
    assert list_checkpoints(broken / "checkpoints")


def test_an_interrupted_row_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    from meta_train.outer.trainer import MetaTrainer

    take = MetaTrainer.take_outer_step

    def interrupted(self, **how):
        if self.outer_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, **how)

    monkeypatch.setattr(MetaTrainer, "take_outer_step", interrupted)
    out = tmp_path / "run"
    assert main([*TINY, *SMALL_SINE, "--out", str(out)]) == 130
    again = capsys.readouterr().err.split("go on with ")[1].split()
    monkeypatch.setattr(MetaTrainer, "take_outer_step", take)
    assert main(["few-shot", *again]) == 0  # word for word
    assert rows_of(out)["maml"]["outer_steps"] == 3


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main([*TINY, *SMALL_SINE, *out]) == 0
    assert main([*TINY, *SMALL_SINE, *out]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*TINY, *SMALL_SINE, "--out", str(tmp_path / "b"), "--resume", "true"]) == 2
    assert "there is no checkpoint to resume from" in capsys.readouterr().err


def test_a_row_begins_with_what_another_has_learned(tmp_path, capsys):
    small = ["--task_settings", '{"hidden": [4]}', "--steps", "[0, 1]"]
    still = ["--train", '{"runs": 2, "lr": 1e-12}', "--row", "learned-gated-lstm"]
    assert main([*TINY, *small, *still, "--out", str(tmp_path / "a")]) == 0
    found = rows_of(tmp_path / "a")["learned-gated-lstm"]
    assert found["begins_with"]["row"] == "maml"
    own = load_initialization(tmp_path / "a" / "initialization.safetensors").parameters
    assert main([*TINY, *small, "--row", "maml", "--out", str(tmp_path / "b")]) == 0
    maml = tmp_path / "b" / "initialization.safetensors"
    for key, value in load_initialization(maml).parameters.items():
        torch.testing.assert_close(own[key], value)
        assert not torch.equal(value, Sine(hidden=(4,), shots=1, queries=1).template()[key])
    # The same from the file; and a resumed run takes the first part as it is.
    given = [*TINY, *small, *still, "--begin", str(maml), "--out", str(tmp_path / "c")]
    assert main(given) == 0
    assert rows_of(tmp_path / "c")["learned-gated-lstm"]["results"] == found["results"]
    assert not (tmp_path / "c" / "maml").exists()
    again = [*TINY, *small, *still, "--out", str(tmp_path / "a"), "--resume", "true"]
    assert main(again) == 0
    assert rows_of(tmp_path / "a")["learned-gated-lstm"]["results"] == found["results"]
    capsys.readouterr()
    wide = ["--task_settings", '{"hidden": [5]}', "--out", str(tmp_path / "d")]
    assert main([*TINY, *wide, *still, "--begin", str(maml)]) == 2
    error = capsys.readouterr().err
    assert "'body.0.weight' is [4, 1] in the initialisation to begin with" in error
    assert not (tmp_path / "d").exists()


def test_a_row_begins_with_the_jobs_own_whatever_the_order(tmp_path):
    phis = []
    for rows in ("maml,learned-gated-lstm", "learned-gated-lstm,maml"):
        out = tmp_path / rows
        given = [*TINY, *SMALL_SINE, "--row", rows, "--steps", "[1]", "--out", str(out)]
        assert main(given) == 0
        assert not (out / "learned-gated-lstm" / "maml").exists()
        for name in ("maml", "learned-gated-lstm"):
            phis.append(load_initialization(out / name / "initialization.safetensors").parameters)
    for key in phis[0]:
        assert torch.equal(phis[0][key], phis[2][key]) and torch.equal(phis[1][key], phis[3][key])


def test_an_interruption_before_the_row_itself_has_begun_can_be_resumed(tmp_path, monkeypatch):
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


def test_a_row_that_uses_another_of_the_job_does_not_train_it_again(tmp_path, monkeypatch):
    take_made_up(monkeypatch)
    names = ["fine-tuning", "nearest-neighbour"]
    monkeypatch.setattr("meta_train.few_shot.settings.list_rows", lambda sine: names)
    given = [*TINY, "--data", "omniglot", "--row", "all", "--ways", "3", "--queries", "2"]
    given += ["--test_queries", "3", "--task_settings", '{"hidden": 4}', "--train", '{"runs": 2}']
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "nearest-neighbour" / "fine-tuning").exists()
    left = [
        load_initialization(tmp_path / "run" / name / "initialization.safetensors")
        for name in names
    ]
    assert torch.equal(left[0].parameters["body.0.weight"], left[1].parameters["body.0.weight"])


def test_another_run_in_the_folder_is_not_gone_on_with(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main([*TINY, *SMALL_SINE, "--row", "maml,anil", "--steps", "[1]", *out]) == 0
    assert main([*TINY, *SMALL_SINE, *out, "--resume", "true"]) == 2  # one row: maml
    assert "is not of a job of --row maml: go on with --config" in capsys.readouterr().err
    assert main([*TINY, *SMALL_SINE, "--row", "maml", "--out", str(tmp_path / "one")]) == 0
    other = ["--row", "maml", "--out", str(tmp_path / "one"), "--resume", "true"]
    for change, named in (("--shots", "task.shots=10, not 5"), ("--seed", "seed=0, not 5")):
        assert main([*TINY, *SMALL_SINE, *other, change, "5"]) == 2
        assert named in capsys.readouterr().err


def test_a_resumed_job_keeps_the_rows_that_it_has_not_come_to_again(tmp_path, monkeypatch):
    given = [*TINY, *SMALL_SINE, "--row", "maml,anil", "--steps", "[1]"]
    out = tmp_path / "run"
    assert main([*given, "--out", str(out)]) == 0
    before = rows_of(out)
    monkeypatch.setattr(
        "meta_train.jobs.few_shot.job.judge", lambda *_: (_ for _ in ()).throw(OSError)
    )
    assert main([*given, "--out", str(out), "--resume", "true"]) == 2
    assert rows_of(out) == before


def test_a_run_that_time_has_ended_takes_no_further_step_when_it_is_resumed(tmp_path):
    given = [*TINY, *SMALL_SINE, "--max_minutes", "0.005", "--out", str(tmp_path / "run")]
    given[given.index("--outer_steps") + 1] = "100000"
    assert main(given) == 0
    before = rows_of(tmp_path / "run")
    assert 0 < before["maml"]["outer_steps"] < 100_000
    assert main([*given, "--resume", "true"]) == 0
    assert rows_of(tmp_path / "run") == before


def test_jobs_that_begin_at_once_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("meta_train.jobs.run_folders.time.strftime", lambda _: "now")
    name = "few-shot_sine_maml_seed0"
    for expected in (f"now_{name}", f"now_{name}_2", f"now_{name}_3"):
        assert main([*TINY, *SMALL_SINE]) == 0
        assert (tmp_path / "runs" / expected / "table.json").exists()
    assert main([*TINY, "--begin", "none.safetensors"]) == 2  # an empty one goes
    assert len(list((tmp_path / "runs").iterdir())) == 3
    many = FewShotConfig(row="all", progress=False)
    assert job_folder(many).name == "now_few-shot_sine_21-rows_seed0"


def test_an_interruption_of_testing_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    out = tmp_path / "a folder"
    with monkeypatch.context() as patch:
        patch.setattr("meta_train.jobs.few_shot.job.judge", interrupted)
        assert main([*TINY, *SMALL_SINE, "--out", str(out)]) == 130
    again = shlex.split(capsys.readouterr().err.split("go on with ")[1])
    assert main(["few-shot", *again]) == 0  # word for word
    assert rows_of(out)["maml"]["outer_steps"] == 3
    with monkeypatch.context() as patch:
        patch.setattr("meta_train.jobs.few_shot.runner.make_trainer", interrupted)
        assert main([*TINY, *SMALL_SINE, "--out", str(tmp_path / "b")]) == 130
    assert "before there was anything to go on with" in capsys.readouterr().err


def test_what_a_run_began_with_is_remembered(tmp_path, capsys):
    maml = ["--row", "maml", "--out", str(tmp_path / "maml")]
    assert main([*TINY, *SMALL_SINE, *maml]) == 0
    start = tmp_path / "maml" / "initialization.safetensors"
    given = [*TINY, *SMALL_SINE, "--row", "anil", "--out", str(tmp_path / "run")]
    assert main([*given, "--begin", str(start)]) == 0
    before = rows_of(tmp_path / "run")
    assert before["anil"]["begins_with"] == {"file": str(start)}
    start.unlink()
    for further in ([], ["--begin", str(start)]):
        assert main([*given, *further, "--resume", "true"]) == 0
        assert rows_of(tmp_path / "run") == before
    other = str(tmp_path / "other.safetensors")
    assert main([*given, "--begin", other, "--resume", "true"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"began with {start}, and goes on" in told and f"without --begin {other}" in told
    plain = [*TINY, *SMALL_SINE, "--row", "maml", "--out", str(tmp_path / "maml")]
    assert main([*plain, "--begin", other, "--resume", "true"]) == 2
    assert "began without --begin" in " ".join(capsys.readouterr().err.split())


def test_a_run_cut_off_before_its_first_checkpoint_begins_as_it_should(tmp_path, monkeypatch):
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
    found, expected = (rows_of(tmp_path / name)["maml-further"] for name in ("cut", "whole"))
    assert found["results"] == expected["results"]
    assert found["begins_with"]["row"] == "maml"


def test_what_lies_in_a_folder_is_not_taken_for_the_jobs_own(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TINY, *SMALL_SINE, "--out", str(out)]) == 0
    assert main([*TINY, *SMALL_SINE, "--out", str(tmp_path)]) == 2  # a folder of runs
    assert "holds runs of other jobs, as in" in capsys.readouterr().err
    table = out / "table.json"
    whole = table.read_text()
    for damaged in (whole[:30], "[]"):
        table.write_text(damaged)
        assert main([*TINY, *SMALL_SINE, "--out", str(out), "--resume", "true"]) == 2
        assert f"{table} is damaged" in " ".join(capsys.readouterr().err.split())
    table.write_text(whole)
    shutil.rmtree(out / "checkpoints")
    assert main([*TINY, *SMALL_SINE, "--row", "anil", "--out", str(out)]) == 0
    assert list(rows_of(out)) == ["anil"]  # not what another job had left

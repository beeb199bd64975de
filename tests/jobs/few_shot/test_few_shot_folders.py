"""Run folders of few-shot jobs: new ones, and refusals of those of other runs."""

import shutil

from few_shot_cases import SMALL_SINE, TINY, results_of

from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.cli import main
from meta_train.jobs.few_shot.folders import job_folder


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main([*TINY, *SMALL_SINE, *out]) == 0
    assert main([*TINY, *SMALL_SINE, *out]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*TINY, *SMALL_SINE, "--out", str(tmp_path / "b"), "--resume", "true"]) == 2
    assert "there is no checkpoint to resume from" in capsys.readouterr().err


def test_a_run_of_another_job_is_not_resumed(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main([*TINY, *SMALL_SINE, "--row", "maml,anil", "--steps", "[1]", *out]) == 0
    assert main([*TINY, *SMALL_SINE, *out, "--row", "maml", "--resume", "true"]) == 2
    assert (
        f"does not belong to a job with --row maml: continue with --out {tmp_path / 'run'} --resume"
        in capsys.readouterr().err
    )
    assert main([*TINY, *SMALL_SINE, "--row", "maml", "--out", str(tmp_path / "one")]) == 0
    other = ["--row", "maml", "--out", str(tmp_path / "one"), "--resume", "true"]
    for change, named in (("--shots", "task.shots=10, not 5"), ("--seed", "seed=0, not 5")):
        assert main([*TINY, *SMALL_SINE, *other, change, "5"]) == 2
        assert named in capsys.readouterr().err


def test_jobs_that_start_at_the_same_time_have_their_own_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("meta_train.jobs.run_folders.time.strftime", lambda _: "now")
    name = "few-shot_sine_maml_seed0"
    for expected in (f"now_{name}", f"now_{name}_2", f"now_{name}_3"):
        assert main([*TINY, *SMALL_SINE]) == 0
        assert (tmp_path / "runs" / expected / "table.json").exists()
    assert main([*TINY, "--begin", "none.safetensors"]) == 2  # an empty one goes
    assert len(list((tmp_path / "runs").iterdir())) == 3
    many = FewShotConfig(row="all", progress=False)
    assert job_folder(many).name == "now_few-shot_sine_21-methods_seed0"


def test_files_of_another_job_are_not_taken_for_the_jobs_own(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TINY, *SMALL_SINE, "--out", str(out)]) == 0
    assert main([*TINY, *SMALL_SINE, "--out", str(tmp_path)]) == 2  # a folder of runs
    assert "holds runs of other jobs, such as" in capsys.readouterr().err
    table = out / "table.json"
    whole = table.read_text()
    for damaged in (whole[:30], "[]"):
        table.write_text(damaged)
        assert main([*TINY, *SMALL_SINE, "--out", str(out), "--resume", "true"]) == 2
        assert f"{table} is damaged" in " ".join(capsys.readouterr().err.split())
    table.write_text(whole)
    shutil.rmtree(out / "checkpoints")
    assert main([*TINY, *SMALL_SINE, "--row", "anil", "--out", str(out)]) == 0
    assert list(results_of(out)) == ["anil"]  # not what another job had left

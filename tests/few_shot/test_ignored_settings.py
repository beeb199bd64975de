"""Settings that no method of a job reads are named, on stderr and before training."""

import json

import pytest
from few_shot_cases import SMALL_SINE, TINY, take_made_up

from meta_train.few_shot.ignored_settings import ignored_settings
from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.cli import main


@pytest.mark.parametrize(
    ("job", "names"),
    [
        ({"row": "mann", "data": "omniglot", "folder": "x", "ways": 3}, []),
        (
            {"row": "mann,lstm-reader", "data": "omniglot", "shots": 30, "queries": 2, "steps": 3},
            ["shots", "queries", "steps"],
        ),
        ({"row": "mann,prototypical", "data": "omniglot", "shots": 5, "steps": 0}, ["steps"]),
        ({"row": "mann,maml", "data": "omniglot", "shots": 5, "test_queries": 2, "steps": 3}, []),
        ({"row": "nearest-neighbour", "data": "omniglot", "steps": 3}, ["steps"]),
        ({"row": "maml", "data": "signals", "folder": "x", "shots": 5}, ["folder"]),
        ({"row": "maml", "folder": "x", "download": True, "shots": 5}, ["folder", "download"]),
        ({"row": "maml", "ways": 20}, ["ways"]),
    ],
)
def test_a_setting_is_named_if_no_method_reads_it(job, names):
    steps = {"steps": (job.pop("steps"),)} if "steps" in job else {}
    lines = ignored_settings(FewShotConfig(**job, **steps))
    assert [line.split(" is ignored: ")[0] for line in lines] == [f"--{name}" for name in names]


def test_a_job_says_it_once_on_stderr(tmp_path, monkeypatch, capsys):
    take_made_up(monkeypatch)
    given = [*TINY, "--data", "omniglot", "--row", "mann", "--ways", "2", "--shots", "30"]
    given += ["--row_settings", json.dumps({"instances": 3, "meta_batch": 2})]
    assert main([*given, "--out", str(tmp_path / "mann")]) == 0
    why = "a reader takes the instances of --row_settings from each class"
    assert capsys.readouterr().err == f"--shots is ignored: {why}\n"
    assert main([*TINY, *SMALL_SINE, "--out", str(tmp_path / "maml")]) == 0
    assert capsys.readouterr().err == ""

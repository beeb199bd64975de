"""Jobs with several methods: refused before training, and not ended by one that stalls."""

import json

import pytest
from few_shot_cases import SMALL_SINE, TINY, results_of, take_made_up

from meta_train.jobs.cli import main
from meta_train.jobs.few_shot import runner
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.signals import TrainingStalled


def told(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_a_method_that_cannot_train_is_refused_before_the_first_one_trains(tmp_path, capsys):
    out = tmp_path / "run"
    train = ["--train", '{"runs": 3, "memory": "500MiB"}']
    given = [*TINY, *SMALL_SINE[:2], *train, "--row", "maml,fomaml,reptile"]
    assert main([*given, "--out", str(out)]) == 2
    assert "method reptile: memory='500MiB' needs estimator full or first-order" in told(capsys)
    assert not out.exists()


def test_a_needed_method_that_cannot_train_is_refused_first_too(tmp_path, capsys, monkeypatch):
    take_made_up(monkeypatch)
    make = runner.make_trainer

    def refuse(name, *rest):
        if name == "fine-tuning":
            raise ValueError("not this one")
        return make(name, *rest)

    monkeypatch.setattr(runner, "make_trainer", refuse)
    given = [*TINY, "--data", "omniglot", "--test_queries", "3"]
    given += ["--row", "prototypical,nearest-neighbour"]
    assert main([*given, "--out", str(tmp_path / "run")]) == 2
    assert "method nearest-neighbour: not this one" in told(capsys)
    assert not (tmp_path / "run").exists()


def test_a_method_that_stalls_ends_those_that_need_it_and_no_others(tmp_path, capsys, monkeypatch):
    tries = []
    train = MetaTrainer.train

    def stop(self, **options):
        tries.append(self.folder.name)
        if self.folder.name == "maml":
            raise TrainingStalled("of no use")
        return train(self, **options)

    monkeypatch.setattr(MetaTrainer, "train", stop)
    out = tmp_path / "run"
    given = [*TINY, *SMALL_SINE, "--row", "maml,joint,maml-further", "--out", str(out)]
    for again in ([], ["--resume", "true"]):
        assert main([*given, *again]) == 3
        error = told(capsys)
        assert error.startswith("python -m meta_train few-shot: error: maml, maml-further: of no")
        assert "use; continue with --out" in error
        assert tries == ["maml", "joint"]
        assert list(results_of(out)) == ["joint"] and (out / "sine.png").exists()
        tries.clear()


def test_a_method_may_use_the_training_of_another(tmp_path):
    out = tmp_path / "run"
    uses = json.dumps({"trained_on": "nothing", "uses": "anil", "test_steps": 2})
    given = [*TINY, *SMALL_SINE, "--row", "maml", "--row_settings", uses]
    assert main([*given, "--out", str(out)]) == 0
    assert results_of(out)["maml"]["outer_steps"] == 3
    assert (out / "anil" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--row_settings", '{"rule": "momentm"}'], "unknown rule 'momentm'; did you mean 'mom"),
        (["--row_settings", '{"rule": "no/such.safetensors"}'], "there is no weights file no/such"),
    ],
)
def test_errors_of_the_run_name_the_command(settings, message, tmp_path, capsys):
    assert main([*TINY, *SMALL_SINE, *settings, "--out", str(tmp_path / "run")]) == 2
    error = told(capsys)
    assert error.startswith("python -m meta_train few-shot: error: ") and message in error


def test_several_processes_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        main([*TINY, *SMALL_SINE, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2 and "start it without torchrun" in told(capsys)
    assert not (tmp_path / "run").exists()


def test_one_episode_has_no_interval(tmp_path, capsys):
    given = ["few-shot", "--outer_steps", "1", "--episodes", "1", "--progress", "false"]
    assert main([*given, *SMALL_SINE, "--out", str(tmp_path / "run")]) == 0
    assert "nan" not in capsys.readouterr().out


def test_a_memory_budget_is_resolved_once_per_method(tmp_path, capsys):
    out = tmp_path / "run"
    train = ["--train", '{"runs": 3, "memory": "500MiB"}']
    given = [*TINY, *SMALL_SINE[:2], *train, "--row", "maml,fomaml", "--out", str(out)]
    assert main(given) == 0
    assert capsys.readouterr().out.count("memory: plain") == 2
    assert list(results_of(out)) == ["maml", "fomaml"]

"""The main job's parts: columns of any family, and the folder of a run."""

import json
from contextlib import ExitStack

import pytest
import torch
from conftest import make_rule, same

from learned_opt import load_rule, save_rule
from learned_opt.weights import bundled_name, rule_digest
from meta_train.jobs.cli import main
from meta_train.jobs.config import EvaluateSettings, MainConfig, ValidateSettings
from meta_train.jobs.meta_training import _run_folder, _validator, comparison_tasks, run
from meta_train.jobs.start_weights import start_at
from meta_train.outer.settings import TrainSettings
from meta_train.tasks import create_task, list_tasks


@pytest.mark.parametrize("name", ["random-mlp", "quadratic"])
def test_every_held_out_task_is_a_column_and_one_goes_on_for_longer(name):
    family = create_task(name)
    columns = comparison_tasks(family, EvaluateSettings(steps=7))
    titles = list(family.held_out())
    assert [column.title for column in columns[:-1]] == titles
    assert len({column.name for column in columns}) == len(columns)
    assert [column.steps for column in columns] == [7] * len(titles) + [70]


def folder_of(config):
    with ExitStack() as lock:
        return _run_folder(config, lock)


def test_a_run_folder_is_new_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = folder_of(MainConfig())
    assert made.parent.name == "runs"
    assert "digits-mlp_adam-lstm_seed0" in made.name
    (tmp_path / "x" / "checkpoints").mkdir(parents=True)
    config = MainConfig(out=tmp_path / "x")
    assert folder_of(config) == tmp_path / "x"
    (tmp_path / "x" / "checkpoints" / "step-00000001.safetensors").touch()
    with pytest.raises(FileExistsError, match="--resume true"):
        folder_of(config)


@pytest.mark.parametrize("steps", [3, 7])
def test_any_number_of_evaluation_steps_is_fine(tmp_path, steps):
    config = MainConfig(
        task="quadratic",
        rule="step-size-lstm",
        train=TrainSettings(outer_steps=2, runs=2, horizons=(4,), truncation_length=2),
        evaluate=EvaluateSettings(steps=steps, seeds=1, workers=1),
        device="cpu",
        out=tmp_path,
        progress=False,
    )
    run(config, lambda path: path.write_text("recorded"))
    columns = json.loads((tmp_path / "table.json").read_text())["columns"]
    assert columns["family"]["steps"] == steps
    assert (tmp_path / "config.yaml").read_text() == "recorded"


def test_all_tasks_say_what_they_are_judged_by():
    assert {name for name in list_tasks() if not create_task(name).held_out()} == set()


def test_an_lstm_grows_from_the_weights_of_a_linear_map(tmp_path):
    path = tmp_path / "linear.safetensors"
    linear, grown = make_rule("general", spread=0.3), make_rule("general", hidden_size=3)
    save_rule(linear, path)
    cell = grown.lstm.weight.clone()
    start_at(grown, path)
    assert same(grown.weight, linear.weight) and same(grown.bias, linear.bias)
    assert same(grown.lstm.weight, cell)
    assert not grown.head.weight.any()


def test_weights_that_were_made_with_other_settings_are_taken_and_named(tmp_path):
    path = tmp_path / "earlier.safetensors"
    save_rule(make_rule("lstm", hidden_sizes=[3, 3], output_scale=0.5), path)
    told = start_at(make_rule("lstm", hidden_sizes=(3, 3)), path)
    assert told == f"start={path} was made with other rule_settings: output_scale 0.5, here 0.1"
    assert start_at(make_rule("lstm", hidden_sizes=(3, 3), output_scale=0.5), path) is None


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "earlier.safetensors"
    save_rule(make_rule("general", hidden_size=4), path)
    with pytest.raises(ValueError, match="lstm.weight of shape .18, 16., the rule has .17, 12."):
        start_at(make_rule("general", hidden_size=3), path)
    with pytest.raises(ValueError, match="lstm.weight of shape .18, 16., the rule has none"):
        start_at(make_rule("general"), path)
    with pytest.raises(ValueError, match="holds rule general, not adam-lstm"):
        start_at(make_rule("adam-lstm"), path)


def test_a_run_begins_with_given_weights_and_selects_beside_a_reference(tmp_path):
    start = make_rule("general", spread=0.1)
    save_rule(start, tmp_path / "start.safetensors")
    config = MainConfig(
        task="quadratic",
        rule="general",
        start=tmp_path / "start.safetensors",
        train=TrainSettings(
            estimator="es",
            estimator_settings={"soft_sign": 0.1, "floor": 0.01},
            objective="log-last",
            objective_data="full",
            outer_steps=2,
            runs=2,
            horizons=(4,),
            lr=1e-6,
        ),
        validate=ValidateSettings(
            reference="orthogonal-momentum", task="quadratic", steps=3, seeds=1
        ),
        evaluate=EvaluateSettings(steps=3, seeds=1, workers=1),
        device="cpu",
        out=tmp_path / "run",
        progress=False,
    )
    run(config, lambda path: path.write_text("recorded"))
    trained = load_rule(tmp_path / "run" / "weights.safetensors")
    assert (trained.weight - start.weight).abs().max() < 1e-5
    assert not same(trained.weight, start.weight)
    card = json.loads((tmp_path / "run" / "table.json").read_text())
    assert card["start"] == "start.safetensors"
    assert card["validate"]["reference"] == "orthogonal-momentum"


def test_the_reference_of_a_validation_has_weights(tmp_path, capsys):
    given = ["--task", "quadratic", "--train.outer_steps", "1", "--validate.reference"]
    assert main([*given, "lstm", "--out", str(tmp_path / "made")]) == 2
    told = capsys.readouterr().err
    assert "rule 'lstm' is a network without weights" in told and told.count("\n") == 1
    assert not (tmp_path / "made").exists()
    config = MainConfig(validate=ValidateSettings(reference="step-size-lstm", task="quadratic"))
    validator = _validator(config, create_task("quadratic"), torch.device("cpu"))
    assert bundled_name(rule_digest(validator.reference)) == "step-size-lstm"


def test_a_resumed_run_has_the_start_that_it_began_with(tmp_path, capsys):
    start, other = tmp_path / "start.safetensors", tmp_path / "other.safetensors"
    save_rule(make_rule("general", spread=0.1), start)
    save_rule(make_rule("general", spread=0.2), other)
    given = ["--task", "quadratic", "--rule", "general", "--train.outer_steps", "2"]
    given += ["--train.runs", "2", "--train.horizons", "[4]", "--train.estimator", "es"]
    given += ["--evaluate.steps", "3", "--evaluate.seeds", "1", "--evaluate.workers", "1"]
    given += ["--device", "cpu", "--progress", "false"]

    def card(folder):
        return json.loads((folder / "table.json").read_text())["start"]

    begun, plain = ["--out", str(tmp_path / "begun")], ["--out", str(tmp_path / "plain")]
    assert main([*given, *begun, "--start", str(start)]) == 0
    assert main([*given, *plain]) == 0
    recorded = (tmp_path / "plain" / "config.yaml").read_text()
    capsys.readouterr()

    assert main([*plain, "--resume", "true", "--start", str(other)]) == 2
    told = capsys.readouterr().err
    assert "began without --start and continues" in told and told.count("\n") == 1
    assert f"resume it without --start {other}" in told
    assert (tmp_path / "plain" / "config.yaml").read_text() == recorded
    assert card(tmp_path / "plain") is None

    assert main([*begun, "--resume", "true", "--start", str(other)]) == 2
    assert f"began with --start {start} and continues" in capsys.readouterr().err
    config = str(tmp_path / "plain" / "config.yaml")
    assert main(["--config", config, *begun, "--resume", "true"]) == 2
    assert f"resume it with --start {start}" in capsys.readouterr().err

    intact = (tmp_path / "begun" / "config.yaml").read_text()
    (tmp_path / "begun" / "config.yaml").write_text("start: [")
    assert main(["--config", config, *begun, "--resume", "true"]) == 2
    assert "config.yaml is no configuration" in capsys.readouterr().err
    (tmp_path / "begun" / "config.yaml").write_text(intact)

    start.unlink()  # the checkpoint holds the weights
    for further in ([], ["--start", str(start)]):
        assert main([*begun, "--resume", "true", *further]) == 0
        assert card(tmp_path / "begun") == "start.safetensors"

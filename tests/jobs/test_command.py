"""Former names of settings are refused with their present names; help names the defaults."""

import pytest

from meta_train.jobs import cli, explain
from meta_train.jobs.benchmark import cli as benchmark
from meta_train.jobs.cli import main
from meta_train.jobs.few_shot import cli as few_shot

RENAMED = {
    "window": "truncation_length",
    "averaging": "ema_decay",
    "lr_end": "final_lr_fraction",
    "outlier": "outlier_factor",
    "clip": "grad_clip_norm",
    "max_skipped": "max_consecutive_skips",
    "unit_spread": "param_rescale_range",
    "loss_spread": "loss_rescale_range",
}


def error_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_former_name_of_a_setting_is_refused_with_the_present_one(old, new, capsys, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(f"task: quadratic\ntrain:\n  outer_steps: 3\n  {old}: 1\n")
    said = f"python -m meta_train: error: setting train.{old} is now called train.{new}\n"
    assert error_of([f"--train.{old}", "1"], capsys) == said
    assert error_of([f"--train.{old}=1"], capsys) == said
    assert error_of(["--config", str(path)], capsys) == said
    assert error_of(["--train", f'{{"{old}": 1}}'], capsys) == said


def test_an_unknown_setting_is_not_taken_for_a_former_one(capsys, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("train:\n  windows: 1\n")
    for arguments in (["--train.windows", "1"], ["--config", str(path)]):
        error = error_of(arguments, capsys)
        assert error.endswith(": unknown setting --train.windows; --help lists all settings\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--train.horizons 100", "train.horizons must be a list such as [100], got 100"),
        ("--train.horizons=100", "train.horizons must be a list such as [100], got 100"),
        ("--train.imitate_weight 3", "train.imitate_weight must be a list such as [1.0, 0.0],"),
        ("--train.horizon_stages 3", "train.horizon_stages must be a list, got 3"),
        ("--outer_steps 10", "unknown setting --outer_steps; did you mean --train.outer_steps?"),
        ("--outer-steps 10", "unknown setting --outer-steps; did you mean --train.outer_steps?"),
        ("--train.outer-steps 10", "--train.outer-steps; did you mean --train.outer_steps?"),
        ("--train.outer-steps=10", "--train.outer-steps; did you mean --train.outer_steps?"),
        ("--train.otuer_steps 10", "--train.otuer_steps; did you mean --train.outer_steps?"),
        ('--train {"outer-steps":3}', "--train.outer-steps; did you mean --train.outer_steps?"),
        ("--seed 3", "unknown setting --seed; did you mean --train.seed?"),
        ("--steps 10", "--steps; did you mean --validate.steps or --evaluate.steps?"),
        ("--train.rule lstm", "unknown setting --train.rule; did you mean --rule?"),
        ("--train.outer_steps ten", "train.outer_steps must be of type int, got ten"),
        ("few-shot --steps 5", "steps must be a list such as [5], got 5"),
        ("few-shot --steps=5", "steps must be a list such as [5], got 5"),
        ("few-shot --outer-steps 5", "--outer-steps; did you mean --outer_steps?"),
        (
            "--train.estimator.name pes",
            "unknown setting --train.estimator.name; did you mean --train.estimator?",
        ),
        ("few-shot --rows maml", "unknown setting --rows; did you mean --row?"),
        (
            "--rule_settings {hidden:3}",
            """rule_settings must be of type dict, such as '{"hidden_size": 8}', got {hidden:3}""",
        ),
        (
            "--train.estimator_settings x",
            """train.estimator_settings must be of type dict, such as '{"sigma": 0.02}', got x""",
        ),
        (
            "few-shot --row_settings {inner_lr:3}",
            """row_settings must be of type dict, such as '{"inner_lr": 0.02}', got {inner_lr:3}""",
        ),
        (
            "few-shot --train {lr:3}",
            """train must be of type dict, such as '{"lr": 0.01}', got {lr:3}""",
        ),
        ("few-shot --shots five", "shots must be of type int or null, got five"),
    ],
)
def test_a_misspelt_setting_gets_the_form_or_the_name_to_write(arguments, said, capsys):
    error = error_of(arguments.split(), capsys)
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
@pytest.mark.parametrize("job", [[], ["few-shot"]])
def test_a_configuration_that_is_not_utf_8_is_named(form, job, tmp_path, capsys):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("threads: 1\n")
    bad.write_bytes("threads: 1  # Zürich\n".encode("latin-1"))
    given = [word.format(path) for path in (good, bad) for word in form]
    with pytest.raises(SystemExit):
        main([*job, *given])
    error = capsys.readouterr().err
    assert f"error: {bad} is not a text in UTF-8: invalid" in error and error.count("\n") == 1


@pytest.mark.parametrize("parser", [benchmark.build_parser, explain.build_parser])
def test_help_names_defaults_and_no_types(parser):
    text = parser().format_help()
    assert "(default: a new one)" in text
    assert "null" not in text and "type:" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the configuration is empty: give settings, such as task: quadratic"),
        ("- 1", "the configuration holds '- 1': give settings, such as task: quadratic"),
        ("outer_steps: 3", "unknown setting --outer_steps; did you mean --train.outer_steps?"),
    ],
)
def test_a_configuration_without_settings_or_with_unknown_ones_is_explained(
    text, said, tmp_path, capsys
):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit):
        main(["--config", str(path)])
    assert capsys.readouterr().err == f"python -m meta_train: error: {said}\n"


@pytest.mark.parametrize("command", [[], ["few-shot"], ["benchmark", "--quick"]])
def test_a_file_is_no_run_folder(command, tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "run is a file: give a folder as --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("job", "arguments"), [(cli, []), (few_shot, ["few-shot"]), (benchmark, ["benchmark"])]
)
def test_ctrl_c_before_a_checkpoint_says_that_there_is_nothing_to_continue(
    job, arguments, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", interrupted)
    assert main(arguments) == 130
    assert capsys.readouterr().err == "\nstopped before there was anything to continue\n"

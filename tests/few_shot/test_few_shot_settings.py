"""Settings of the few-shot job that cannot work are refused in one line, and leave nothing."""

import dataclasses

import pytest
from few_shot_cases import TINY

from learned_opt.weights import shared_pretrained
from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.cli import main


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--row", "mamI"], "did you mean 'maml'"),
        (
            ["--row", "prototypical"],
            "prototypical (Snell et al. 2017, arXiv 1703.05175) only classifies: use --data "
            "signals, omniglot or miniimagenet",
        ),
        (["--data", "sines"], "did you mean 'sine'"),
        (["--row", "maml,anli"], "did you mean 'anil'"),
        (["--effort", "0"], "effort must be positive, got 0"),
        (["--episodes", "0"], "episodes must be at least 1, got 0"),
        (["--steps", "[-1]"], "steps must be numbers of at least 0"),
        (["--resume", "true"], "resume needs out=FOLDER"),
        (["--train", '{"rate": 1}'], "rate"),
        (["--row_settings", '{"rat": 1}'], "unknown setting of a method 'rat'"),
        (["--task_settings", '{"hid": 1}'], "hid"),
        (["--task_settings", '{"split": "test"}'], "take their own splits"),
        (["--task_settings", '{"shots": 5}'], "--shots"),
        (["--task_settings", '{"batch_norm": "support"}'], "--row_settings"),
        (["--train", '{"lr": "abc"}'], "lr must be float, got 'abc'"),
        (["--train", '{"horizons": 4}'], "horizons must be tuple[int, ...], got 4"),
        (["--train", '{"runs": 1.5}'], "runs must be int, got 1.5"),
        (["--task_settings", '{"hidden": 4}'], "hidden must be tuple[int, ...], got 4"),
        (["--task_settings", '{"amplitude": [1]}'], "amplitude must be tuple[float, float]"),
        (["--row_settings", '{"rule_settings": 3}'], "rule_settings must be "),
        (["--row_settings", '{"second_order": "x"}'], "second_order must be bool | None, got 'x'"),
        (["--train", '{"patience": 3}'], "patience needs validations: set validate=EPISODES"),
        (["--train", '{"validate_every": 3}'], "validate_every needs validations"),
        (["--train", '{"lr": null}'], "lr must be float, got None"),
        (["--train", '{"inner_lr": 0.1}'], "--row_settings '{\"inner_lr\": ...}'"),
        (["--train", '{"estimator_settings": {}}'], "use --row_settings"),
        (["--train", '{"seed": 3}'], "--seed"),
        (["--row_settings", '{"outer": {"rate": 1}}'], "unknown setting of training 'rate'"),
        (["--row_settings", '{"outer": {"lr": "abc"}}'], "lr must be float, got 'abc'"),
        (["--row_settings", '{"rule": null}'], "rule must be str, got None"),
        (["--validate", "-1"], "validate must be at least 0, got -1"),
        (["--row_settings", '{"sine": {"inner_lr": 1}}'], "unknown setting of a method 'sine'"),
        (["--row_settings", '{"inner_lr": "abc"}'], "inner_lr must be float | None, got 'abc'"),
        (["--row_settings", '{"outer": 3}'], "outer must be "),
        (["--effort", "1e308"], "effort must be at most 1e+09, got 1e+308"),
        (["--threads", "1000000000000"], "threads must be at most 1024"),
        (["--device", "meta"], "device 'meta' cannot be used: its tensors hold no values"),
        (["--train", '{"lr": 1.0e300}'], "lr must be at most 1e+30, got 1e+300"),
        (["--train", '{"grad_clip_norm": .inf}'], "grad_clip_norm must be at most 1e+30, got inf"),
        (["--row_settings", '{"outer": {"lr": .inf}}'], "lr must be at most 1e+30, got inf"),
        (["--row_settings", '{"inner_lr": .nan}'], "inner_lr must be a number, got nan"),
        (["--task_settings", '{"domain": [-.inf, 1]}'], "domain must be two ordered, finite"),
        (
            ["--row_settings", '{"train_shots": 3}'],
            "train_shots is a setting of classification, not of",
        ),
        (["--row_settings", '{"method": "r2d2"}'], "setting method is now called head"),
        (["--row_settings", '{"head_settings": {"imagined": 1}}'], "head_settings need a head"),
        (["--row_settings", '{"reader_settings": {"rows": 9}}'], "reader_settings need a reader"),
        (["--row_settings", '{"reader": "mann"}'], "takes no inner steps: set train_steps"),
        (
            ["--row_settings", '{"reader": "mann", "train_steps": 0, "test_steps": 0}'],
            "reader 'mann' only classifies",
        ),
        (["--row_settings", '{"reader": "man"}'], "did you mean 'mann'"),
        (["--row_settings", '{"initialization": "bod"}'], "did you mean 'body'"),
        (["--row_settings", '{"stored_heads": 3}'], 'set initialization to "body"'),
        (
            ["--row_settings", '{"rule": "digits-lstm", "rule_settings": {"a": 1}}'],
            "rule_settings are for new rules",
        ),
        (
            ["--row", "reptile-lstm", "--row_settings", '{"rule": "step-size-lstm"}'],
            "untrained: name pretrained weights, such as 'pretrained:step-size-lstm'",
        ),
        (["--row_settings", '{"rule": "pretrained:digit-lstm"}'], "did you mean 'digits-lstm'"),
    ],
)
def test_errors_are_one_line(settings, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main([*TINY, *settings])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("window", "truncation_length"),
        ("averaging", "ema_decay"),
        ("lr_end", "final_lr_fraction"),
        ("outlier", "outlier_factor"),
        ("clip", "grad_clip_norm"),
        ("max_skipped", "max_consecutive_skips"),
        ("unit_spread", "param_rescale_range"),
        ("loss_spread", "loss_rescale_range"),
    ],
)
def test_former_names_are_refused_with_the_present_one(old, new, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    for text in (f"train: {{{old}: 1}}", f"row_settings: {{outer: {{{old}: 1}}}}"):
        config.write_text(text)
        with pytest.raises(SystemExit):
            main(["few-shot", "--config", str(config)])
        assert f"error: setting {old} is now called {new}" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["", "0", "1"])
def test_one_process_is_not_several(size, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert main([*TINY, "--row", "maml", "--out", str(tmp_path / "run")]) == 0


def test_a_bundled_rule_is_trained_as_a_copy(tmp_path):
    bundled = shared_pretrained("digits-lstm")
    before = {key: value.clone() for key, value in bundled.state_dict().items()}
    given = [*TINY, "--row", "maml,fomaml", "--out", str(tmp_path / "run")]
    given += ["--row_settings", '{"rule": "digits-lstm", "inner_lr": null}']
    assert main([*given, "--train", '{"dtype": "float64", "runs": 2}']) == 0
    assert bundled is shared_pretrained("digits-lstm")
    assert all(value.equal(before[key]) for key, value in bundled.state_dict().items())
    assert not any(weight.requires_grad for weight in bundled.parameters())


def test_every_setting_is_documented_and_has_its_default():
    """Settings of all parts, as a user reads them; a new one is added here."""
    config = FewShotConfig()
    assert dataclasses.asdict(config) == {
        "row": "maml",
        "row_settings": {},
        "train": {},
        "outer_steps": None,
        "effort": 1.0,
        "max_minutes": 30.0,
        "validate": 0,
        "begin": None,
        "data": "sine",
        "ways": 5,
        "shots": None,
        "queries": None,
        "test_queries": None,
        "task_settings": {},
        "folder": None,
        "download": False,
        "episodes": 1000,
        "steps": None,
        "seed": 0,
        "device": "auto",
        "threads": 1,
        "out": None,
        "resume": False,
        "progress": True,
    }
    images = FewShotConfig(row="maml", data="omniglot")
    assert (config.support_shots, images.support_shots) == (10, 1)
    assert [config.query_examples(testing=t) for t in (False, True)] == [10, 100]
    assert [images.query_examples(testing=t) for t in (False, True)] == [5, 15]

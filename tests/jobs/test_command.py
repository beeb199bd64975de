"""Former names of settings are refused with their present names."""

import pytest

from meta_train.jobs.cli import main

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
    assert error_of(["--train.windows", "1"], capsys).endswith(": --train.windows 1\n")
    assert error_of(["--config", str(path)], capsys).endswith("does not accept option 'windows'\n")

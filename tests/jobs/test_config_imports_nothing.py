"""A configuration neither imports a module nor makes an object, in files and as arguments."""

import json
import sys
import time

import pytest
import yaml

from meta_train.jobs.cli import main

RUNS_A_COMMAND = {
    "class_path": "subprocess.Popen",
    "init_args": {"args": "touch made_by_a_command", "shell": True},
}
IMPORTS_A_MODULE = {"class_path": "evil_module.Class"}
EVIL_MODULE = 'open("made_by_a_module", "w").close()\n\nclass Class:\n    pass\n'

MAIN = [
    (("task_settings",), "unknown setting of task 'digits-mlp' 'class_path'"),
    (("task_settings", "x"), "unknown setting of task 'digits-mlp' 'x'"),
    (("task_settings", "hidden"), "hidden must be a list, got "),
    (("rule_settings",), "unknown setting of rule 'adam-lstm' 'class_path'"),
    (("rule_settings", "x"), "unknown setting of rule 'adam-lstm' 'x'"),
    (("rule_settings", "hidden_size"), "hidden_size must be a whole number, got "),
    (("train",), "a configuration does not import classes"),
    (("train", "estimator_settings"), "unknown setting of estimator 'truncated' 'class_path'"),
    (("train", "estimator_settings", "x"), "unknown setting of estimator 'truncated' 'x'"),
    (("evaluate",), "a configuration does not import classes"),
    (("device",), "device must be of type str, got {"),
]
FEW_SHOT = [
    (("row_settings",), "unknown setting of a method 'class_path'"),
    (("row_settings", "inner_lr"), "inner_lr must be float | None, got {"),
    (("row_settings", "outer"), "unknown setting of training 'class_path'"),
    (("row_settings", "outer", "x"), "unknown setting of training 'x'"),
    (("row_settings", "rule_settings", "x"), "unknown setting of rule 'sgd' 'x'"),
    (("row_settings", "estimator_settings", "x"), "unknown setting of estimator 'full' 'x'"),
    (("train",), "unknown setting of training 'class_path'"),
    (("train", "lr"), "lr must be float, got {"),
    (("task_settings",), "unknown setting of episodes 'class_path'"),
    (("task_settings", "hidden"), "hidden must be tuple[int, ...], got {"),
    (("steps",), "steps must be"),
]
CASES = [((), *case) for case in MAIN] + [(("few-shot",), *case) for case in FEW_SHOT]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory with a module that leaves a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "evil_module.py").write_text(EVIL_MODULE)
    return tmp_path


def error_of(arguments, capsys):
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


def assert_untouched(here, before):
    time.sleep(0.05)  # A command runs beside this process.
    assert {path.name for path in here.iterdir()} == before
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("spec", [RUNS_A_COMMAND, IMPORTS_A_MODULE], ids=["command", "module"])
@pytest.mark.parametrize(("command", "place", "error"), CASES)
def test_a_class_path_is_refused(command, place, error, spec, here, capsys):
    nested = spec
    for name in reversed(place):
        nested = {name: nested}
    (here / "job.yaml").write_text(yaml.safe_dump(nested))
    (here / "job.json").write_text(json.dumps(nested))
    before = {path.name for path in here.iterdir()}
    option = [f"--{place[0]}", json.dumps(nested[place[0]])]
    forms = [["--config", "job.yaml"], ["--config", "job.json"]]
    for form in [*forms, option] if place != ("device",) else forms:
        assert error in error_of([*command, *form], capsys)
    assert_untouched(here, before)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--train", "evil_module.Class"], "train cannot be 'evil_module.Class': a configuration"),
        (["--evaluate=evil_module.Class"], "evaluate cannot be 'evil_module.Class'"),
        (["--task_settings", "evil_module.Class"], "task_settings must be of type dict"),
        (["--task_settings.x.class_path=evil_module.Class"], "unknown setting of task"),
        (["--train.class_path", "evil_module.Class"], "--train.class_path"),
        (["--train.estimator_settings", "evil_module.Class"], "must be of type dict"),
        (["few-shot", "--row_settings.rule.class_path=evil_module.Class"], "rule must be str"),
    ],
)
def test_a_class_by_its_name_is_refused(arguments, error, here, capsys):
    before = {path.name for path in here.iterdir()}
    assert error in error_of(arguments, capsys)
    assert_untouched(here, before)


@pytest.mark.parametrize(
    "text",
    [
        "class_path: evil_module.Class\n",
        "train: evil_module.Class\n",
        "task_settings: !!python/object/apply:os.system ['touch made_by_a_command']\n",
        "rule_settings: {x: !!python/name:evil_module.Class }\n",
    ],
)
def test_a_file_with_a_class_or_a_python_tag_is_refused(text, here, capsys):
    (here / "job.yaml").write_text(text)
    before = {path.name for path in here.iterdir()}
    for command in ([], ["few-shot"]):
        error_of([*command, "--config", "job.yaml"], capsys)
    assert_untouched(here, before)

"""Selection of weights on validation episodes."""

import json

import pytest
import torch
from few_shot_cases import SMALL_SINE, TINY, results_of, take_made_up
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learned_opt.adaptation import load_initialization
from meta_train.few_shot.episodes import evaluation_task
from meta_train.few_shot.evaluation import evaluate
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.trained import trained_method
from meta_train.few_shot.training import make_trainer
from meta_train.jobs.cli import main
from meta_train.runtime.seeding import derive_seed

CPU = torch.device("cpu")
BAD = {"runs": 2, "lr": 0.5, "schedule": "constant", "ema_decay": 0.0, "grad_clip_norm": 1e3}
"""An outer learning rate that does harm."""


def trained(**settings):
    given = {"outer_steps": 30, "validate": 6, "task_settings": {"hidden": [8]}, **settings}
    config = FewShotConfig(**{"train": {**BAD, "validate_every": 1}, **given})
    trainer = make_trainer("maml", config, CPU, None)
    trainer.train(progress=False)
    return config, trainer


def test_the_best_weights_are_kept():
    config, trainer = trained()
    kept, last = trainer.kept, trainer.average
    assert trainer.validate(kept) == trainer.best_value < trainer.validate(last)
    found = trained_method("maml", trainer, config)
    for key, value in kept.initialization().items():
        assert torch.equal(found.initialization[key], value)
    assert found.facts["validation"] == {"episodes": 6, "error": trainer.best_value}


def test_validation_is_the_error_after_the_methods_steps_on_its_own_curves():
    config, trainer = trained(outer_steps=1)
    method, task = trainer.validate.method, trainer.validate.task
    initialization = {key: value.detach() for key, value in trainer.kept.initialization().items()}
    given = {"steps": (method.test_steps,), "episodes": 6, "lr": method.inner_lr}
    found = evaluate(trainer.rule, initialization, task, seed=derive_seed(0, "validation"), **given)
    assert trainer.best_value == pytest.approx(found.mean(method.test_steps), rel=1e-6)
    tested = evaluate(trainer.rule, initialization, task, seed=derive_seed(0, "test"), **given)
    assert trainer.best_value != pytest.approx(tested.mean(method.test_steps), rel=1e-3)


def test_characters_come_from_the_validation_alphabets(monkeypatch):
    take_made_up(monkeypatch)
    config = FewShotConfig(
        data="omniglot", ways=3, queries=1, test_queries=2, validate=4, outer_steps=2
    )
    trainer = make_trainer("prototypical", config, CPU, None)
    assert trainer.validate.task.episodes.split == "validation"
    assert evaluation_task(trainer.validate.method, config).episodes.split == "test"
    trainer.train(progress=False)
    assert 0 <= trainer.best_value <= 1


def test_patience_ends_training():
    _, trainer = trained(train={**BAD, "validate_every": 1, "patience": 2}, outer_steps=200)
    assert trainer.outer_step < 200


@pytest.mark.parametrize("break_at", [4, 10])
def test_a_validated_method_resumes(tmp_path, break_at):
    """Stopped after its best validation, and right at it."""
    given = [*TINY, "--task_settings", '{"hidden": [8]}', "--validate", "6"]
    given += ["--train", json.dumps({**BAD, "validate_every": 2, "checkpoint_every": 1000})]
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    assert main([*given, "--outer_steps", "16", "--out", str(unbroken)]) == 0
    first = [*given, "--outer_steps", str(break_at), "--out", str(broken)]
    assert main(first) == 0
    assert main([*given, "--outer_steps", "16", "--out", str(broken), "--resume", "true"]) == 0
    facts = [results_of(out)["maml"] for out in (unbroken, broken)]
    assert facts[0]["results"] == facts[1]["results"]
    assert facts[0]["validation"] == facts[1]["validation"]
    assert facts[0]["validation"]["episodes"] == 6
    events = EventAccumulator(str(unbroken / "tensorboard" / "meta-training")).Reload()
    curve = events.Scalars("curves/validation_loss")
    best = min(curve, key=lambda event: event.value)
    assert best.step == 4  # Or this test tests nothing.
    files = [load_initialization(out / "initialization.safetensors") for out in (unbroken, broken)]
    for key, value in files[0].parameters.items():
        assert torch.equal(value, files[1].parameters[key])


def test_a_resumed_method_is_validated_as_before(tmp_path, capsys):
    given = [*TINY, *SMALL_SINE, "--out", str(tmp_path / "run"), "--validate"]
    assert main([*given, "2"]) == 0
    for other in (["5"], ["0"], ["2", "--row_settings", '{"test_steps": 4}']):
        assert main([*given, *other, "--resume", "true"]) == 2
        assert "was made with validation" in capsys.readouterr().err


def test_an_infinite_error_is_left_out_of_the_table(tmp_path):
    given = [*TINY, *SMALL_SINE, "--validate", "2", "--row_settings", '{"inner_lr": 1e30}']
    assert main([*given, "--steps", "[10]", "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "table.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["rows"]["maml"]["validation"] == {
        "episodes": 2,
        "error": None,
    }


@pytest.mark.parametrize(("every", "said"), [(3, True), (2, False)])
def test_a_single_validation_is_reported_to_select_nothing(tmp_path, capsys, every, said):
    given = [*TINY, "--task_settings", '{"hidden": [4]}', "--validate", "4"]
    given += ["--train", json.dumps({"runs": 3, "validate_every": every})]
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    assert ("validated only once" in capsys.readouterr().out) == said

"""Numbers of NumPy and torch, and infinity, are saved and resumed; equal seeds, equal runs."""

import math

import numpy as np
import pytest
import torch
from conftest import same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learned_opt import create_rule
from learned_opt.files import read_tensors
from meta_train import MetaTrainer, ModuleTask, TrainSettings, create_task
from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.config import EvaluateSettings, MainConfig
from meta_train.runtime.checkpoint_files import FORMAT, list_checkpoints, read_newest
from meta_train.tasks.describe import describe

SMALL = {
    "outer_steps": 6,
    "runs": 2,
    "horizons": (4,),
    "truncation_length": 2,
    "checkpoint_every": 4,
    "validate_every": 2,
}


def make_trainer(folder, settings, validate=None, **rule):
    torch.manual_seed(0)
    return MetaTrainer(
        create_rule("adam-lstm", **{"hidden_size": 3, **rule}),
        create_task("quadratic"),
        TrainSettings(**{**SMALL, **settings}),
        folder=folder,
        device="cpu",
        validate=validate,
    )


def trained(folder, settings, validate=None, **rule):
    """Weights after training; a second trainer must accept the checkpoint."""
    trainer = make_trainer(folder, settings, validate, **rule)
    trainer.train(progress=False)
    assert list_checkpoints(folder / "checkpoints")[-1].name == "step-00000006.safetensors"
    assert make_trainer(folder, settings, validate, **rule).resume()
    return trainer.rule.state_dict()


@pytest.mark.parametrize(
    "given",
    [
        {"truncation_length": np.int64(2)},
        {"seed": np.int64(0)},
        {"seed": torch.tensor(0)},
        {"horizons": (np.int32(4),)},
        {"lr": np.float32(0.5), "restart": np.float64(0.0)},
        {"outer_steps": np.int64(6), "runs": torch.tensor(2)},
        {"estimator_settings": {"checkpoint_steps": np.int64(1)}},
    ],
    ids=str,
)
def test_settings_of_any_number_type_are_pythons(given, tmp_path):
    usual = {"lr": 0.5, "restart": 0.0} if "lr" in given else {}
    if "estimator_settings" in given:
        usual = {"estimator_settings": {"checkpoint_steps": 1}}
    assert TrainSettings(**{**SMALL, **given}) == TrainSettings(**{**SMALL, **usual})
    one, other = trained(tmp_path / "a", given), trained(tmp_path / "b", usual)
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert make_trainer(tmp_path / "a", usual).resume()


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 0.5])
def test_a_validation_may_return_any_number(number, tmp_path):
    trained(tmp_path, {}, lambda meta_parameters: number)
    facts = read_newest(tmp_path / "checkpoints", {})[2]
    assert facts["model_selection"]["best_value"] == 0.5


def test_an_infinite_setting_of_a_rule_is_saved_and_told_apart(tmp_path):
    trained(tmp_path, {}, decay_steps=math.inf)
    with pytest.raises(ValueError, match="rule_settings.decay_steps=inf, not 100"):
        make_trainer(tmp_path, {}, decay_steps=100.0).resume()


def test_configurations_of_jobs_hold_pythons_numbers():
    main = MainConfig(rule_settings={"hidden_size": np.int64(3)})
    assert type(main.rule_settings["hidden_size"]) is int
    assert type(EvaluateSettings(seeds=np.int64(3)).seeds) is int
    few_shot = FewShotConfig(seed=np.int64(3), steps=(np.int64(1),))
    assert type(few_shot.seed) is type(few_shot.steps[0]) is int


def test_a_tasks_numpy_numbers_are_compared_when_a_run_is_resumed():
    described = describe(create_task("quadratic", dimensions=np.int64(3)))
    assert described == describe(create_task("quadratic", dimensions=3))
    assert type(described["dimensions"]) is int


def test_two_runs_of_one_seed_with_a_shuffling_loader_are_equal(tmp_path):
    def run(folder, seed, draws_before):
        torch.manual_seed(5)
        rule = create_rule("adam-lstm", hidden_size=3)
        torch.rand(draws_before)  # What else is drawn does not matter.
        inputs = torch.arange(24.0).reshape(12, 2) / 24
        loader = DataLoader(TensorDataset(inputs, inputs[:, :1]), batch_size=4, shuffle=True)
        task = ModuleTask(lambda: nn.Linear(2, 1), nn.functional.mse_loss, loader, batch_size=3)
        settings = TrainSettings(**{**SMALL, "seed": seed})
        MetaTrainer(rule, task, settings, folder=folder, device="cpu").train(progress=False)
        path = list_checkpoints(folder / "checkpoints")[-1]
        return read_tensors(path, FORMAT, ["facts"])[0]

    one, again, other = (
        run(tmp_path / "a", 1, 0),
        run(tmp_path / "b", 1, 7),
        run(tmp_path / "c", 2, 0),
    )
    assert one.keys() == again.keys()
    assert [key for key in one if not same(one[key], again[key])] == []
    assert not all(same(one[key], other[key]) for key in one)

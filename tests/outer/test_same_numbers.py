"""Meta-training draws the same problems and takes the same steps as when these were written down.

A change to a default, to the purpose of a random generator or to an order of draws moves them.
They hold on every processor: random numbers are float32 and may differ in their last bit (1e-7),
the rest is float64.
"""

import pytest
import torch
from torch import nn

from learned_opt import create_rule
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import Mixture, ModuleTask, Quadratic

MIXTURE = Mixture({"small": Quadratic(dimensions=3), "large": Quadratic(dimensions=5)})
START = {"theta": torch.tensor([0.5, -0.5, 0.2])}
CASES = {
    "truncated": ({"estimator": "truncated", "restart": 0.5}, 0.0210675),
    "full": ({"estimator": "full", "objective": "log"}, 0.02066168),
    "first-order": ({"estimator": "first-order", "objective": "log-tail"}, 0.03068591),
    "es": ({"estimator": "es"}, 0.2150498),
    "pes": ({"estimator": "pes", "estimator_settings": {"clip": 2.0}}, 0.2574436),
    "families": ({"groups": 2, "loss_rescale_range": 1.0, "objective_data": "fresh"}, 0.01702751),
    "lengths": (
        {"estimator": "full", "horizons": (2, 9), "horizon_draw": "log-uniform"},
        0.03662748,
    ),
    "imitation": ({"imitate": "adam", "imitate_lr": 0.01, "hide_loss": 0.5}, 0.03920461),
    "dropout": ({"estimator": "full", "param_rescale_range": 0.0}, 0.001683901),
    "adam": ({"meta_optimizer": "adam", "lr": 5e-3, "outer_steps": 9}, 0.02902901),
    "maml": ({"estimator": "full", "objective": "last", "second_order": True}, 0.09036687),
    "reptile": ({"estimator": "reptile"}, 0.02172511),
    "implicit": ({"estimator": "implicit", "objective": "last"}, 0.02561975),
}
"""Settings by name, and the distance that they move the meta-parameters."""


def make_module():
    layers = nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1)
    return nn.Sequential(*layers).double()


def make_task(name):
    if name == "families":
        return MIXTURE
    if name != "dropout":
        return Quadratic(dimensions=3)
    inputs = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(20, 3)
    return ModuleTask(make_module, nn.functional.mse_loss, (inputs, inputs[:, :1]), batch_size=4)


@pytest.mark.parametrize("name", CASES)
def test_meta_training_moves_the_meta_parameters_as_far_as_ever(name):
    given, expected = CASES[name]
    learned = name in ("maml", "reptile", "implicit")
    rule = create_rule("momentum") if learned else create_rule("gated-lstm", hidden_size=3)
    random = torch.Generator().manual_seed(0)
    for weight in rule.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=random)
    common = {
        "outer_steps": 4,
        "runs": 3,
        "horizons": (2, 4),
        "truncation_length": 2,
        "meta_optimizer": "sgd",
        "lr": 0.5,
        "inner_lr": 0.02,
        "grad_clip_norm": 1e6,
        "outlier_factor": 1e6,
        "dtype": "float64",
        "param_rescale_range": 0.0 if learned else 1.0,
    }
    trainer = MetaTrainer(
        rule,
        make_task(name),
        TrainSettings(**{**common, **given}),
        initialization=START if learned else None,
        device="cpu",
    )
    before = [value.detach().clone() for value in trainer.meta_parameters.parameters()]
    trainer.train(progress=False)
    after = [value.detach() for value in trainer.meta_parameters.parameters()]
    moved = sum(float((b - a).square().sum()) for a, b in zip(after, before, strict=True)) ** 0.5
    assert moved == pytest.approx(expected, rel=1e-5)

"""The bundled andrychowicz-lstm was made by its example, and trains small sigmoid perceptrons."""

import torch
import yaml
from pages import read
from sklearn.datasets import load_digits
from torch import nn

from learned_opt import LearnedOptimizer, load_card


def test_it_was_made_by_its_example():
    config = yaml.safe_load(read("examples/andrychowicz_lstm.yaml"))
    card = load_card("andrychowicz-lstm")
    for name in ("rule", "task", "task_settings"):
        assert card[name] == config[name]
    assert {name: card["train"][name] for name in config["train"]} == config["train"]
    assert card["meta_training"]["outer_steps"] == 2500
    assert not card["meta_training"]["stopped_early"]


def final_loss(hidden):
    """Loss on all digits after 100 steps, from 2.3."""
    images, labels = (torch.from_numpy(one) for one in load_digits(return_X_y=True))
    images = images.float() / 16
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, hidden), nn.Sigmoid(), nn.Linear(hidden, 10))
    optimizer = LearnedOptimizer(model.parameters(), rule="andrychowicz-lstm")
    for _ in range(100):
        rows = torch.randint(len(images), (128,))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert optimizer.skipped_updates == 0
    return nn.functional.cross_entropy(model(images), labels).item()


def test_it_trains_small_sigmoid_perceptrons_in_a_hundred_steps():
    assert final_loss(20) < 0.15
    assert final_loss(40) < 0.15

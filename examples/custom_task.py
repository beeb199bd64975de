"""Meta-train an optimizer on your own model and data, and save it."""

import argparse
from pathlib import Path

import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, save_rule
from meta_train.settings import TrainSettings
from meta_train.tasks import ModuleTask
from meta_train.trainer import MetaTrainer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--outer-steps", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("my-optimizer"))
args = parser.parse_args()


def make_model():
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


inputs = torch.rand(500, 2) * 4 - 2
targets = (inputs[:, :1] * inputs[:, 1:]).sin()
task = ModuleTask(make_model, nn.functional.mse_loss, (inputs, targets), batch_size=64)

settings = TrainSettings(outer_steps=args.outer_steps)
trainer = MetaTrainer(create_rule("adam-lstm"), task, settings, folder=args.out)
trainer.resume()  # goes on where a killed run stopped
save_rule(trainer.train(), args.out / "weights.safetensors")
model = make_model()
optimizer = LearnedOptimizer(model.parameters(), rule=args.out / "weights.safetensors")
for _ in range(200):
    loss = nn.functional.mse_loss(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss after 200 steps with the new optimizer: {loss.item():.5f}")

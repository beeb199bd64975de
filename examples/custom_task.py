"""Meta-train an optimizer on your own model and data, and save it."""

import argparse

import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, save_rule
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import ModuleTask

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--outer-steps", type=int, default=100)
parser.add_argument("--device", default="auto")
parser.add_argument("--out", default="my-optimizer")
args = parser.parse_args()


def make_model():
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


torch.manual_seed(0)
inputs = torch.rand(500, 2) * 4 - 2
targets = inputs.prod(1, keepdim=True).sin()
task = ModuleTask(make_model, nn.functional.mse_loss, (inputs, targets), batch_size=64)
settings, rule = TrainSettings(outer_steps=args.outer_steps), create_rule("adam-lstm")
trainer = MetaTrainer(rule, task, settings, folder=args.out, device=args.device)
trainer.resume()  # goes on where a killed run stopped
save_rule(trainer.train(), f"{args.out}/weights.safetensors")
model = make_model()
optimizer = LearnedOptimizer(model.parameters(), rule=f"{args.out}/weights.safetensors")
for _ in range(200):
    loss = nn.functional.mse_loss(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss after 200 steps with the new optimizer: {loss.item():.5f}")

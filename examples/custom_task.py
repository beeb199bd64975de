"""Meta-train an optimizer for your own model and data, and compare it with tuned baselines.

    python examples/custom_task.py

It meta-trains for about half a minute, saves the rule to my-optimizer/weights.safetensors, and
prints a table of training losses beside Adam, RMSprop and SGD, each at its best learning rate. A
killed run resumes when it is started again.
"""

import argparse

import torch
from torch import nn

from learned_opt import create_rule, save_rule
from meta_train import ComparisonTask, MetaTrainer, ModuleTask, TrainSettings, compare, render_table

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--outer-steps", type=int, default=150)
parser.add_argument("--device", default="auto")
parser.add_argument("--out", default="my-optimizer", help="folder of checkpoints and weights")
args = parser.parse_args()


def make_model():
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


torch.set_num_threads(1)  # faster for models as small as this one
torch.manual_seed(0)
inputs = torch.rand(500, 2) * 4 - 2
targets = inputs.prod(1, keepdim=True).sin()
task = ModuleTask(make_model, nn.functional.mse_loss, (inputs, targets), batch_size=64)

settings = TrainSettings(outer_steps=args.outer_steps)
trainer = MetaTrainer(create_rule("adam-lstm"), task, settings, folder=args.out, device=args.device)
trainer.resume()  # continues from the newest checkpoint, if there is one
rule = trainer.train()
save_rule(rule, f"{args.out}/weights.safetensors")

tasks = [ComparisonTask("mine", "product of two numbers", task, steps=200, patience=400)]
print(render_table(compare(rule, tasks, seeds=range(4), device=args.device), tasks))
print(f'Use it: LearnedOptimizer(model.parameters(), rule="{args.out}/weights.safetensors")')

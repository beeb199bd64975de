"""Swap AdamW for an optimizer that needs no learning rate: one line changes.

Prints the loss on all digits after training with AdamW at its default, with AdamW at ten times its
default, with the default rule of this package, which is hand-designed, and with a small network
that was meta-trained on tasks of this kind.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from learned_opt import LearnedOptimizer


def train(make_optimizer, steps, device):
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32, device=device) / 16
    labels = torch.tensor(digits.target, device=device)
    model = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10)).to(device)
    optimizer = make_optimizer(model.parameters())
    for _ in range(steps):
        rows = torch.randint(len(images), (128,))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if isinstance(optimizer, LearnedOptimizer):
        optimizer.eval()  # the running average of the weights, where the rule keeps one
    return nn.functional.cross_entropy(model(images), labels).item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    setting = vars(parser.parse_args())
    optimizers = {
        "AdamW, lr 0.001": torch.optim.AdamW,
        "AdamW, lr 0.01": lambda p: torch.optim.AdamW(p, lr=0.01),
        "LearnedOptimizer": LearnedOptimizer,
        "digits-lstm": lambda p: LearnedOptimizer(p, rule="digits-lstm"),
    }
    print("optimizer         loss on all digits")
    for name, make_optimizer in optimizers.items():
        print(f"{name:<18}{train(make_optimizer, **setting):.4f}")

"""Swap Adam for a learned optimizer: one line changes."""

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
    return nn.functional.cross_entropy(model(images), labels).item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    setting = vars(parser.parse_args())
    print("Adam, default lr   ", train(torch.optim.Adam, **setting))
    print("Adam, lr 0.05      ", train(lambda p: torch.optim.Adam(p, lr=0.05), **setting))
    print("learned            ", train(LearnedOptimizer, **setting))

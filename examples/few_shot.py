"""MAML on a module and data of your own; then new classes, from one image of each."""

import torch
from sklearn.datasets import load_digits
from torch import func, nn

from learned_opt.adaptation import Initialization, adapt, load_initialization, save_initialization

torch.manual_seed(0)
pixels, labels = (torch.tensor(part).float() for part in load_digits(return_X_y=True))
pixels = pixels.reshape(-1, 1, 8, 8) / 16
classes = [pixels[labels == k % 10].rot90(k // 10, (2, 3)) for k in range(40)]


def build():
    first, second = nn.Conv2d(1, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def episode(classes):  # of 5 classes an image to learn from, and nine to judge by
    drawn = [classes[k][torch.randperm(170)[:10]] for k in torch.randperm(len(classes))[:5]]
    one, nine = torch.stack(drawn).split([1, 9], 1)
    return (one[:, 0], torch.arange(5)), (nine.flatten(0, 1), torch.arange(45) // 9)


model, inner = build(), {"lr": 0.4, "steps": 1}
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(400):
    support, (x, y) = episode(classes[0::2])  # even digits
    adapted = adapt(model, support, **inner, functional=True, create_graph=True)
    optimizer.zero_grad()
    nn.functional.cross_entropy(func.functional_call(model, adapted, (x,)), y).backward()
    optimizer.step()
save_initialization(Initialization.of(model, **inner), "start.safetensors")
for start in (None, load_initialization("start.safetensors")):
    right = 0
    for support, (x, y) in map(episode, [classes[1::2]] * 200):  # odd ones
        right += (adapt(build(), support, initialization=start, **inner)(x).argmax(1) == y).sum()
    print("learned" if start else "random", f"start: {right / 9000:.1%} after one step")

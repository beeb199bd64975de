"""MAML on your own module and data: learn an initialisation that adapts from one image per class.

    python examples/few_shot.py

It meta-trains a small convolutional network on the even digits (each also rotated by 90, 180 and
270 degrees), saves the initialisation to start.safetensors, and prints the accuracy on 5-way 1-shot
episodes of the odd digits after one gradient step: from a random and from the learned start.
"""

import torch
from sklearn.datasets import load_digits
from torch import func, nn

from learned_opt.adaptation import Initialization, adapt, load_initialization, save_initialization

torch.set_num_threads(1)  # faster for models as small as this one
torch.manual_seed(0)
pixels, labels = (torch.tensor(part).float() for part in load_digits(return_X_y=True))
pixels = pixels.reshape(-1, 1, 8, 8) / 16
classes = [pixels[labels == k % 10].rot90(k // 10, (2, 3)) for k in range(40)]


def build():
    first, second = nn.Conv2d(1, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def episode(classes):  # 5 classes: 1 support image and 9 query images of each
    drawn = [classes[k][torch.randperm(170)[:10]] for k in torch.randperm(len(classes))[:5]]
    support, query = torch.stack(drawn).split([1, 9], 1)
    return (support[:, 0], torch.arange(5)), (query.flatten(0, 1), torch.arange(45) // 9)


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
    correct = 0
    for support, (x, y) in map(episode, [classes[1::2]] * 200):  # odd digits
        adapted = adapt(build(), support, initialization=start, **inner)
        correct += (adapted(x).argmax(1) == y).sum()
    print(f"{'learned' if start else 'random'} start: {correct / 9000:.1%} after one step")

"""Learn five new characters from one drawing of each, from the bundled initialisation.

    python examples/new_characters.py

Invents five characters of three strokes and draws each 16 times with an unsteady hand, so no data
is needed. A network adapts to the first drawing of each. Prints its accuracy on the others before
and after, and draws all of them with the predicted classes to new_characters.png.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw

from learned_opt import adapt, load_initialization
from meta_train.tasks.episodes.networks import make_network

random = np.random.default_rng(3)
t = np.linspace(0, 1, 30)[:, None]


def draw(strokes):
    image, zoom = Image.new("L", (105, 105)), random.normal(1, 0.08)
    shift = random.normal(0, 5, 2)
    for points in strokes:  # each bends from its first point past the second to the third
        a, b, c = 52 + zoom * (points - 52) + shift + random.normal(0, 4, (3, 2))
        curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
        ImageDraw.Draw(image).line([tuple(point) for point in curve], fill=255, width=4)
    return np.asarray(image.resize((28, 28)), np.float32) / 255


characters = random.uniform(15, 90, (5, 3, 3, 2))
drawings = torch.tensor(np.stack([[[draw(c)] for _ in range(16)] for c in characters]))
support, others = (drawings[:, 0], torch.arange(5)), drawings[:, 1:].flatten(0, 1)

model = load_initialization("omniglot-maml").apply_to(make_network("conv4", 5))
adapted = adapt(model, support, initialization="omniglot-maml")  # three steps of SGD
with torch.no_grad():
    found = {"before": model(others).argmax(1), "after": adapted(others).argmax(1)}
for when, classes in found.items():
    right = (classes == torch.arange(75) // 15).float().mean()
    print(f"{when}: {right:.0%} of 75 drawings")

figure, axes = plt.subplots(5, 16, figsize=(12, 4.4))
for k, axis in enumerate(axes.flat):
    row, column = divmod(k, 16)
    predicted = row if column == 0 else int(found["after"][row * 15 + column - 1])
    color = "black" if column == 0 else "green" if predicted == row else "red"
    axis.set(title="learned" if k == 0 else "", xticks=[], yticks=[])
    axis.set_xlabel("ABCDE"[predicted], color=color)
    axis.imshow(drawings[row, column, 0], cmap="gray_r")
figure.savefig("new_characters.png", dpi=100, bbox_inches="tight")

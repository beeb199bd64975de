"""Draws embeddings with two outputs, trained by cross-entropy and by losses with a margin.

    python examples/embeddings_in_the_plane.py --out plane.png

The same network embeds 8 x 8 digits as points of the plane, once for each loss. Rows of the figure:
points of digits that were not trained on, and their directions on the unit circle, with the weight
vectors of the classes as lines. Prints two figures of these digits for each loss: how many score
highest for their own class, and the mean angle to the mean direction of their class.
"""

import argparse

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from learned_opt import LearnedOptimizer
from learned_opt.files import expand
from meta_train.few_shot.margins.arcface import ArcFace
from meta_train.few_shot.margins.cosface import CosFace
from meta_train.tasks.data.digits import read_digits

CLASSES = 10
BATCH = 128


class PlainCrossEntropy(nn.Module):
    """Cross-entropy of inner products with one weight vector per class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 2))

    def forward(self, embedded, labels, step):
        """The loss of points `[M, 2]`, 0-dim; losses with a margin read the step, this one not."""
        return cross_entropy(embedded @ self.weight.T, labels)


# Margins are smaller than in many dimensions: ten classes are 36 degrees (0.63) apart on a circle,
# and an angle theta to the own vector must satisfy theta + m < 0.63 - theta.
LOSSES = {
    "cross-entropy": PlainCrossEntropy,
    "cosines, no margin": lambda: CosFace(classes=CLASSES, features=2, margin=0.0),
    "CosFace, m = 0.1": lambda: CosFace(classes=CLASSES, features=2, margin=0.1),
    "ArcFace, m = 0.2": lambda: ArcFace(classes=CLASSES, features=2, margin=0.2),
}


def train(make_loss, steps):
    """A network that was trained, `[M, 1, 8, 8]` -> `[M, 2]`, and the vectors of the classes."""
    torch.manual_seed(0)
    images, labels = read_digits()["train"]
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 2)),
    )
    loss = make_loss()
    optimizer = LearnedOptimizer([*network.parameters(), *loss.parameters()])
    for step in range(steps):
        rows = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        loss(network(images[rows]), labels[rows], torch.tensor(step)).backward()
        optimizer.step()
    optimizer.eval()  # the running average of the weights
    vectors = loss.weight.detach()
    return network, vectors if isinstance(loss, PlainCrossEntropy) else normalize(vectors, dim=-1)


def angles_to_own_mean(directions, labels):
    """Degrees between each direction `[M, 2]` and the mean direction of its class."""
    means = torch.stack([directions[labels == k].mean(0) for k in range(CLASSES)])
    cosines = (directions * normalize(means, dim=-1)[labels]).sum(-1)
    return cosines.clamp(-1, 1).arccos().rad2deg()


def main(out, steps):
    torch.set_num_threads(1)
    images, labels = read_digits()["test"]  # 397
    figure = Figure(figsize=(3 * len(LOSSES), 6.3), layout="constrained")
    axes = figure.subplots(2, len(LOSSES))
    for (name, make_loss), (upper, lower) in zip(LOSSES.items(), axes.T, strict=True):
        network, vectors = train(make_loss, steps)
        with torch.no_grad():
            points = network(images)
        directions = normalize(points, dim=-1)
        right = ((points @ vectors.T).argmax(-1) == labels).float().mean()
        angle = angles_to_own_mean(directions, labels).mean()
        print(f"{name:<20}{right:.1%} right, {angle:.1f} degrees")
        for axis, shown in ((upper, points), (lower, directions)):
            axis.scatter(*shown.T.tolist(), c=labels.tolist(), cmap="tab10", s=8)
            axis.set_aspect("equal", adjustable="datalim")
            axis.set(xticks=[], yticks=[])
        upper.set_title(f"{name}\n{right:.1%} right, {angle:.1f}°", fontsize=10)
        for k, (x, y) in enumerate(normalize(vectors, dim=-1).tolist()):
            lower.plot([0, x], [0, y], color=f"C{k}", lw=1)
            lower.annotate(str(k), (1.15 * x, 1.15 * y), ha="center", va="center", color=f"C{k}")
        lower.margins(0.25)  # room for the numbers
    figure.savefig(out, dpi=100)
    print(f"figure: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=expand, default="plane.png", help="the figure")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each network")
    main(**vars(parser.parse_args()))

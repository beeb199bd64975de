"""Sixteen small fixed tasks unlike all other families, to select meta-learned rules on.

A rule that is selected on members of the families that it was trained on looks better than it is
elsewhere. No two of these tasks share a kind of network, and no family trains one of these kinds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from meta_train.tasks.base import SampledTask, Task, TaskFamily
from meta_train.tasks.data.digits import read_digits
from meta_train.tasks.data.text import VOCABULARY, read_windows
from meta_train.tasks.families import varied_networks as networks
from meta_train.tasks.families.regression import WholeBatches
from meta_train.tasks.families.sampling import sample_choice
from meta_train.tasks.module_task import ModuleTask

Maker: TypeAlias = Callable[[torch.Generator], Task]


class Varied(TaskFamily):
    """The tasks of this module. Their data are made anew by the same recipe on every machine.

    For validation; see `meta_train.evaluation.validation.ratio_validator`.

    Examples:
        >>> len(create_task("varied").held_out())
        16
    """

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw one of the tasks."""
        return SampledTask("varied", _make(sample_choice(generator, list(_MAKERS))))

    def held_out(self) -> dict[str, Task]:
        """All tasks."""
        return {name: _make(name) for name in _MAKERS}


@functools.cache
def _make(name: str) -> Task:
    return _MAKERS[name](torch.Generator().manual_seed(list(_MAKERS).index(name)))


def _digits() -> tuple[Tensor, Tensor]:
    images, labels = read_digits()["train"]
    return images.reshape(-1, 8, 8), labels


def _mixer(generator: torch.Generator) -> Task:
    images, labels = _digits()
    patches = images.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(images), 16, 4)
    make = functools.partial(networks.Mixer, 16, 4, 16, 10)
    return ModuleTask(make, nn.functional.cross_entropy, (patches, labels), 32)


def _gated_mlp(generator: torch.Generator) -> Task:
    images, labels = _digits()
    wrong = torch.rand(labels.shape, generator=generator) < 0.2
    noisy = torch.where(wrong, torch.randint(10, labels.shape, generator=generator), labels)
    make = functools.partial(networks.GatedMLP, 64, 16, 10)
    return ModuleTask(make, nn.functional.cross_entropy, (images.flatten(1), noisy), 16)


def _highway(generator: torch.Generator) -> Task:
    x = torch.randn(512, 8, generator=generator)
    y = ((x[:, :4] > 0).sum(-1) % 2).long()  # parity of four signs
    make = functools.partial(networks.Highway, 8, 16, 2, 6)
    return ModuleTask(make, nn.functional.cross_entropy, (x, y), 32)


def _dilated(generator: torch.Generator) -> Task:
    windows = read_windows(None, "validation", 16)
    make = functools.partial(networks.DilatedConvolutions, VOCABULARY, 16)
    data = windows[:, :-1], windows[:, 1:]
    return ModuleTask(make, nn.functional.cross_entropy, data, 16, full_rows=256)


def _deep_set(generator: torch.Generator) -> Task:
    sets = torch.randn(512, 10, 2, generator=generator)
    y = torch.stack([sets[..., 0].amax(1), sets.square().sum(-1).amin(1).sqrt()], dim=-1)
    make = functools.partial(networks.DeepSet, 2, 24, 2)
    return ModuleTask(make, nn.functional.mse_loss, (sets, y), 32)


def _radial_basis(generator: torch.Generator) -> Task:
    x = torch.randn(400, 3, generator=generator)
    y = torch.sin(2 * x[:, :1]) * x[:, 1:2] + 0.2 * torch.randn(400, 1, generator=generator)
    make = functools.partial(networks.RadialBasis, 3, 24, 1)
    return ModuleTask(make, nn.functional.mse_loss, (x, y), 16)


def _euler_flow(generator: torch.Generator) -> Task:
    turn = 3 * math.pi * torch.rand(600, generator=generator)
    label = torch.randint(2, (600,), generator=generator)
    angle = turn + math.pi * label
    x = (turn / 6).unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], dim=-1)
    x = x + 0.05 * torch.randn(x.shape, generator=generator)
    make = functools.partial(networks.EulerFlow, 2, 16, 2)
    return ModuleTask(make, nn.functional.cross_entropy, (x, label), 32)


def _graph(generator: torch.Generator) -> Task:
    group = torch.arange(90) % 3
    odds = torch.where(group.unsqueeze(1) == group, 0.2, 0.04)
    edges = (torch.rand(90, 90, generator=generator) < odds).triu(1)
    links = (edges | edges.T).float() + torch.eye(90)
    root = links.sum(-1).rsqrt()
    make = functools.partial(networks.GraphConvolutions, root.unsqueeze(1) * links * root, 16, 3)
    nodes = torch.arange(90)
    return WholeBatches(ModuleTask(make, nn.functional.cross_entropy, (nodes, group), 90))


def _factorization_machine(generator: torch.Generator) -> Task:
    fields, categories = 6, 40
    hidden = torch.randn(fields, categories, 3, generator=generator)
    values = torch.randint(categories, (3000, fields), generator=generator)
    rows = hidden[torch.arange(fields), values]
    score = (rows.sum(1).square() - rows.square().sum(1)).sum(-1) / 8
    y = (torch.rand(3000, generator=generator) < torch.sigmoid(score)).float()
    make = functools.partial(networks.FactorizationMachine, categories, fields, 4)
    loss = nn.functional.binary_cross_entropy_with_logits
    return ModuleTask(make, loss, (values, y), 64, full_rows=1000)


def _triplets(generator: torch.Generator) -> Task:
    images, labels = _digits()
    flat = images.flatten(1)
    order = torch.randint(len(flat), (2000,), generator=generator)
    alike = (labels[order].unsqueeze(1) == labels).float()
    near = torch.multinomial(alike, 1, generator=generator).squeeze(1)
    far = torch.multinomial(1 - alike, 1, generator=generator).squeeze(1)
    triplets = torch.stack([flat[order], flat[near], flat[far]], dim=1)
    make = functools.partial(networks.SharedEncoder, 64, 24, 4)
    return ModuleTask(make, _closer, (triplets, torch.zeros(2000)), 16, full_rows=1000)


def _closer(nearer: Tensor, _: Tensor) -> Tensor:
    return nn.functional.softplus(1 + nearer).mean()


def _deep_linear(generator: torch.Generator) -> Task:
    x = torch.randn(200, 12, generator=generator)
    left, right = (torch.randn(12, 3, generator=generator) for _ in range(2))
    make = functools.partial(networks.deep_linear, 12, 12, 12, 4)
    task = ModuleTask(make, nn.functional.mse_loss, (x, x @ left @ right.T / 12**0.5), 32)
    return WholeBatches(task)


def _denoiser(generator: torch.Generator) -> Task:
    angle = 2 * math.pi * torch.rand(2000, generator=generator)
    clean = torch.stack([angle.cos(), (2 * angle).sin()], dim=-1)
    level, noise = (
        torch.rand(2000, 1, generator=generator),
        torch.randn(2000, 2, generator=generator),
    )
    noisy = (1 - level).sqrt() * clean + level.sqrt() * noise
    data = torch.cat([noisy, 2 * level - 1], dim=-1), noise
    make = functools.partial(networks.denoiser, 32)
    return ModuleTask(make, nn.functional.mse_loss, data, 64, full_rows=1000)


def _quantiles(generator: torch.Generator) -> Task:
    x = 4 * torch.rand(600, 2, generator=generator) - 2
    spread = 0.1 + x[:, :1].square() / 4
    y = torch.sin(2 * x[:, 1:]) + spread * torch.randn(600, 1, generator=generator)
    make = functools.partial(_mlp, 2, 24, 3)
    return ModuleTask(make, _pinball, (x, y), 4)


def _pinball(outputs: Tensor, targets: Tensor) -> Tensor:
    """Quantile loss (Koenker & Bassett 1978) of the quantiles 0.1, 0.5 and 0.9."""
    level = outputs.new_tensor([0.1, 0.5, 0.9])
    error = targets - outputs
    return torch.maximum(level * error, (level - 1) * error).mean()


def _counts(generator: torch.Generator) -> Task:
    x = torch.randn(500, 6, generator=generator)
    rate = torch.exp(x[:, :1] - 0.5 * x[:, 1:2] * x[:, 2:3])
    make = functools.partial(_mlp, 6, 16, 1)
    return ModuleTask(make, _deviance, (x, torch.poisson(rate, generator)), 32)


def _deviance(log_rate: Tensor, counts: Tensor) -> Tensor:
    """Half the Poisson deviance; 0 for a perfect fit."""
    log_rate = 8 * torch.tanh(log_rate / 8)
    saturated = torch.xlogy(counts, counts) - counts
    return (saturated - counts * log_rate + log_rate.exp()).mean()


def _margins(generator: torch.Generator) -> Task:
    centres = 1.5 * torch.randn(5, 10, generator=generator)
    label = torch.randint(5, (400,), generator=generator)
    x = centres[label] + 1.5 * torch.randn(400, 10, generator=generator)
    scale = torch.logspace(-1, 1, 10)  # features in different units
    make = functools.partial(nn.Linear, 10, 5)
    return ModuleTask(make, _margin, (x * scale, label), 16)


def _margin(scores: Tensor, labels: Tensor) -> Tensor:
    """The multi-class hinge loss of Crammer & Singer 2001."""
    own = scores.gather(1, labels.unsqueeze(1))
    right = nn.functional.one_hot(labels, 5).bool()
    return torch.relu(1 + scores - own).masked_fill(right, 0.0).sum(1).mean()


def _fourier(generator: torch.Generator) -> Task:
    x = 2 * torch.rand(256, 1, generator=generator) - 1
    y = torch.sin(9 * x) + 0.5 * torch.sign(torch.sin(4 * x))
    make = functools.partial(networks.fourier_net, 1, 32, 1)
    return WholeBatches(ModuleTask(make, nn.functional.mse_loss, (x, y), 32))


def _mlp(inputs: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.Softplus(),
        nn.Linear(width, width),
        nn.Softplus(),
        nn.Linear(width, outputs),
    )


_MAKERS: Mapping[str, Maker] = {
    "mixer": _mixer,
    "gated MLP": _gated_mlp,
    "highway": _highway,
    "dilated convolutions": _dilated,
    "deep set": _deep_set,
    "radial basis": _radial_basis,
    "Euler flow": _euler_flow,
    "graph": _graph,
    "factorization machine": _factorization_machine,
    "triplets": _triplets,
    "deep linear": _deep_linear,
    "denoiser": _denoiser,
    "quantiles": _quantiles,
    "counts": _counts,
    "margins": _margins,
    "waves": _fourier,
}

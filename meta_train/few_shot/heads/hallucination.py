"""Hallucination: a generator adds imagined examples to the support set.

Wang et al. 2018, "Low-shot learning from imaginary data" (arXiv 1801.05401), section 4.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from meta_train.few_shot.heads.metric import squared_distances
from meta_train.few_shot.heads.pairs import PairClassifier
from meta_train.runtime.checks import check_at_least
from meta_train.tasks.episodes.networks import FewShotNetwork


class ExampleGenerator(nn.Module):
    """G(x, z): features of an imagined example, from those of a real one and noise.

    Three linear layers, each with ReLU: features are not negative. Weights start as identity
    matrices with zeros beside or below them, so that at first G(x, z) = x for x >= 0.

    Args:
        features: size of x and of the result.
        noise: size of z.
        units: size of the hidden layers.
    """

    def __init__(self, features: int, noise: int, units: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((features + noise, units, units, features)):
            layer = nn.Linear(inputs, outputs)
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """`[examples, features]` and `[examples, noise]` to `[examples, features]`."""
        imagined: Tensor = self.layers(torch.cat([x, z], -1))
        return imagined


class Hallucination(PairClassifier):
    """Prototypical networks on real and imagined examples (Wang et al. 2018, "PN w/ G").

    An `ExampleGenerator` imagines examples of each class from the embedded support images of the
    class, which take turns. The classifier and the generator learn together, from the loss on the
    query images. The paper embeds with a network that it has trained before; here the embedding
    learns too. Their prototype matching networks are left out.

    Args:
        network: its body is the embedding.
        ways: classes per episode (N).
        imagined: imagined examples per class.
        noise: size of the noise z, which is normal; None for as many as features.
        units: units of the generator's hidden layers; None for as many as features.

    Raises:
        ValueError: a number below 1, or fewer units than features: no identity fits.
    """

    def __init__(
        self,
        network: FewShotNetwork,
        *,
        ways: int,
        imagined: int = 5,
        noise: int | None = None,
        units: int | None = None,
    ) -> None:
        super().__init__(network, ways=ways)
        self.imagined = imagined
        self.noise = self.features if noise is None else noise
        units = self.features if units is None else units
        check_at_least(1, imagined=imagined, noise=self.noise)
        if units < self.features:
            raise ValueError(f"units must be at least the {self.features} features, got {units}")
        self.generator = ExampleGenerator(self.features, self.noise, units)

    def draw_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The noise z of every imagined example, `[ways * imagined, noise]`."""
        return (torch.randn(self.ways * self.imagined, self.noise, generator=generator),)

    def add_examples(
        self, support: Tensor, labels: Tensor, *noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `EpisodeClassifier`."""
        (z,) = noise
        by_class = support[labels.argsort(stable=True)].unflatten(0, (self.ways, -1))
        turns = torch.arange(self.imagined, device=support.device) % by_class.shape[1]
        imagined = self.generator(by_class[:, turns].flatten(0, 1), z)
        classes = torch.arange(self.ways, device=support.device).repeat_interleave(self.imagined)
        return torch.cat([support, imagined]), torch.cat([labels, classes])

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        return -squared_distances(query, self.prototypes(support, labels))

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Minus squared distances of real images; see `PairClassifier`."""
        return -squared_distances(query, support)

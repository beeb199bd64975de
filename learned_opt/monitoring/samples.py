"""Takes the same coordinates of each tensor at every observation."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from learned_opt.rules.base import State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule


class CoordinateSamples:
    """A fixed random sample of each tensor's coordinates; draws no global random number.

    Args:
        coordinates: most coordinates in the sample of a tensor.
        seed: random seed of the samples.
    """

    def __init__(self, coordinates: int, seed: int) -> None:
        self.coordinates = coordinates
        self.seed = seed
        self._places: dict[tuple[str, int], Tensor] = {}

    def places(self, name: str, size: int) -> Tensor:
        """At most `coordinates` places out of `size`, always the same, in random order: `[n]`."""
        key = name, size
        if key not in self._places:
            count = min(size, self.coordinates)
            places = random.Random(f"{self.seed} {name}").sample(range(size), count)
            self._places[key] = torch.tensor(places, dtype=torch.long)
        return self._places[key]

    def take(
        self, rule: UpdateRule, name: str, gradient: Tensor, parameter: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """Gradient, parameter and state of a tensor's sample, `[n]`, or of the whole tensor.

        Only a `CoordinateRule` can be evaluated on a sample.
        """
        tensors = {**state, "gradient": gradient, "parameter": parameter}
        if isinstance(rule, CoordinateRule):
            size, dims = parameter.numel(), parameter.dim()
            places = self.places(name, size).to(parameter.device)
            for key, value in tensors.items():
                if key != "step":
                    tensors[key] = value.reshape(size, *value.shape[dims:])[places]
        tensors = {key: value.detach().to(rule.device) for key, value in tensors.items()}
        return tensors.pop("gradient"), tensors.pop("parameter"), tensors

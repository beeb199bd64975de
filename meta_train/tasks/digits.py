"""Small multi-layer perceptrons on handwritten digits: real data that is installed already.

scikit-learn's `load_digits`: 1797 grey images of 8 x 8 pixels (Alpaydin & Kaynak 1998, UCI).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from learned_opt.names import look_up
from meta_train.tasks.base import Task
from meta_train.tasks.module_task import ModuleTask

SPLITS = {"train": (0, 1000), "validation": (1000, 1400), "test": (1400, 1797)}
"""Disjoint images: meta-training, model selection, held out."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


class DigitsMLP(ModuleTask):
    """Classify digits with a multi-layer perceptron, 64 pixels to 10 classes.

    Args:
        split: which images: "train" (1000), "validation" (400) or "test" (397).
        hidden: units of each hidden layer.
        activation: between layers.
        batch_size: images per step.

    Raises:
        ValueError: an unknown split or activation, or a size below 1.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        hidden: Sequence[int] = (20,),
        activation: str = "sigmoid",
        batch_size: int = 128,
    ) -> None:
        make_activation = look_up("activation", activation, ACTIVATIONS)
        first, last = look_up("split", split, SPLITS)
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden must hold positive sizes, got {tuple(hidden)}")
        sizes = (64, *hidden, 10)

        images, labels = _digits()
        data = images[first:last], labels[first:last]
        make_module = functools.partial(_make_mlp, sizes, make_activation)
        super().__init__(make_module, nn.functional.cross_entropy, data, batch_size)
        self.hidden = tuple(hidden)
        self.activation = activation

    def _variant(
        self, split: str, hidden: Sequence[int] | None = None, activation: str | None = None
    ) -> DigitsMLP:
        return DigitsMLP(
            split=split,
            hidden=hidden or self.hidden,
            activation=activation or self.activation,
            batch_size=self.batch_size,
        )

    def validation(self) -> Task:
        """The same networks on the validation images."""
        return self._variant("validation")

    def held_out(self) -> dict[str, Task]:
        """The same networks on the test images; then wider ones, and ones with ReLU."""
        wide = tuple(64 for _ in self.hidden)
        return {
            "same family, held-out images": self._variant("test"),
            "wider, 64 units": self._variant("test", hidden=wide),
            "ReLU": self._variant("test", activation="relu"),
        }


def _make_mlp(sizes: Sequence[int], make_activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[k], sizes[k + 1]), make_activation()]
    return nn.Sequential(*layers[:-1])


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    """Images `[1797, 64]` in [0, 1] and labels `[1797]`, in one fixed random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.data).float() / 16
    return images[order], torch.from_numpy(data.target).long()[order]

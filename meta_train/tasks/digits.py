"""One small MLP on handwritten digits, which scikit-learn installs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn

from learned_opt.registry import look_up
from meta_train.tasks.base import Task
from meta_train.tasks.data.digits import SPLITS, read_digits
from meta_train.tasks.module_task import ModuleTask
from meta_train.tasks.networks import ACTIVATIONS, make_mlp


class DigitsMLP(ModuleTask):
    """Classify digits with an MLP of 64 inputs and 10 outputs.

    Args:
        split: "train" (1000 images), "validation" (400) or "test" (397).
        hidden: units of each hidden layer.
        activation: a key of `meta_train.tasks.networks.ACTIVATIONS`.
        batch_size: images per inner step.

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
        look_up("split", split, SPLITS)
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden must hold positive sizes, got {tuple(hidden)}")
        images, labels = read_digits()[split]
        make_module = functools.partial(make_mlp, (64, *hidden, 10), make_activation)
        data = images.flatten(1), labels
        super().__init__(make_module, nn.functional.cross_entropy, data, batch_size)
        self.split = split
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
        """The same network on the validation images."""
        return self._variant("validation")

    def held_out(self) -> dict[str, Task]:
        """On the test images: the same network, a wider one, and one with ReLU."""
        wide = tuple(64 for _ in self.hidden)
        return {
            "same family, held-out images": self._variant("test"),
            "wider, 64 units": self._variant("test", hidden=wide),
            "ReLU": self._variant("test", activation="relu"),
        }

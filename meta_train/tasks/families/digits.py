"""One small MLP on handwritten digits, which scikit-learn installs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from learned_opt.registry import look_up
from meta_train.tasks.base import Task
from meta_train.tasks.data.digits import SPLITS, read_digits
from meta_train.tasks.families.networks import ACTIVATIONS, make_mlp
from meta_train.tasks.module_task import ModuleTask


class DigitsMLP(ModuleTask):
    """Classify digits with an MLP of 64 inputs and 10 outputs.

    Args:
        split: "train" (1000 images), "validation" (400) or "test" (397).
        hidden: units of each hidden layer.
        activation: a key of `meta_train.tasks.families.networks.ACTIVATIONS`.
        batch_size: images per inner step.
        variants: other networks to compare optimizers on, beside this one: `hidden` or `activation`
            by title, such as {"two layers": {"hidden": [20, 20]}}. By default one with 64 units in
            each layer, and one with ReLU.

    Raises:
        ValueError: an unknown split, activation or setting of a variant, or a size below 1.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        hidden: Sequence[int] = (20,),
        activation: str = "sigmoid",
        batch_size: int = 128,
        variants: Mapping[str, Mapping[str, Any]] | None = None,
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
        self.variants = variants
        for title, changes in (variants or {}).items():
            if not changes.keys() <= {"hidden", "activation"}:
                raise ValueError(
                    f"variant {title!r} may set hidden and activation, got {', '.join(changes)}"
                )
            self._variant("test", **changes)  # refused now, not after hours of meta-training

    def _variant(
        self, split: str, hidden: Sequence[int] | None = None, activation: str | None = None
    ) -> DigitsMLP:
        return DigitsMLP(
            split=split,
            hidden=self.hidden if hidden is None else hidden,
            activation=self.activation if activation is None else activation,
            batch_size=self.batch_size,
        )

    def validation(self) -> Task:
        """The same network on the validation images."""
        return self._variant("validation")

    def held_out(self) -> dict[str, Task]:
        """On the test images: the same network, and its `variants`."""
        variants = self.variants
        if variants is None:
            wide = [64 for _ in self.hidden]
            variants = {"wider, 64 units": {"hidden": wide}, "ReLU": {"activation": "relu"}}
        return {
            "same family, held-out images": self._variant("test"),
            **{title: self._variant("test", **changes) for title, changes in variants.items()},
        }

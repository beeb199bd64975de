"""The loss of `adapt` where none is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

GIVE_A_LOSS = "give a loss, such as loss=torch.nn.functional.mse_loss"


def cross_entropy_of_classes(output: Any, targets: Any) -> Tensor:
    """The cross-entropy of scores with classes, or with their probabilities; 0-dim.

    Args:
        output: scores, `[N, classes, ...]`, or `[classes]` of one example.
        targets: classes, `[N, ...]` integers, or probabilities in the shape of the scores.

    Raises:
        ValueError: anything else, such as targets of a regression; the message says what to give.
    """
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor):
        raise ValueError(
            "the default loss takes one tensor of scores and one of targets, got "
            f"{type(output).__name__} and {type(targets).__name__}: give a loss"
        )
    if output.dim() > 1 and output.shape[1] == 1:
        raise ValueError(
            f"the module's output is {list(output.shape)}: the cross-entropy of one class is "
            f"always 0; {GIVE_A_LOSS}"
        )
    if targets.is_floating_point() and not _are_probabilities(targets):
        raise ValueError(
            f"the targets, {list(targets.shape)} of {targets.dtype}, are neither classes "
            f"(integers) nor probabilities of classes: {GIVE_A_LOSS}"
        )
    scores = output.shape
    classes = scores[:1] + scores[2:] if len(scores) > 1 else torch.Size()
    if targets.shape != (scores if targets.is_floating_point() else classes):
        raise ValueError(
            f"the targets, {list(targets.shape)} of {targets.dtype}, do not fit the module's "
            f"output, {list(scores)}: classes would have shape {list(classes)}; or {GIVE_A_LOSS}"
        )
    if not targets.is_floating_point():
        targets = targets.long()  # cross_entropy takes int64 and uint8 only
    return nn.functional.cross_entropy(output, targets)


def _are_probabilities(targets: Tensor) -> bool:
    sums = targets.sum(min(1, targets.dim() - 1))
    return bool((targets >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=0.01))

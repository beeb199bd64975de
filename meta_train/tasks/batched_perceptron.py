"""The losses of many perceptrons at once, by batched matrix products.

A perceptron is small, so under `vmap` most of the time goes to starting operations. Written out for
all runs, loss and gradient take about a third of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learned_opt.adaptation.plain_modules import is_plain
from meta_train.tasks.base import Batch, Tensors
from meta_train.tasks.data.in_memory import InMemoryDataset

ACTIVATIONS = frozenset({nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Identity})
"""Activations that treat numbers alike and alone, so that an axis of runs changes nothing."""


def loss_of_perceptrons(
    module: nn.Module, loss: Callable[[Any, Any], Tensor], datasets: Sequence[InMemoryDataset]
) -> LossOfPerceptrons | None:
    """Make the loss of many runs of a perceptron, each with its own weights.

    Examples:
        Two runs on batches `[2, n, 3]` and `[2, n]`::

            losses = loss_of_perceptrons(module, nn.functional.cross_entropy, [dataset])
            values, _ = losses({"0.weight": weights, "0.bias": biases}, {}, batch)  # [2]

    Args:
        module: the network.
        loss: of its output and the targets.
        datasets: all data that the network is given.

    Returns:
        See `BatchedLoss.many` and `gradients`. None unless the module is an `nn.Sequential` of
        linear layers and `ACTIVATIONS`, inputs are `[M, features]` or flattened first, and the
        loss is `torch.nn.functional.cross_entropy` of classes or `mse_loss`.
    """
    layers = _layers(module)
    if layers is None:
        return None
    inputs = [data.inputs for data in datasets]
    if not all(isinstance(value, Tensor) for value in inputs):
        return None
    if type(layers[0][1]) is not nn.Flatten and any(value.dim() != 2 for value in inputs):
        return None
    outputs = [part.out_features for _, part in layers if isinstance(part, nn.Linear)][-1]
    loss_of_outputs = _loss_of_outputs(loss, outputs, [data.targets for data in datasets])
    return None if loss_of_outputs is None else LossOfPerceptrons(tuple(layers), loss_of_outputs)


@final
@dataclass(frozen=True)
class LossOfPerceptrons:
    """The loss, as an object that can be pickled.

    Attributes:
        layers: of the network, with their names, in order.
        loss_of_outputs: `(outputs [runs, n, outputs], targets [runs, n, ...]) -> [runs]`.
    """

    layers: tuple[tuple[str, nn.Module], ...]
    loss_of_outputs: Callable[[Tensor, Tensor], Tensor]

    def __call__(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        """See `BatchedLoss.many`."""
        x, targets = batch
        for name, part in self.layers:
            if isinstance(part, nn.Linear):
                weight, bias = _weights(name, part, parameters)
                x = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
            elif isinstance(part, nn.Flatten):
                x = x.flatten(2)
            else:
                x = part(x)
        return self.loss_of_outputs(x, targets), buffers

    def gradients(
        self, parameters: Tensors, buffers: Tensors, batch: Batch, factors: Tensor | None
    ) -> tuple[Tensor, Tensors, Tensors]:
        """See `BatchedLoss.gradients`.

        The operations are those of autograd. Between linear layers, autograd itself takes them.
        """
        x, targets = batch
        steps: list[_Step] = []
        with torch.no_grad():
            for name, part in self.layers:
                if isinstance(part, nn.Linear):
                    weight, bias = _weights(name, part, parameters)
                    steps.append((name, x, weight, bias is not None))
                    x = _Linear.forward(x, weight, bias)
                elif isinstance(part, nn.Flatten):
                    x = x.flatten(2)
                elif steps and not isinstance(part, nn.Identity):
                    x, after = _apply(part, x)
                    steps.append(after)
                else:
                    x = part(x)
            x, after = _apply(lambda outputs: self.loss_of_outputs(outputs, targets), x)
            grad = torch.ones_like(x) if factors is None else factors
            return x, buffers, _go_back([*steps, after], grad)


_Step: TypeAlias = tuple[str, Tensor, Tensor, bool] | tuple[Tensor, Tensor]
"""The name of a linear layer, its input, its weight, and whether it has a bias; or input and output
of another operation, with the graph between them."""


def _apply(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Apply a function; return the result without and with its graph."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
    return y.detach(), (x, y)


def _go_back(steps: Sequence[_Step], grad: Tensor) -> Tensors:
    """Gradients by name, from that of the result of the last step."""
    found: Tensors = {}
    for place, step in reversed(list(enumerate(steps))):
        if len(step) == 2:
            (grad,) = torch.autograd.grad(step[1], step[0], grad)
            continue
        name, x, weight, has_bias = step
        if has_bias:
            found[f"{name}.bias"] = grad.sum(1)
        found[f"{name}.weight"] = torch.bmm(grad.transpose(1, 2), x)
        if place:
            grad = torch.bmm(grad, weight)
    return found


def _weights(name: str, part: nn.Linear, parameters: Tensors) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, `[runs, out, in]` and `[runs, out]`."""
    bias = None if part.bias is None else parameters[f"{name}.bias"]
    return parameters[f"{name}.weight"], bias


class _Linear(torch.autograd.Function):
    """A linear layer of many runs: `[runs, n, in] -> [runs, n, out]`.

    The gradient of the weight comes out as the weight lies in memory. Autograd's own would be a
    transposed view, which every later operation reads more slowly.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        transposed = weight.transpose(1, 2)
        if bias is None:
            return torch.bmm(x, transposed)
        return torch.baddbmm(bias.unsqueeze(1), x, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients that can be differentiated again."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            torch.bmm(grad, weight) if needs_x else None,
            torch.bmm(grad.transpose(1, 2), x) if needs_weight else None,
            grad.sum(1) if needs_bias else None,
        )


def _layers(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """The layers of a perceptron by name, in order; None if the module is none."""
    if type(module) is not nn.Sequential or not is_plain(module):
        return None
    layers = list(module.named_children())
    linear = [part for _, part in layers if type(part) is nn.Linear]
    first = layers[0][1] if layers else None
    flattening = type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)
    known = (
        flattening
        + len(linear)
        + sum(
            type(part) in ACTIVATIONS and not vars(part).get("inplace")
            for _, part in layers[flattening:]
        )
    )
    tensors = sum(len(list(part.parameters())) for part in linear)
    tied = len(layers) < len(module) or len(list(module.parameters())) < tensors
    return layers if linear and known == len(layers) and not tied else None


def _loss_of_outputs(
    loss: Callable[[Any, Any], Tensor], outputs: int, targets: Sequence[Any]
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """See `LossOfPerceptrons`; None for other losses or other data."""
    if not all(isinstance(y, Tensor) for y in targets):
        return None
    if loss is F.mse_loss and all(y.shape[1:] == (outputs,) for y in targets):
        return _mean_squares
    # A class of -100 is left out of the mean; classes that do not exist raise.
    if loss is F.cross_entropy and all(
        y.dim() == 1 and y.dtype == torch.int64 and 0 <= int(y.min()) and int(y.max()) < outputs
        for y in targets
    ):
        return _cross_entropies
    return None


def _mean_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over n and outputs, `[runs]`."""
    return F.mse_loss(outputs, targets, reduction="none").mean((1, 2))


def _cross_entropies(logits: Tensor, classes: Tensor) -> Tensor:
    """The mean over n of `[runs, n, classes]`, `[runs]`.

    By hand, and with the classes outside: on rows of ten classes torch's kernels take three times
    as long.
    """
    logits = logits.transpose(1, 2).contiguous()
    shifted = logits - logits.detach().amax(1, keepdim=True)
    chosen = shifted.gather(1, classes.unsqueeze(1)).squeeze(1)
    return (shifted.exp().sum(1).log() - chosen).mean(-1)

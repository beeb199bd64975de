"""Recomputes the running statistics of normalisation at the weights that are evaluated.

As `torch.optim.swa_utils.update_bn`, but layers that are not trained keep their statistics, and
instance normalisation with running statistics is recomputed, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from learned_opt.checks.arguments import check_type, shown


def check_batches(
    model: nn.Module | None, batches: Iterable[Any] | None, owned: Iterable[Tensor]
) -> None:
    """Check that statistics can be recomputed where there are some.

    Args:
        model: the model, or None.
        batches: batches of training data, or None.
        owned: parameters of the optimizer.

    Raises:
        ValueError: a model with running statistics without batches, batches without a model, or a
            model of which the optimizer has no parameter, such as a copy.
        TypeError: the model is none, or the batches are a single one.
    """
    if model is None:
        if batches is not None:
            raise ValueError("give the model beside its batches: eval(model, batches)")
        return
    check_type("model", model, nn.Module, "an nn.Module")
    if isinstance(batches, (Tensor, Mapping)):
        raise TypeError(
            f"batches must be a loader or a list of batches, got {shown(batches)}: give [batch]"
        )
    if set(owned).isdisjoint(model.parameters()):
        raise ValueError(
            "the optimizer has no parameter of this model: give the model that it trains, no copy"
        )
    if batches is None:
        for name, module in model.named_modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                layer = f"layer {name!r}" if name else "the model"
                raise ValueError(
                    f"{layer} has running statistics of other weights: give batches "
                    "of training data, eval(model, batches), to recompute them"
                )


def recompute_statistics(
    model: nn.Module, batches: Iterable[Any], owned: Iterable[Tensor], trained: Iterable[Tensor]
) -> None:
    """Replace running means and variances by the averages over all batches.

    Args:
        model: the model; its parts keep their training or evaluation mode.
        batches: inputs. Of a list or tuple, the first part is the input; a mapping gives keyword
            arguments. Tensors are moved to the model's device.
        owned: parameters of the optimizer. Layers whose scale is not among them are left alone.
        trained: those that it moves. Layers that the model holds before the first of them are left
            alone, too: a frozen backbone may be trained with, and keeps, statistics of other data.

    Raises:
        ValueError: there is no batch. After this or any error of the model or the batches, the
            statistics are what they were.
    """
    every = [module for module in model.modules() if isinstance(module, _NormBase)]
    layers = _layers_to_recompute(model, set(owned), set(trained))
    if not layers:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    statistics = [(value, value.clone()) for layer in layers for value in layer.buffers()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = 0
    try:
        model.train()
        for layer in every:
            layer.eval()
        for layer in layers:
            layer.train()
        for batch in batches:
            if count == 0:
                for layer in layers:
                    layer.reset_running_stats()
            count += 1
            for layer in layers:  # the average over all batches; instance norm does not count them
                layer.momentum = 1 / count if isinstance(layer, _InstanceNorm) else None
            _call(model, batch, device)
        if count == 0:
            raise ValueError("there is no batch to recompute running statistics from")
    except BaseException:  # Ctrl-C, too
        for value, before in statistics:
            value.copy_(before)
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode
        for layer, momentum in momenta.items():
            layer.momentum = momentum


def _layers_to_recompute(
    model: nn.Module, owned: set[Tensor], trained: set[Tensor]
) -> list[_NormBase]:
    layers: list[_NormBase] = []
    moved = False
    for module in model.modules():
        moved = moved or any(parameter in trained for parameter in module.parameters(recurse=False))
        if isinstance(module, _NormBase) and module.running_mean is not None and moved:
            if module.weight is None or module.weight in owned:
                layers.append(module)
    return layers


def _call(model: nn.Module, batch: Any, device: torch.device) -> None:
    if isinstance(batch, Mapping):
        model(**{key: _moved(value, device) for key, value in batch.items()})
        return
    model(_moved(batch[0] if isinstance(batch, (list, tuple)) else batch, device))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value

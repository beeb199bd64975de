"""Any module, loss and data as a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.adaptation.support_set import module_arguments
from learned_opt.checks.arguments import shown
from learned_opt.optimizer.options import whole_number
from meta_train.runtime.seeding import seeded_cpu
from meta_train.tasks.base import Batch, BatchedLoss, Loss, Problem, Task, Tensors
from meta_train.tasks.batched_perceptron import loss_of_perceptrons
from meta_train.tasks.data.in_memory import Data, InMemoryDataset, RandomRows, as_dataset


class ModuleTask(Task):
    """Train a module on data. Each problem starts from new initial weights and draws new batches.

    Examples:
        Meta-train an optimizer for a classifier of one's own::

            task = ModuleTask(
                lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
                nn.functional.cross_entropy,
                (images, labels),  # [M, 64] and [M]
                batch_size=64,
                validation_data=(other_images, other_labels),
            )
            rule = MetaTrainer(create_rule("adam-lstm"), task, TrainSettings()).train()

    Buffers, such as running statistics, are updated as in ordinary training. Parameters that do not
    require gradients stay frozen. The module keeps the mode, training or evaluation, that
    `make_module` leaves it in. Dropout draws from torch's global generator. Operations that
    `torch.vmap` cannot batch, such as `nn.GRU`, run once per inner run
    (`meta_train.inner.step.vmap_fallback`); so does a module with activation checkpointing.

    Every batch runs on a copy of the module. Whatever a forward pass writes elsewhere than into
    buffers (inputs, parameters, attributes, generators of its own) lasts for that pass only.

    Args:
        make_module: builds the module with random initial weights. It is called once per problem,
            after torch's global generator has been seeded for that problem.
        loss: `(module output, targets) -> 0-dim tensor`.
        data: a pair of inputs `[M, ...]` and targets `[M, ...]`; or a map-style data set of such
            pairs, or a loader of such batches, which are read into memory, in the same order each
            time (a sampler of one's own must seed itself). If the inputs are a
            tuple or a mapping of tensors, the module gets them as positional or keyword arguments.
        batch_size: examples per inner step, drawn with replacement.
        validation_data: like `data`; examples that inner training does not see.
        examples: number of training examples per problem, drawn anew for each. The others become
            its validation data unless `validation_data` is given. None trains on all of `data`.
        full_rows: maximal number of examples for evaluation on all data; None for no limit.

    Raises:
        ValueError: inputs and targets differ in length, are empty or hold NaN; the module or the
            loss fails on a batch, or the loss is not a 0-dim tensor; a size is out of range; or the
            module is no `nn.Module`, is lazy, has sparse gradients, or has nothing to train.
    """

    def __init__(
        self,
        make_module: Callable[[], nn.Module],
        loss: Callable[[Any, Any], Tensor],
        data: Data,
        batch_size: int = 128,
        *,
        validation_data: Data | None = None,
        examples: int | None = None,
        full_rows: int | None = None,
    ) -> None:
        if isinstance(make_module, nn.Module) or not callable(make_module):
            raise ValueError(
                "make_module must be a function that returns a new module, got "
                f"{shown(make_module)}"
            )
        if not callable(loss):
            raise ValueError(f"loss must be a function (output, targets), got {shown(loss)}")
        self.dataset = as_dataset(data)
        self.validation_dataset = (
            None if validation_data is None else as_dataset(validation_data, "validation_data")
        )
        batch_size = whole_number("batch_size", batch_size)
        full_rows = None if full_rows is None else whole_number("full_rows", full_rows)
        examples = None if examples is None else whole_number("examples", examples, least=0)
        if examples is not None and not 1 <= examples <= len(self.dataset):
            raise ValueError(
                f"examples must be from 1 to the {len(self.dataset)} rows of data, got {examples}"
            )

        self.make_module = make_module
        self.batch_size = batch_size
        self.examples = examples
        self.full_rows = full_rows
        self._loss_of_output = loss
        self._skeleton = _seeded(0, make_module)
        _check_module(self._skeleton)
        self._try_batch(self.dataset, "data")
        if self.validation_dataset is not None:
            self._try_batch(self.validation_dataset, "validation_data")
        self._problem_loss = self._batched_loss()

    @property
    def inputs(self) -> Any:
        """All inputs, `[M, ...]`."""
        return self.dataset.inputs

    @property
    def targets(self) -> Any:
        """All targets, `[M, ...]`."""
        return self.dataset.targets

    def _try_batch(self, dataset: InMemoryDataset, name: str) -> None:
        """Run the module and the loss on one batch, so that an error appears here, with its cause.

        Raises:
            ValueError: names the part that failed and the shapes that it was given.
        """
        inputs, targets = dataset.take(torch.arange(self.batch_size) % len(dataset))
        named = self._skeleton.named_parameters()
        parameters = {key: value.detach() for key, value in named}
        buffers = dict(self._skeleton.named_buffers())
        failures = (RuntimeError, ValueError, TypeError, IndexError)
        with torch.enable_grad():  # the module may differentiate, too
            try:
                output, _ = _seeded(0, lambda: self._output(parameters, buffers, inputs))
            except failures as error:
                raise ValueError(
                    f"{type(self._skeleton).__name__} fails on a batch of {name}: inputs "
                    f"{_shapes(inputs)}: {_first_line(error)}"
                ) from error
            try:
                value = _seeded(0, lambda: self._loss(output, targets))
            except failures as error:
                raise ValueError(
                    f"the loss fails on a batch of {name}: module output {_shapes(output)}, "
                    f"targets {_shapes(targets)}: {_first_line(error)}"
                ) from error
        if not isinstance(value, Tensor) or value.dim() != 0:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the loss must be a 0-dim tensor, on a batch of {name} it is {got}")
        self._check_given_weights_are_read(value)

    def _check_given_weights_are_read(self, value: Tensor) -> None:
        """Check that a loss at detached weights does not depend on the skeleton's own.

        Raises:
            ValueError: an attribute that is not copied holds a part of the module.
        """
        own = {key: p for key, p in self._skeleton.named_parameters() if p.requires_grad}
        if not value.requires_grad:
            return
        found = torch.autograd.grad(value, list(own.values()), allow_unused=True)
        for key, gradient in zip(own, found, strict=True):
            if gradient is not None:
                raise ValueError(
                    f"{type(self._skeleton).__name__} reads {key} through an object that holds a "
                    "part of the module and is no module itself: call the part directly"
                )

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw initial weights, and the training examples if `examples` is set."""
        seed = int(torch.randint(2**62, (), generator=generator))
        module = _seeded(seed, self.make_module)
        dataset = self.dataset.on(device)
        seen = unseen = None
        if self.examples is not None:
            order = torch.randperm(len(dataset), generator=generator)
            seen, unseen = order[: self.examples], order[self.examples :]
        draw_validation = None
        if self.validation_dataset is not None:
            draw_validation = RandomRows(self.validation_dataset.on(device), self.batch_size)
        elif unseen is not None and len(unseen):
            draw_validation = RandomRows(dataset, self.batch_size, unseen)
        named = list(module.named_parameters())
        return Problem(
            parameters={k: v.detach().to(device) for k, v in named if v.requires_grad},
            fixed={k: v.detach().to(device) for k, v in named if not v.requires_grad},
            buffers={k: v.detach().to(device) for k, v in module.named_buffers()},
            loss=self._problem_loss,
            draw=RandomRows(dataset, self.batch_size, seen),
            full=lambda: dataset.take(self._for_evaluation(seen)),
            draw_validation=draw_validation,
        )

    def _for_evaluation(self, seen: Tensor | None) -> Tensor | None:
        """Indices of at most `full_rows` training examples, evenly spaced; None for all."""
        count = len(self.dataset if seen is None else seen)
        if self.full_rows is None or count <= self.full_rows:
            return seen
        spaced = torch.arange(self.full_rows) * count // self.full_rows
        return spaced if seen is None else seen[spaced]

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss on a batch `(inputs, targets)`, and the new buffers."""
        inputs, targets = batch
        output, buffers = self._output(parameters, buffers, inputs)
        return self._loss(output, targets), buffers

    def _batched_loss(self) -> Loss:
        """The loss, with a faster way for many runs if one is known."""
        if type(self).loss is not ModuleTask.loss:  # a subclass has its own
            return self.loss
        datasets = [d for d in (self.dataset, self.validation_dataset) if d is not None]
        losses = loss_of_perceptrons(self._skeleton, self._loss_of_output, datasets)
        if losses is None:
            return self.loss
        return BatchedLoss(self.loss, losses, gradients=losses.gradients)

    def _output(
        self, parameters: Tensors, buffers: Tensors, inputs: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """The module's output, and the buffers afterwards."""
        positional, named = module_arguments(_cloned(inputs))
        output, after = call_with_tensors(
            self._skeleton, {**parameters, **buffers}, lambda module: module(*positional, **named)
        )
        return output, {key: after[key] for key in buffers}

    def _loss(self, output: Any, targets: Any) -> Tensor:
        """The loss of the module's output, 0-dim."""
        targets = _cloned(targets)
        if not isinstance(self._loss_of_output, nn.Module):
            return self._loss_of_output(output, targets)
        value: Tensor
        value, _ = call_with_tensors(self._loss_of_output, {}, lambda loss: loss(output, targets))
        return value


def _cloned(tree: Any) -> Any:
    """Copies of the tensors, which the module or the loss may write."""
    return pytree.tree_map_only(Tensor, torch.clone, tree)


def _seeded(seed: int, call: Callable[[], Any]) -> Any:
    """Call with torch's global CPU generator seeded, and restore the generator afterwards."""
    with seeded_cpu(seed):
        return call()


def _check_module(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"make_module must return an nn.Module, got {type(module).__name__}")
    kind = type(module).__name__
    for name, value in module.named_parameters():
        if is_lazy(value):
            raise ValueError(
                f"{kind} is lazy: the shape of {name} is unknown. Let make_module call the module "
                "on one input before returning it, or give the sizes"
            )
    if not any(value.requires_grad for value in module.parameters()):
        raise ValueError(f"{kind} has no parameter that requires gradients: nothing to train")
    for name, part in module.named_modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.sparse:
            raise ValueError(f"{name or kind} has sparse=True: rules take no sparse gradients")


def _shapes(tree: Any) -> Any:
    """Shape and dtype in place of each tensor."""
    return pytree.tree_map(
        lambda leaf: (
            f"{list(leaf.shape)} {leaf.dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__
        ),
        tree,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Any module, loss and data of the user's as a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from meta_train.tasks.base import Batch, Problem, Task, Tensors
from meta_train.tasks.data.in_memory import Data, InMemoryDataset, as_rows


class ModuleTask(Task):
    """Problems that train a module: fresh initial weights and fresh batches for each.

        ModuleTask(lambda: nn.Linear(64, 10), nn.functional.cross_entropy, (images, labels))

    Buffers (running statistics) are carried along, parameters that do not require gradients stay as
    they are, and the module stays in the mode, training or evaluation, in which `make_module`
    leaves it. Dropout draws from torch's global generator. What `vmap` cannot batch, such as
    `nn.GRU`, is run after run, though runs go at once (`meta_train.inner.vmap_fallback`).

    Args:
        make_module: builds the module with random initial weights. It is called once for each
            problem, with torch's global generator seeded for that problem.
        loss: `(module output, targets) -> 0-dim tensor`.
        data: inputs `[M, ...]` and targets `[M, ...]`; or a map-style data set of such rows, or a
            loader of such batches, which are read into memory. Inputs that are a tuple or a dict
            of tensors are the module's positional or keyword arguments.
        batch_size: rows drawn (with replacement) for a step.
        validation_data: as `data`: rows that inner training does not see.
        examples: a problem trains on this many rows of its own; the others are its validation
            data, unless `validation_data` is given. None trains on all rows.
        full_rows: the most rows for evaluation on all data.

    Raises:
        ValueError: inputs and targets differ in length, are empty, hold NaN, or do not fit the
            module or the loss; a size is out of its range; or the module has nothing to train.
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
        self.rows = as_rows(data)
        self.unseen = (
            None if validation_data is None else as_rows(validation_data, "validation_data")
        )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if examples is not None and not 1 <= examples <= len(self.rows):
            raise ValueError(
                f"examples must be from 1 to the {len(self.rows)} rows of data, got {examples}"
            )
        if full_rows is not None and full_rows < 1:
            raise ValueError(f"full_rows must be at least 1, got {full_rows}")
        self.make_module = make_module
        self.batch_size = batch_size
        self.examples = examples
        self.full_rows = full_rows
        self._loss_of_output = loss
        self._skeleton = self._seeded(0, make_module)
        if not any(value.requires_grad for value in self._skeleton.parameters()):
            name = type(self._skeleton).__name__
            raise ValueError(f"{name} has no parameter that requires gradients: nothing to train")
        for name, part in self._skeleton.named_modules():
            if getattr(part, "sparse", False) is True:
                raise ValueError(
                    f"{name or type(part).__name__} has sparse=True: rules take no sparse gradients"
                )
        for rows, name in ((self.rows, "data"), (self.unseen, "validation_data")):
            if rows is not None:
                self._try(rows, name)

    @property
    def inputs(self) -> Any:
        """All inputs, `[M, ...]`."""
        return self.rows.inputs

    @property
    def targets(self) -> Any:
        """All targets, `[M, ...]`."""
        return self.rows.targets

    @staticmethod
    def _seeded(seed: int, call: Callable[[], Any]) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which are not forked
            return call()

    def _try(self, rows: InMemoryDataset, name: str) -> None:
        """Refuse now, by name, what would fail inside the first inner step."""
        batch = rows.take(torch.arange(self.batch_size) % len(rows))
        parameters = dict(self._skeleton.named_parameters())
        buffers = dict(self._skeleton.named_buffers())
        try:
            with torch.no_grad():
                value = self._seeded(0, lambda: self.loss(parameters, buffers, batch)[0])
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            inputs, targets = pytree.tree_map(lambda t: f"{list(t.shape)} {t.dtype}", batch)
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"module and loss do not take a batch of {name}: inputs {inputs}, "
                f"targets {targets}: {line}"
            ) from error
        if not isinstance(value, Tensor) or value.dim() != 0:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the loss must be a 0-dim tensor, on a batch of {name} it is {got}")

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw initial weights (and rows); batches come from the generator `draw` is given."""
        seed = int(torch.randint(2**62, (), generator=generator))
        module = self._seeded(seed, self.make_module)
        rows = self.rows.on(device)
        seen = unseen = None
        if self.examples is not None:
            order = torch.randperm(len(rows), generator=generator)
            seen, unseen = order[: self.examples], order[self.examples :]
        draw_validation = None
        if self.unseen is not None:
            draw_validation = self._drawer(self.unseen.on(device), None)
        elif unseen is not None and len(unseen):
            draw_validation = self._drawer(rows, unseen)
        named = list(module.named_parameters())
        return Problem(
            parameters={k: v.detach().to(device) for k, v in named if v.requires_grad},
            fixed={k: v.detach().to(device) for k, v in named if not v.requires_grad},
            buffers={k: v.detach().to(device) for k, v in module.named_buffers()},
            loss=self.loss,
            draw=self._drawer(rows, seen),
            full=lambda: rows.take(self._for_evaluation(seen)),
            draw_validation=draw_validation,
        )

    def _drawer(
        self, rows: InMemoryDataset, among: Tensor | None
    ) -> Callable[[torch.Generator], Batch]:
        count = len(rows if among is None else among)

        def draw(batches: torch.Generator) -> Batch:
            index = torch.randint(count, (self.batch_size,), generator=batches)
            return rows.take(index if among is None else among[index])

        return draw

    def _for_evaluation(self, seen: Tensor | None) -> Tensor | None:
        count = len(self.rows if seen is None else seen)
        if self.full_rows is None or count <= self.full_rows:
            return seen
        spaced = torch.arange(self.full_rows) * count // self.full_rows
        return spaced if seen is None else seen[spaced]

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss of the module on `(inputs, targets)`, and its buffers afterwards."""
        inputs, targets = batch
        buffers = {key: value.clone() for key, value in buffers.items()}  # modules write in place
        named = inputs if isinstance(inputs, dict) else {}
        positional = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        output = functional_call(
            self._skeleton, (parameters, buffers), () if named else positional, named
        )
        return self._loss_of_output(output, targets), buffers

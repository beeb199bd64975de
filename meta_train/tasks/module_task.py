"""Any module, loss and data of the user's as a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from meta_train.tasks.base import Batch, Problem, Task, Tensors


class ModuleTask(Task):
    """Problems that train a module: fresh initial weights and fresh batches for each.

        ModuleTask(lambda: nn.Linear(64, 10), nn.functional.cross_entropy, (images, labels))

    Args:
        make_module: builds the module with random initial weights. It is called once for each
            problem, with torch's global generator seeded for that problem.
        loss: `(module output, targets) -> 0-dim tensor`.
        data: inputs `[M, ...]` and targets `[M, ...]`.
        batch_size: rows drawn (with replacement) for a step.

    Raises:
        ValueError: inputs and targets differ in length or are empty, or a batch size below 1.
    """

    def __init__(
        self,
        make_module: Callable[[], nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor],
        data: Sequence[Tensor],
        batch_size: int = 128,
    ) -> None:
        inputs, targets = data
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(
                f"data needs as many targets as inputs, and some; got {len(inputs)} inputs, "
                f"{len(targets)} targets"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.make_module = make_module
        self.inputs = inputs
        self.targets = targets
        self.batch_size = batch_size
        self._loss_of_output = loss
        self._skeleton = self._seeded_module(0)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _seeded_module(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which are not forked
            return self.make_module()

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw initial weights; batches come from the generator that `draw` is given."""
        seed = int(torch.randint(2**62, (), generator=generator))
        module = self._seeded_module(seed)
        inputs, targets = self._data_on(device)

        def draw(batches: torch.Generator) -> Batch:
            rows = torch.randint(len(inputs), (self.batch_size,), generator=batches).to(device)
            return inputs[rows], targets[rows]

        return Problem(
            parameters={k: v.detach().to(device) for k, v in module.named_parameters()},
            buffers={k: v.detach().to(device) for k, v in module.named_buffers()},
            loss=self.loss,
            draw=draw,
            full=lambda: (inputs, targets),
        )

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss of the module on `(inputs, targets)`, and its buffers afterwards."""
        inputs, targets = batch
        buffers = {key: value.clone() for key, value in buffers.items()}  # modules write in place
        output = functional_call(self._skeleton, (parameters, buffers), (inputs,))
        return self._loss_of_output(output, targets), buffers

    def _data_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on_device:
            self._on_device[device] = (self.inputs.to(device), self.targets.to(device))
        return self._on_device[device]

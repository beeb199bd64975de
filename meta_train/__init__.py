"""Meta-train learned optimizers by differentiating through training.

Make an optimizer for your own model and data in ten lines:

>>> import torch
>>> from learned_opt import LearnedOptimizer, create_rule
>>> from meta_train import MetaTrainer, ModuleTask, TrainSettings
>>> data = torch.randn(256, 8), torch.randn(256, 1)
>>> task = ModuleTask(lambda: torch.nn.Linear(8, 1), torch.nn.functional.mse_loss, data)
>>> trainer = MetaTrainer(create_rule("adam-lstm"), task, TrainSettings(outer_steps=100))
>>> rule = trainer.train()
>>> model = torch.nn.Linear(8, 1)
>>> optimizer = LearnedOptimizer(model.parameters(), rule=rule)

The command line does the same with `python -m meta_train`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meta_train.index import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import the public names, and folders, when one of them is first used.

    `python -m meta_train` runs this file first. If it took seconds to import torch, nothing could
    be said meanwhile, and Ctrl-C would end in a traceback.
    """
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    index = import_module("meta_train.index")
    if name in globals():  # a folder, which the import has set
        return globals()[name]
    if name != "__all__" and name not in index.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(index, name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *import_module("meta_train.index").__all__})

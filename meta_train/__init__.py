"""Meta-train learned optimizers by differentiating through training."""

from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import ModuleTask, create_task

__all__ = ["MetaTrainer", "ModuleTask", "TrainSettings", "create_task"]

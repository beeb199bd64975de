"""The public names of meta_train, which `meta_train` hands out when one of them is first used."""

from meta_train.estimators import (
    Estimate,
    Estimator,
    MetaObjective,
    create_estimator,
    list_estimators,
)
from meta_train.evaluation.baselines import BASELINES, Baseline
from meta_train.evaluation.comparison.compare import ComparedOptimizer, compare
from meta_train.evaluation.comparison.report import draw_curves, render_table
from meta_train.evaluation.comparison.trainings import ComparisonTask
from meta_train.evaluation.validation.task_validator import TaskValidator
from meta_train.evaluation.validation.validator import Validator
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.signals import Interrupted, TrainingStalled
from meta_train.tasks import (
    Mixture,
    ModuleTask,
    Problem,
    SampledTask,
    Task,
    TaskFamily,
    create_task,
    list_tasks,
)

__all__ = [
    "BASELINES",
    "Baseline",
    "ComparedOptimizer",
    "ComparisonTask",
    "Estimate",
    "Estimator",
    "InnerLoop",
    "Interrupted",
    "MetaObjective",
    "MetaParameters",
    "MetaTrainer",
    "Mixture",
    "ModuleTask",
    "Problem",
    "SampledTask",
    "Task",
    "TaskFamily",
    "TaskValidator",
    "TrainSettings",
    "TrainingStalled",
    "Validator",
    "compare",
    "create_estimator",
    "create_task",
    "draw_curves",
    "list_estimators",
    "list_tasks",
    "render_table",
]

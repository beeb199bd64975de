"""The main job's configuration: one dataclass that is command line, config file and record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learned_opt.registry import look_up
from learned_opt.rules import RULES
from meta_train.outer.settings import TrainSettings
from meta_train.tasks import TASKS


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of the comparison with tuned hand-designed optimizers.

    Attributes:
        steps: inner steps in the family; one more column has ten times as many.
        seeds: problems per column.
        first_seed: the seeds are this and the following ones.
        workers: processes to share the work; 0 is one for each core, four at most.
    """

    steps: int = 100
    seeds: int = 8
    first_seed: int = 1000
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: names the setting and the value.
        """
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        for name in ("steps", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class MainConfig:
    """What to meta-train, on what, and how to judge it.

    Attributes:
        task: the family of inner problems: digits-mlp, quadratic, test-functions,
            logistic-regression, random-mlp, conv, autoencoder, char-rnn, char-transformer or
            mixture (of several).
        task_settings: settings of the task's class (meta_train/tasks/), as in {"hidden": [32, 32]}.
        rule: the update rule: lstm, gated-lstm, momentum-gated-lstm, adam-lstm or step-size-lstm.
        rule_settings: settings of the rule's class (learned_opt/rules/), as in {"hidden_size": 8}.
        train: meta-training.
        evaluate: the comparison afterwards.
        device: "cpu", "cuda", ...; by default the GPU where there is one.
        threads: of torch, per process. More than one helps wide inner problems on an idle machine,
            and slows small ones down.
        out: the run folder; by default a new one under runs/.
        resume: go on with the run in `out` from its newest checkpoint.
        progress: show progress bars.
    """

    task: str = "digits-mlp"
    task_settings: dict[str, Any] = field(default_factory=dict)
    rule: str = "adam-lstm"
    rule_settings: dict[str, Any] = field(default_factory=dict)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    device: str = "auto"
    threads: int = 1
    out: Path | None = None
    resume: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: names the setting and the value.
        """
        look_up("task", self.task, TASKS)
        look_up("rule", self.rule, RULES)
        if self.train.inner_lr is not None:
            raise ValueError("train.inner_lr is of few-shot rows: here a rule has its own rate")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.resume and self.out is None:
            raise ValueError("resume needs out=FOLDER, the run to go on with")

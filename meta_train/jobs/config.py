"""Configuration of the main job: one dataclass for the command line and the config file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learned_opt.checks.setting_types import plain
from learned_opt.files import expand
from learned_opt.registry import look_up
from learned_opt.rules import RULES
from learned_opt.weights import names_weights
from meta_train.outer.settings import TrainSettings
from meta_train.runtime.checks import check_at_least, check_threads, make_plain
from meta_train.tasks import TASKS


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of the comparison with tuned hand-designed optimizers.

    Raises:
        ValueError: names the setting and its value.
    """

    steps: int = 100
    """Inner steps. The first held-out task is compared once more over ten times as many."""

    seeds: int = 8
    """Problems per task."""

    first_seed: int = 1000
    """First random seed of the problems; the others follow it."""

    workers: int = 0
    """Processes that share the comparison (0: one per CPU core, at most four; one on a GPU)."""

    def __post_init__(self) -> None:
        """Check the values."""
        make_plain(self)
        check_at_least(0, **{"evaluate.workers": self.workers})
        check_at_least(1, **{"evaluate.steps": self.steps, "evaluate.seeds": self.seeds})


@dataclass(frozen=True)
class ValidateSettings:
    """Settings of the validation that selects the weights.

    Raises:
        ValueError: names the setting and its value.
    """

    reference: str | None = None
    """A rule to compare with, by its name, or the name or path of weights: weights are selected by
    the mean log ratio of their final losses to its final losses. Default: by the mean log loss on
    validation data of the family."""

    task: str = "varied"
    """With a reference, the family whose held-out tasks are compared. It should not be among those
    that are trained on."""

    steps: int = 300
    """With a reference, inner steps."""

    seeds: int = 2
    """With a reference, problems per task."""

    def __post_init__(self) -> None:
        """Check the values."""
        make_plain(self)
        if self.reference is not None and not names_weights(self.reference):
            look_up("rule", self.reference, RULES)
        look_up("task", self.task, TASKS)
        check_at_least(1, **{"validate.steps": self.steps, "validate.seeds": self.seeds})


@dataclass(frozen=True)
class MainConfig:
    """Configuration of the main job.

    Raises:
        ValueError: names the setting and its value.
    """

    task: str = "digits-mlp"
    """Family of inner problems: digits-mlp, quadratic, test-functions, logistic-regression,
    random-mlp, conv, autoencoder, regression, word-pairs, char-recurrent, char-rnn,
    char-transformer, varied or mixture (of several). Also the families of few-shot learning, each
    episode trained from scratch: sine, omniglot, omniglot-classes; to learn an initialisation on
    them, take the command few-shot."""

    task_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the task's class (see meta_train/tasks/), such as {"hidden": [32, 32]}."""

    rule: str = "adam-lstm"
    """Update rule: lstm, gated-lstm, momentum-gated-lstm, adam-lstm, step-size-lstm or general."""

    rule_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the rule's class (see learned_opt/rules/), such as {"hidden_size": 8}."""

    start: Path | None = None
    """A weights file of the same rule to begin with, perhaps of smaller settings: weights that it
    lacks are initialised as usual. Default: all weights are."""

    train: TrainSettings = field(default_factory=TrainSettings)
    """Settings of meta-training."""

    validate: ValidateSettings = field(default_factory=ValidateSettings)
    """Settings of the validation that selects the weights."""

    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    """Settings of the comparison afterwards."""

    device: str = "auto"
    """Device, such as "cpu" or "cuda"; "auto" is the GPU if there is one."""

    threads: int = 1
    """CPU threads of torch, per process. More than one helps large inner problems on an idle
    machine, and slows small ones down."""

    out: Path | None = None
    """Run folder. Default: a new folder under runs/."""

    resume: bool = False
    """Continue the run in `out` from its newest checkpoint, with the settings in its config.yaml
    unless `config` names others."""

    progress: bool = True
    """Show progress bars."""

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "task_settings", plain(self.task_settings))
        object.__setattr__(self, "rule_settings", plain(self.rule_settings))
        if self.out is not None:  # A shell does not expand the ~ in --out=~/run.
            object.__setattr__(self, "out", expand(self.out))
        look_up("task", self.task, TASKS)
        look_up("rule", self.rule, RULES)
        if self.train.inner_lr is not None:
            raise ValueError(
                "train.inner_lr is for few-shot learning only: here the rule has its own "
                "learning rate"
            )
        check_threads(self.threads)
        if self.resume and self.out is None:
            raise ValueError("resume needs out=FOLDER, the folder of the run to continue")

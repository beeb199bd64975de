"""Settings of the few-shot job: the command line, the config file and the record of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from learned_opt.files import expand
from learned_opt.registry import look_up
from meta_train.few_shot.data_sets import DATA, PER_CLASS
from meta_train.few_shot.methods.registry import get_method, list_methods
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.setting_changes import read_changes
from meta_train.outer.settings import TrainSettings
from meta_train.runtime.checks import check_threads, make_plain
from meta_train.runtime.setting_names import suggest_names

ALL = "all"
MAX_EFFORT = 1e9
OUTER_STEPS = {"sine": 3_000, **dict.fromkeys(PER_CLASS, 10_000)}
"""Outer steps of methods that do not set their own."""

_JOB_SETTING = "use --{}"
_METHOD_SETTING = "use --row_settings '{{\"{}\": ...}}'"
NOT_IN_TASK_SETTINGS = {
    "split": "training, validation and testing take their own splits",
    "fresh": "the method's initialization decides it",
    **{name: _JOB_SETTING.format(name) for name in ("ways", "shots", "queries")},
    **{name: _JOB_SETTING.format(name) for name in ("folder", "download")},
    **{name: _METHOD_SETTING.format(name) for name in ("adapted", "inner_batch", "batch_norm")},
}
"""Settings of episodes that the job or the method decides, and what to use instead."""
NOT_IN_TRAIN = {
    **{
        name: _METHOD_SETTING.format(name)
        for name in ("inner_lr", "estimator", "estimator_settings")
    },
    "seed": _JOB_SETTING.format("seed"),
}
"""Settings of meta-training that testing and files take from the method or the job."""
RENAMED_IN_METHOD = {"method": "head"}
RENAMED_IN_TRAIN = {
    "window": "truncation_length",
    "averaging": "ema_decay",
    "lr_end": "final_lr_fraction",
    "outlier": "outlier_factor",
    "clip": "grad_clip_norm",
    "max_skipped": "max_consecutive_skips",
    "unit_spread": "param_rescale_range",
    "loss_spread": "loss_rescale_range",
}
"""Former names of settings, and their present names."""
TESTING_ONLY = ("trained_on", "uses", "head", "head_settings")
"""Changes of a method that do not apply to the method whose training it uses."""
IMAGES_ONLY = ("train_shots", "train_ways", "batch_norm")
"""Settings of methods that sine curves do not have."""


@dataclass(frozen=True)
class EpisodeConfig:
    """Episodes.

    Attributes:
        data: "sine" (regression), "signals" (made by a recipe, needs no files), "omniglot"
            (characters) or "miniimagenet" (photographs).
        ways: classes per episode (N); sine curves have none.
        shots: support examples per class (K), or points of a curve. Default: 1 image or 10 points.
        queries: query examples per class in training. Default: 5 images or 10 points.
        test_queries: query examples per class in testing. Default: 15 images, or as many as the
            support set leaves of the 20; 100 points.
        task_settings: settings of the episodes, such as {"hidden": [64, 64]}; see
            meta_train/tasks/episodes/sine.py, images.py, omniglot.py and mini_imagenet.py.
        folder: folder of the Omniglot archives, or of miniImageNet's tables and images. Default:
            the environment variable LEARNED_OPT_DATA.
        download: let torchvision download missing archives.
    """

    data: str = "sine"
    ways: int = 5
    shots: int | None = None
    queries: int | None = None
    test_queries: int | None = None
    task_settings: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    download: bool = False

    @property
    def support_shots(self) -> int:
        """Support examples per class (K), or points of a curve."""
        if self.shots is not None:
            return self.shots
        return 10 if self.data == "sine" else 1

    def query_examples(self, *, testing: bool) -> int:
        """Query examples per class, or points of a curve."""
        given = self.test_queries if testing else self.queries
        if given is not None:
            return given
        if self.data == "sine":
            return 100 if testing else 10
        left = PER_CLASS[self.data] - self.support_shots
        return max(1, min(15, left)) if testing else 5


@dataclass(frozen=True)
class MetaTrainingConfig:
    """Meta-training.

    Attributes:
        row: a method by name, several ("maml,anil"), or "all" that fit the data.
        row_settings: changes of the method, such as {"inner_lr": 0.1}; see
            meta_train/few_shot/methods/settings.py.
        train: changes of meta-training, such as {"lr": 0.001}; see meta_train/outer/settings.py.
        outer_steps: updates of the meta-parameters. Default: the method's own, or 3000 on sine
            curves and 10000 in classification. The papers take 30,000 and more.
        effort: multiplies the default number of outer steps.
        max_minutes: time limit of training, in minutes per method.
        validate: validation episodes every train.validate_every outer steps; the best averaged
            weights are kept. 0: no validation, the last average is kept.
        begin: start from this initialization.safetensors; a head with other classes is left out.
            Default: the method's own start. If that is another method, its result in this job is
            taken, or it is trained first with its own settings.
    """

    row: str = "maml"
    row_settings: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    outer_steps: int | None = None
    effort: float = 1.0
    max_minutes: float = 30.0
    validate: int = 0
    begin: Path | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """Testing.

    Attributes:
        episodes: test episodes per method.
        steps: inner steps after which the query set is evaluated, such as [0,1,5]. Default: 0 to 10
            on sine curves; 0, 1 and the method's own in classification.
    """

    episodes: int = 1000
    steps: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RunConfig:
    """Run.

    Attributes:
        seed: random seed.
        device: "cpu", "cuda", ... Default: the GPU if there is one.
        threads: number of threads of torch.
        out: run folder. Default: a new one under runs/.
        resume: continue the run in `out` from its newest checkpoint, with the settings in its
            config.yaml unless `config` names others.
        progress: show progress bars.
    """

    seed: int = 0
    device: str = "auto"
    threads: int = 1
    out: Path | None = None
    resume: bool = False
    progress: bool = True


@suggest_names()
@dataclass(frozen=True)
class FewShotConfig(RunConfig, EvaluationConfig, EpisodeConfig, MetaTrainingConfig):
    """A few-shot job: methods, episodes, meta-training and testing.

    Raises:
        ValueError: names the setting and the value.
        TypeError: an unknown setting; the message gives the nearest one.

    Examples:
        >>> config = FewShotConfig(row="anil", data="omniglot", ways=5, shots=1, validate=100)
        >>> trainer = make_trainer("anil", config, torch.device("cpu"), folder=None)
    """

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        make_plain(self)
        for name in ("folder", "begin", "out"):
            path = getattr(self, name)
            if path is not None:  # A shell does not expand the ~ in --out=~/run.
                object.__setattr__(self, name, expand(path))
        look_up("data", self.data, DATA)
        for name in self.methods:
            method = get_method(name)
            if self.data == "sine":
                method.on_sine(name)
        self._check_names()
        self._convert()
        for name in self.methods:
            self._check_method(name)
        self._check_numbers()
        for name in ("patience", "validate_every"):
            if self.train.get(name) and not self.validate:
                raise ValueError(f"{name} needs validations: set validate=EPISODES")
        if self.resume and self.out is None:
            raise ValueError("resume needs out=FOLDER, the run to continue")

    def _check_names(self) -> None:
        """Refuse settings that have another place."""
        for name in self.task_settings:
            if name in NOT_IN_TASK_SETTINGS:
                raise ValueError(f"{name} cannot be in task_settings: {NOT_IN_TASK_SETTINGS[name]}")
        for name in self.row_settings:
            if name in IMAGES_ONLY and self.data == "sine":
                raise ValueError(f"{name} is a setting of classification, not of sine curves")

    def _convert(self) -> None:
        """Give the changes of settings their types."""
        for name, kind, settings, renamed in (
            ("row_settings", "setting of a method", MethodSettings, RENAMED_IN_METHOD),
            ("task_settings", "setting of episodes", DATA[self.data], {}),
            ("train", "setting of training", TrainSettings, RENAMED_IN_TRAIN),
        ):
            given = getattr(self, name)
            object.__setattr__(self, name, read_changes(kind, given, settings, renamed))
        outer = self.row_settings.get("outer", {})
        read_changes("setting of training", outer, TrainSettings, RENAMED_IN_TRAIN)
        for name in {**self.train, **outer}:
            if name in NOT_IN_TRAIN:
                raise ValueError(f"{name} cannot be in train: {NOT_IN_TRAIN[name]}")

    def _check_numbers(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if self.validate < 0:
            raise ValueError(f"validate must be at least 0, got {self.validate}")
        check_threads(self.threads)
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        if not self.effort > 0:
            raise ValueError(f"effort must be positive, got {self.effort}")
        if self.effort > MAX_EFFORT:
            raise ValueError(f"effort must be at most {MAX_EFFORT:g}, got {self.effort}")
        if self.steps is not None and (not self.steps or min(self.steps) < 0):
            raise ValueError(f"steps must be numbers of at least 0, got {list(self.steps)}")

    def _check_method(self, name: str) -> None:
        """Refuse changes that do not fit a method, and circles of methods that need one another."""
        seen: list[str] = []
        needed: str | None = name
        changes = self.row_settings
        while needed is not None:
            if needed in seen:
                raise ValueError(f"methods need one another: {' -> '.join([*seen, needed])}")
            seen.append(needed)
            changes = self.row_settings if needed in self.methods else changes
            found = get_method(needed)
            method = replace(
                found.on_sine(needed) if self.data == "sine" else found.omniglot, **changes
            )
            for kind, value in (("head", method.head), ("reader", method.reader)):
                if self.data == "sine" and value is not None:
                    raise ValueError(
                        f"{kind} {value!r} only classifies: use --data signals, omniglot or "
                        "miniimagenet"
                    )
            if method.trained_on == "nothing":
                needed, changes = method.uses, _for_training(changes)
            else:
                needed, changes = method.begins_with, {}

    def for_used_method(self) -> FewShotConfig:
        """The job that trains the method whose training another one uses."""
        return replace(self, row_settings=_for_training(self.row_settings))

    def for_first_method(self) -> FewShotConfig:
        """The job that trains the method that another one begins with, by its own settings."""
        return replace(self, row_settings={}, train={})

    @property
    def methods(self) -> list[str]:
        """Names of the methods to train."""
        if self.row == ALL:
            return list_methods(sine=self.data == "sine")
        return list(dict.fromkeys(name.strip() for name in self.row.split(",")))


def _for_training(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name not in TESTING_ONLY}

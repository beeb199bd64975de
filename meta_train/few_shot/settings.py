"""The few-shot job's configuration: one dataclass that is command line, config file and record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from learned_opt.registry import look_up
from meta_train.few_shot.methods.registry import get_row, list_rows
from meta_train.few_shot.methods.spec import FewShotMethod
from meta_train.outer.settings import TrainSettings
from meta_train.tasks.data.omniglot import DRAWINGS
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine

ALL = "all"
DATA = ("sine", "omniglot")
_OF_THE_JOB = "give it as an argument of its own, --{}"
_OF_THE_ROW = "it is a row's, as in --row_settings '{{\"{}\": ...}}'"
OWNED = {
    "split": "training takes the training split, and testing that of tests",
    "fresh": 'it follows from the row\'s "initialization"',
    **{name: _OF_THE_JOB.format(name) for name in ("ways", "shots", "queries")},
    **{name: _OF_THE_JOB.format(name) for name in ("folder", "download")},
    **{name: _OF_THE_ROW.format(name) for name in ("adapted", "inner_batch", "batch_norm")},
}
"""Settings of episodes that the job or the row sets, and what to do instead."""
NOT_OF_TRAINING = {
    **{name: _OF_THE_ROW.format(name) for name in ("inner_lr", "estimator", "estimator_settings")},
    "seed": _OF_THE_JOB.format("seed"),
}
"""Settings of meta-training that testing and files read from the row or the job."""
OF_USERS = ("trained_on", "uses", "method")
"""Settings of a row that takes another one's training; they are not for that one."""
OF_OMNIGLOT = ("train_shots", "batch_norm")
"""Settings of a row that sine curves know nothing of."""
MOST_THREADS = 1024
MOST_EFFORT = 1e9
NESTED = ("sine", "twenty_ways", "five_shots")
"""What a row says of other data; changes of the row come after it."""


@dataclass(frozen=True)
class FewShotConfig:
    """What to train, on which episodes, and how to judge it.

    Attributes:
        row: a method by its name, several ("maml,anil"), or "all" that fit the data.
        data: "sine" curves or "omniglot" characters.
        ways: classes of an episode; sine curves have none.
        shots: support examples (of a class); by default 10 points or 1 image.
        queries: query examples (of a class) in training; by default 10 points or 5 images.
        test_queries: query examples (of a class) in testing; by default 100 points, or 15 images,
            or what the support leaves of a class's 20.
        row_settings: changes of the row, as in {"inner_lr": 0.1} (few_shot/methods/spec.py).
        task_settings: settings of the episodes, as in {"hidden": [64, 64]} (meta_train/tasks/
            episodes/sine.py) or {"hidden": 32} (omniglot.py).
        train: further settings of meta-training, as in {"lr": 0.001} (outer/settings.py).
        outer_steps: updates of the meta-parameters; by default as a row says, or 3000 on sine
            curves and 10000 on characters: short beside the papers' 30000 and more.
        effort: factor on the outer steps that rows train for by default.
        max_minutes: stop training a row earlier when so much time has gone by.
        episodes: that a row is tested on.
        validate: episodes of validation (the validation alphabets, other sine curves) every
            train.validate_every outer steps; of the averaged weights the best are kept. With 0
            there is none, and the last average is kept.
        steps: inner steps after which it is judged, as in [0,1,5]; by default 0 to 10 on sine
            curves, and 0, 1 and the row's own on characters.
        begin: an initialization.safetensors that learned initialisations begin with (but for a head
            of other classes); by default each row begins as it says, and what it says is taken from
            this job if it is among its rows, or else trained first, by its own settings.
        seed: of everything that is drawn.
        device: "cpu", "cuda", ...; by default the GPU where there is one.
        threads: of torch.
        folder: where Omniglot's archives are; by default what LEARNED_OPT_DATA says.
        download: let torchvision fetch them if they are missing.
        out: the run folder; by default a new one under runs/.
        resume: go on with the run in `out` from its newest checkpoint.
        progress: show progress bars.
    """

    row: str = "maml"
    data: str = "sine"
    ways: int = 5
    shots: int | None = None
    queries: int | None = None
    test_queries: int | None = None
    row_settings: dict[str, Any] = field(default_factory=dict)
    task_settings: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    outer_steps: int | None = None
    effort: float = 1.0
    max_minutes: float = 30.0
    episodes: int = 1000
    validate: int = 0
    steps: tuple[int, ...] | None = None
    begin: Path | None = None
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    folder: Path | None = None
    download: bool = False
    out: Path | None = None
    resume: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: names the setting and the value.
        """
        look_up("data", self.data, dict.fromkeys(DATA))
        for name in self.rows:
            row = get_row(name)
            if self.data == "sine":
                row.on_sine()
        row_settings = _typed("setting of rows", self.row_settings, FewShotMethod)
        object.__setattr__(self, "row_settings", row_settings)
        for name in self.task_settings:
            if name in OWNED:
                raise ValueError(f"{name} is not a setting of episodes here: {OWNED[name]}")
        for name in {**self.train, **self.row_settings.get("outer", {})}:
            if name in NOT_OF_TRAINING:
                raise ValueError(f"{name} is not given in train: {NOT_OF_TRAINING[name]}")
        for name in NESTED:
            if name in self.row_settings:
                raise ValueError(f"{name} has been read already: give the settings that it changes")
        for name in OF_OMNIGLOT if self.data == "sine" else ():
            if name in self.row_settings:
                raise ValueError(f"{name} is of Omniglot's episodes: sine curves have none")
        task = Sine if self.data == "sine" else OmniglotEpisodes
        for field_name, kind, known in (
            ("task_settings", "setting of episodes", task),
            ("train", "setting of training", TrainSettings),
        ):
            object.__setattr__(self, field_name, _typed(kind, getattr(self, field_name), known))
        _typed("setting of training", self.row_settings.get("outer", {}), TrainSettings)
        for name in self.rows:
            self._check_row(name)
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if self.validate < 0:
            raise ValueError(f"validate must be at least 0, got {self.validate}")
        for name in ("patience", "validate_every"):
            if self.train.get(name) and not self.validate:
                raise ValueError(f"{name} needs validations: set validate=EPISODES")
        for name in ("threads", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.threads > MOST_THREADS:
            raise ValueError(f"threads must be at most {MOST_THREADS}, got {self.threads}")
        if not self.effort > 0:
            raise ValueError(f"effort must be positive, got {self.effort}")
        if self.effort > MOST_EFFORT:
            raise ValueError(f"effort must be at most {MOST_EFFORT:g}, got {self.effort}")
        if self.steps is not None and (not self.steps or min(self.steps) < 0):
            raise ValueError(f"steps must be numbers of at least 0, got {list(self.steps)}")
        if self.resume and self.out is None:
            raise ValueError("resume needs out=FOLDER, the run to go on with")

    def _check_row(self, name: str) -> None:
        """Refuse changes that make no row, or one that needs itself."""
        seen: list[str] = []
        needed: str | None = name
        settings = self.row_settings
        while needed is not None:
            if needed in seen:
                raise ValueError(f"rows need one another: {' -> '.join([*seen, needed])}")
            seen.append(needed)
            settings = self.row_settings if needed in self.rows else settings
            row = replace(get_row(needed), **settings)
            if self.data == "sine" and row.method is not None:
                raise ValueError(f"method {row.method!r} only classifies: it has no sine curves")
            if row.trained_on == "nothing":
                needed, settings = row.uses, _without_use(settings)
            else:
                needed, settings = row.begins_with, {}

    def of_used(self) -> FewShotConfig:
        """How a row trains that another one uses: as that one says, but for what it then does."""
        return replace(self, row_settings=_without_use(self.row_settings))

    def of_beginning(self) -> FewShotConfig:
        """How a row trains that another one begins with: changes are not its own."""
        return replace(self, row_settings={}, train={})

    @property
    def rows(self) -> list[str]:
        """The names of the rows to train."""
        if self.row == ALL:
            return list_rows(sine=self.data == "sine")
        return list(dict.fromkeys(name.strip() for name in self.row.split(",")))

    @property
    def support(self) -> int:
        """Support examples (of a class)."""
        if self.shots is not None:
            return self.shots
        return 10 if self.data == "sine" else 1

    def query(self, *, testing: bool) -> int:
        """Query examples (of a class)."""
        given = self.test_queries if testing else self.queries
        if given is not None:
            return given
        if self.data == "sine":
            return 100 if testing else 10
        return max(1, min(15, DRAWINGS - self.support)) if testing else 5


def _without_use(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in OF_USERS}


def _typed(kind: str, given: dict[str, Any], known: type) -> dict[str, Any]:
    """The same settings as the types that they must have; refuses unknown names and other types."""
    hints = get_type_hints(known)
    fields = {field.name: field.name for field in dataclasses.fields(known)}
    return {
        name: _as_type(name, value, hints[look_up(kind, name, fields)])
        for name, value in given.items()
    }


def _as_type(name: str, value: Any, hint: Any) -> Any:
    parts = get_args(hint)
    wanted = str(hint) if parts else hint.__name__
    error = ValueError(f"{name} must be {wanted}, got {value!r}")
    if value is None:  # a parser takes it for anything
        if type(None) in parts:
            return None
        raise error
    if isinstance(value, Mapping) and get_origin(hint) in (dict, Mapping):
        return dict(value)  # as it is: a parser would read its texts as YAML
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--setting", type=hint)
    try:
        return parser.parse_object({"setting": value}).setting
    except ArgumentError:
        raise error from None

"""Trains the methods of a few-shot job, after the methods that they need, each once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from learned_opt.adaptation.initialization_file import load_initialization
from learned_opt.files import write_atomically
from meta_train.few_shot.episodes import (
    TrainingTask,
    evaluation_task,
    method_settings,
    training_task,
)
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.trained import trained_method
from meta_train.few_shot.training import make_trainer
from meta_train.jobs.few_shot.folders import BEGIN, method_folder, resume_arguments
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.progress import say
from meta_train.runtime.seeding import generator
from meta_train.runtime.signals import Interrupted, TrainingStalled
from meta_train.tasks.base import Tensors


class MethodRunner:
    """Trains the methods of a job and those that they need, each once.

    Args:
        config: settings of the job.
        device: device of training.
        folder: run folder of the job.
        write_config: writes the configuration; called when the first folder exists.

    Attributes:
        trainers: trainers that have trained, by method.
        settings: settings of meta-training by checked method, so that a memory budget is resolved
            once.
        failed: errors of methods that stalled.
        beginnings: facts about the initialisation that a method began with, by method.
    """

    def __init__(
        self,
        config: FewShotConfig,
        device: torch.device,
        folder: Path,
        write_config: Callable[[], object],
    ) -> None:
        self.config = config
        self.device = device
        self.folder = folder
        self.write_config = write_config
        self.trainers: dict[str, MetaTrainer] = {}
        self.settings: dict[str, TrainSettings] = {}
        self.failed: dict[str, TrainingStalled] = {}
        self.beginnings: dict[str, dict[str, Any]] = {}

    def check(self, name: str, folder: Path, config: FewShotConfig | None = None) -> None:
        """Refuse a method that cannot be trained or tested, or that needs such a method.

        Nothing is written. Arguments are those of `train`.

        Raises:
            ValueError: settings that do not go together.
            OSError: the data is missing.
        """
        config = self.config if config is None else config
        method = method_settings(name, config)
        for split in ("test", "validation") if config.validate else ("test",):
            self._try_sample(evaluation_task(method, config, split=split))
        needed = method.begins_with if config.begin is None else None
        if method.trained_on == "nothing":
            needed, config = method.uses, config.for_used_method()
        else:
            self._try_sample(training_task(method, config))
            begin = None
            if config.begin is not None and not _has_begun(folder, config):
                begin = load_initialization(config.begin).parameters
            trainer = make_trainer(name, config, self.device, None, begin)
            self.settings[name] = trainer.settings
            config = config.for_first_method()
        if needed is not None and needed not in self.config.methods:
            self.check(needed, folder / needed, config)

    def _try_sample(self, task: TrainingTask) -> None:
        task.sample(generator("a look"), self.device)

    def begun_with(self, name: str) -> dict[str, Any] | None:
        """Facts about the initialisation that the training behind a method began with."""
        used = method_settings(name, self.config).uses or name
        return self.beginnings.get(name) or self.beginnings.get(used)

    def train(self, name: str, folder: Path, config: FewShotConfig | None = None) -> MetaTrainer:
        """Train a method, or the method whose training it uses.

        Args:
            name: name of the method.
            folder: run folder of the method. A method that it needs trains in a subfolder.
            config: settings of its training; by default the job's.

        Returns:
            The trainer, which has trained.

        Raises:
            ValueError: a damaged checkpoint, or a resumed run that began with something else.
            OSError: the folder cannot be written.
            Interrupted: Ctrl-C or SIGTERM; a checkpoint is written.
            TrainingStalled: the method, or one that it needs, stalled; a checkpoint is written.
        """
        config = self.config if config is None else config
        if name in self.failed:  # Several methods may need it: it is tried once.
            raise self.failed[name]
        if name not in self.trainers:
            method = method_settings(name, config)
            if method.trained_on == "nothing":
                assert method.uses is not None
                used = config.for_used_method()
                self.trainers[name] = self._train_needed(method.uses, folder, used)
            else:
                begin = self._initialization(name, method, folder, config)
                self.trainers[name] = self._train(name, folder, config, begin)
        return self.trainers[name]

    def _train_needed(self, name: str, folder: Path, config: FewShotConfig) -> MetaTrainer:
        """Train a method that another one needs; the job's own if the job has it."""
        if name in self.config.methods:
            return self.train(name, method_folder(self.config, self.folder, name))
        return self.train(name, folder / name, config)

    def _initialization(
        self, name: str, method: MethodSettings, folder: Path, config: FewShotConfig
    ) -> Tensors | None:
        """Values that training begins with; None for the method's own or a checkpoint."""
        if _has_begun(folder, config):
            self._read_beginning(name, folder, config)
            return None
        if config.begin is not None:
            self.beginnings[name] = {"file": str(config.begin)}
            return dict(load_initialization(config.begin).parameters)
        if method.begins_with is None:
            return None
        config = config.for_first_method()
        trainer = self._train_needed(method.begins_with, folder, config)
        minutes = round(trainer.seconds / 60, 2)
        self.beginnings[name] = {"row": method.begins_with, "minutes": minutes}
        return trained_method(method.begins_with, trainer, config).initialization

    def _read_beginning(self, name: str, folder: Path, config: FewShotConfig) -> None:
        """Read what a resumed run began with, and refuse another `begin`."""
        if (folder / BEGIN).exists():
            self.beginnings[name] = read_json(folder / BEGIN)
        if config.begin is None:
            return
        file = self.beginnings.get(name, {}).get("file")
        if file is None or Path(file).resolve() != config.begin.resolve():
            began = f"with {file}" if file is not None else "without --begin"
            raise ValueError(
                f"the run in {folder} began {began} and continues from its checkpoint: resume it "
                f"without --begin {config.begin}, or start a new run"
            )

    def _train(
        self, name: str, folder: Path, config: FewShotConfig, begin: Tensors | None
    ) -> MetaTrainer:
        # Made before the folder: a refused method leaves none.
        settings = self.settings.get(name)
        trainer = make_trainer(name, config, self.device, folder, begin, settings)
        folder.mkdir(parents=True, exist_ok=True)
        if config.resume:
            trainer.resume()
        if not self.trainers:
            self.write_config()
        if name in self.beginnings:
            text = json.dumps(self.beginnings[name])
            write_atomically(folder / BEGIN, text.encode())
        else:
            (folder / BEGIN).unlink(missing_ok=True)
        say(f"{name}: run folder {folder}   (watch: tensorboard --logdir {self.folder})")
        try:
            trainer.train(progress=config.progress)
        except (Interrupted, TrainingStalled) as stop:
            error = type(stop)(stop.what, f"continue with {resume_arguments(self.folder)}")
            if isinstance(error, TrainingStalled):
                self.failed[name] = error
            raise error from None
        say(
            f"{name}: {trainer.outer_step} outer steps, {trainer.seconds / 60:.1f} minutes, "
            f"{trainer.diverged} diverged runs, {trainer.meta_optimizer.skipped} skipped steps"
        )
        if config.validate and trainer.outer_step <= trainer.settings.validate_every:
            say(
                f"{name}: validated only once, at the end, so nothing was selected: "
                f"train.validate_every is {trainer.settings.validate_every}"
            )
        return trainer


def _has_begun(folder: Path, config: FewShotConfig) -> bool:
    """Whether the job resumes a run that has a checkpoint."""
    return config.resume and bool(list_checkpoints(folder / "checkpoints"))


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read an object from a JSON file of the job, below the given keys.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        found = json.loads(path.read_text())
        for key in keys:
            found = found[key]
        return dict(found)
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is damaged: delete it and resume without it") from None

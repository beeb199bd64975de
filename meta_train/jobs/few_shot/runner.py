"""The rows of a few-shot job in training: what each one needs comes first, and nothing twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from learned_opt.adaptation.initialization import load_initialization
from learned_opt.files import write_atomically
from meta_train.few_shot.methods.spec import FewShotMethod
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import make_trainer, row_of, take, test_task, train_task
from meta_train.jobs.few_shot.folders import BEGIN, resume_arguments, row_folder
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.seeding import generator
from meta_train.runtime.signals import Interrupted, TrainingStalled
from meta_train.tasks.base import Tensors


class Trainers:
    """Trains the rows of a job, and those that they need, each of them once.

    Args:
        config: of the job.
        device: where to train.
        folder: of the job.
        write_config: records the configuration, once there is a folder.

    Attributes:
        trainers: that have trained, by row.
        settings: of meta-training, by row that was checked: what fits a budget of memory is
            predicted only once.
        failed: why rows have stopped that have not.
        beginnings: where the initialisation of a row began, if it was with another's.
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
        """Refuse what a row, or one that it needs, cannot be trained or tested with.

        Nothing is written. Arguments are those of `trained`.

        Raises:
            ValueError: settings that do not go together.
            OSError: the data is missing.
        """
        config = self.config if config is None else config
        row = row_of(name, config)
        for split in ("test", "validation") if config.validate else ("test",):
            test_task(row, config, split=split).sample(generator("a look"), self.device)
        needed = row.begins_with if config.begin is None else None
        if row.trained_on == "nothing":
            needed, config = row.uses, config.of_used()
        else:
            train_task(row, config).sample(generator("a look"), self.device)
            begin = None
            if config.begin is not None and not _begun(folder, config):
                begin = load_initialization(config.begin).parameters
            trainer = make_trainer(name, config, self.device, None, begin)
            self.settings[name] = trainer.settings
            config = config.of_beginning()
        if needed is not None and needed not in self.config.rows:
            self.check(needed, folder / needed, config)

    def beginning(self, name: str) -> dict[str, Any] | None:
        """What a row's training, or that of the one that it uses, has begun with."""
        used = row_of(name, self.config).uses or name
        return self.beginnings.get(name) or self.beginnings.get(used)

    def trained(self, name: str, folder: Path, config: FewShotConfig | None = None) -> MetaTrainer:
        """The trainer of a row, or of the row that it uses, which has trained.

        Args:
            name: of the row.
            folder: of the row's run. A row that it needs trains in a folder within.
            config: of the row; by default the job's.

        Raises:
            ValueError: a damaged checkpoint, or a resumed run that began with something else.
            OSError: the folder cannot be written.
            Interrupted: Ctrl-C or SIGTERM; the checkpoint is written.
            TrainingStalled: the method, or one that it needs, stalled; its checkpoint is written.
        """
        config = self.config if config is None else config
        if name in self.failed:  # once is enough, though several rows may need it
            raise self.failed[name]
        if name not in self.trainers:
            row = row_of(name, config)
            if row.trained_on == "nothing":
                assert row.uses is not None
                self.trainers[name] = self._other(row.uses, folder, config.of_used())
            else:
                begin = self._begin(name, row, folder, config)
                self.trainers[name] = self._train(name, folder, config, begin)
        return self.trainers[name]

    def _other(self, name: str, folder: Path, config: FewShotConfig) -> MetaTrainer:
        """A row that another one needs: the job's own, if it is among its rows."""
        if name in self.config.rows:
            return self.trained(name, row_folder(self.config, self.folder, name))
        return self.trained(name, folder / name, config)

    def _begin(
        self, name: str, row: FewShotMethod, folder: Path, config: FewShotConfig
    ) -> Tensors | None:
        if _begun(folder, config):
            self._began(name, folder, config)
            return None  # it is in the checkpoint
        if config.begin is not None:
            self.beginnings[name] = {"file": str(config.begin)}
            return dict(load_initialization(config.begin).parameters)
        if row.begins_with is None:
            return None
        config = config.of_beginning()
        trainer = self._other(row.begins_with, folder, config)
        minutes = round(trainer.seconds / 60, 2)
        self.beginnings[name] = {"row": row.begins_with, "minutes": minutes}
        return take(row.begins_with, trainer, config).phi

    def _began(self, name: str, folder: Path, config: FewShotConfig) -> None:
        """Note what a run that is resumed has begun with."""
        if (folder / BEGIN).exists():
            self.beginnings[name] = read_json(folder / BEGIN)
        if config.begin is None:
            return
        file = self.beginnings.get(name, {}).get("file")
        if file is None or Path(file).resolve() != config.begin.resolve():
            began = f"with {file}" if file is not None else "without --begin"
            raise ValueError(
                f"the run in {folder} began {began}, and goes on from its checkpoint: resume it "
                f"without --begin {config.begin}, or begin another one"
            )

    def _train(
        self, name: str, folder: Path, config: FewShotConfig, begin: Tensors | None
    ) -> MetaTrainer:
        # Before there is a folder: whatever is refused leaves none behind.
        settings = self.settings.get(name)
        trainer = make_trainer(name, config, self.device, None, begin, settings)
        folder.mkdir(parents=True, exist_ok=True)
        trainer.folder = folder
        if config.resume:
            trainer.resume()
        if not self.trainers:
            self.write_config()
        if name in self.beginnings:
            text = json.dumps(self.beginnings[name])
            write_atomically(folder / BEGIN, text.encode())
        else:
            (folder / BEGIN).unlink(missing_ok=True)
        say(f"{name}: run folder {folder}   (watch: tensorboard --logdir {folder})")
        try:
            trainer.train(progress=config.progress)
        except (Interrupted, TrainingStalled) as stop:
            told = type(stop)(f"{stop}; go on with {resume_arguments(self.folder)}")
            if isinstance(told, TrainingStalled):
                self.failed[name] = told
            raise told from None
        say(
            f"{name}: {trainer.outer_step} outer steps, {trainer.seconds / 60:.1f} min, "
            f"{trainer.diverged} diverged runs, {trainer.meta_optimizer.skipped} skipped steps"
        )
        if config.validate and trainer.outer_step <= trainer.settings.validate_every:
            say(
                f"{name}: validated only once, at the end, so that nothing was picked: "
                f"train.validate_every is {trainer.settings.validate_every}"
            )
        return trainer


def _begun(folder: Path, config: FewShotConfig) -> bool:
    """Whether a run goes on that has a checkpoint."""
    return config.resume and bool(list_checkpoints(folder / "checkpoints"))


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """What a file of the job holds, under these keys."""
    try:
        found = json.loads(path.read_text())
        for key in keys:
            found = found[key]
        return dict(found)
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is damaged: delete it, and go on without it") from None


def say(text: str) -> None:
    """Print a line above progress bars."""
    tqdm.write(text, file=sys.stdout)

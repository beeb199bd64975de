"""The few-shot job: train rows, test them on episodes, leave a run folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from learned_opt.files import write_atomically
from learned_opt.initializers import Initialization, load_initialization, save_initialization
from meta_train import report
from meta_train.checkpoint import list_checkpoints
from meta_train.device import choose_device
from meta_train.few_shot.config import FewShotConfig
from meta_train.few_shot.evaluate import Evaluation
from meta_train.few_shot.folders import (
    BEGIN,
    CONFIG,
    TABLE,
    job_folder,
    resume_arguments,
    row_folder,
)
from meta_train.few_shot.picture import draw_sine
from meta_train.few_shot.row import Row
from meta_train.few_shot.table import as_json, render
from meta_train.few_shot.train import (
    Trained,
    judge,
    make_trainer,
    row_of,
    take,
    test_task,
    train_task,
)
from meta_train.seeding import generator
from meta_train.stopping import Interrupted, NotLearning
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes import HEAD
from meta_train.trainer import MetaTrainer


def run(config: FewShotConfig, write_config: Callable[[Path], object]) -> Path:
    """Run the job.

    Args:
        config: see `FewShotConfig`.
        write_config: is given a path to record the configuration at.

    Returns:
        The run folder: config.yaml, table.json and, of each row, initialization.safetensors,
        checkpoints/ and tensorboard/; of sine curves a picture, sine.png. Where there are several
        rows, each has a folder of its own, and in a row's folder is that of the one it begins with.

    Raises:
        ValueError: settings that do not go together, a damaged checkpoint.
        OSError: the data is missing, the folder holds a run and `resume` was not asked for.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written.
        NotLearning: outer steps keep being of no use; the checkpoint is written.
    """
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    folder = job_folder(config)
    try:
        return _run(config, write_config, device, folder)
    except KeyboardInterrupt:
        if not any(map(list_checkpoints, folder.glob("**/checkpoints"))):
            raise
        stopped = f"stopped at once; go on with {resume_arguments(folder)}"
        raise Interrupted(stopped) from None
    finally:
        if config.out is None:
            with suppress(OSError):  # what is refused leaves no empty folder behind
                folder.rmdir()


def _run(
    config: FewShotConfig,
    write_config: Callable[[Path], object],
    device: torch.device,
    folder: Path,
) -> Path:
    began = time.monotonic()
    several = len(config.rows) > 1
    done: dict[str, tuple[Trained, Evaluation]] = {}
    kept = config.resume and (folder / TABLE).exists()
    table = _read_json(folder / TABLE, "rows") if kept else {}
    job = _Job(config, device, folder, lambda: write_config(folder / CONFIG))
    for name in config.rows:
        own = row_folder(config, folder, name)
        trained = take(name, job.trained(name, own), config)
        trained.facts["begins_with"] = job.beginning(name)
        evaluation = judge(trained, config, device)
        done[name] = trained, evaluation
        _leave(config, trained, evaluation, own)
        # After each row, so that an interrupted job leaves what it has.
        table[name] = as_json(trained, evaluation)
        report.write_table(folder / TABLE, {"config": _plain(config), "rows": table})
        if several:
            _say(render({name: done[name]}, name))
    if config.data == "sine":
        draw_sine(folder / "sine.png", done, config)
    print(render(done, _title(config)))
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all; left in {folder}/")
    return folder


class _Job:
    """Trains rows, each of them once.

    Args:
        config: of the job.
        device: where to train.
        folder: of the job.
        write_config: records the configuration, once there is a folder.

    Attributes:
        trainers: that have trained, by row.
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
        self.beginnings: dict[str, dict[str, Any]] = {}

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
        """
        config = self.config if config is None else config
        if name not in self.trainers:
            row = row_of(name, config)
            if row.trained_on == "nothing":
                assert row.uses is not None
                self.trainers[name] = self._other(row.uses, folder, config)
            else:
                begin = self._begin(name, row, folder, config)
                self.trainers[name] = self._train(name, folder, config, begin)
        return self.trainers[name]

    def _other(self, name: str, folder: Path, config: FewShotConfig) -> MetaTrainer:
        """A row that another one needs: the job's own, if it is among its rows."""
        if name in self.config.rows:
            return self.trained(name, row_folder(self.config, self.folder, name))
        return self.trained(name, folder / name, config)

    def _begin(self, name: str, row: Row, folder: Path, config: FewShotConfig) -> Tensors | None:
        begun = config.resume and bool(list_checkpoints(folder / "checkpoints"))
        if begun and (folder / BEGIN).exists():
            self.beginnings[name] = _read_json(folder / BEGIN)
            return None  # it is in the checkpoint
        if config.begin is not None:
            self.beginnings[name] = {"file": str(config.begin)}
            return dict(load_initialization(config.begin).parameters)
        if row.begins_with is None:
            return None
        # Changes are this row's, not those of the one that it begins with.
        config = replace(config, row_settings={}, train={})
        trainer = self._other(row.begins_with, folder, config)
        minutes = round(trainer.seconds / 60, 2)
        self.beginnings[name] = {"row": row.begins_with, "minutes": minutes}
        return take(row.begins_with, trainer, config).phi

    def _train(
        self, name: str, folder: Path, config: FewShotConfig, begin: Tensors | None
    ) -> MetaTrainer:
        # Before there is a folder: whatever is refused leaves none behind. Test episodes too: not
        # after training.
        for split in ("test", "validation") if config.validate else ("test",):
            task = test_task(row_of(name, config), config, split=split)
            task.sample(generator("a look"), self.device)
        train_task(row_of(name, config), config).sample(generator("a look"), self.device)
        trainer = make_trainer(name, config, self.device, None, begin)
        folder.mkdir(parents=True, exist_ok=True)
        trainer.folder = folder
        if config.resume:
            trainer.resume()
        if not self.trainers:
            self.write_config()
        (folder / BEGIN).unlink(missing_ok=True)
        if name in self.beginnings:
            text = json.dumps(self.beginnings[name])
            write_atomically(folder / BEGIN, text.encode())
        _say(f"{name}: run folder {folder}   (watch: tensorboard --logdir {folder})")
        try:
            trainer.train(progress=config.progress)
        except (Interrupted, NotLearning) as stop:
            raise type(stop)(f"{stop}; go on with {resume_arguments(self.folder)}") from None
        _say(
            f"{name}: {trainer.outer_step} outer steps, {trainer.seconds / 60:.1f} min, "
            f"{trainer.diverged} diverged runs, {trainer.descent.skipped} skipped steps"
        )
        if config.validate and trainer.outer_step <= trainer.settings.validate_every:
            _say(
                f"{name}: validated only once, at the end, so that nothing was picked: "
                f"train.validate_every is {trainer.settings.validate_every}"
            )
        return trainer


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    """What a file of the job holds, under these keys."""
    try:
        found = json.loads(path.read_text())
        for key in keys:
            found = found[key]
        return dict(found)
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is damaged: delete it, and go on without it") from None


def _leave(config: FewShotConfig, trained: Trained, evaluation: Evaluation, folder: Path) -> None:
    folder.mkdir(exist_ok=True)  # a row that uses another's has trained none of its own
    row = trained.row
    card = {
        "row": trained.name,
        "data": config.data,
        "ways": config.ways if config.data == "omniglot" else None,
        "shots": config.support,
        **as_json(trained, evaluation),
        "torch": torch.__version__,
    }
    save_initialization(
        Initialization(
            parameters={key: value.cpu() for key, value in trained.phi.items()},
            rule=trained.rule.cpu(),
            lr=row.inner_lr,
            steps=row.test_steps,
            only=(HEAD,) if row.adapted == "head" else None,
            proximal=row.proximal,
            card=card,
        ),
        folder / "initialization.safetensors",
    )


def _title(config: FewShotConfig) -> str:
    if config.data == "sine":
        return f"sine curves from {config.support} points"
    return f"Omniglot, {config.ways}-way {config.support}-shot"


def _plain(config: FewShotConfig) -> dict[str, object]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)

"""The few-shot job: train rows, test them on episodes, leave a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from learned_opt.adaptation.initialization import Initialization, save_initialization
from meta_train.evaluation import report
from meta_train.few_shot.evaluation import Evaluation
from meta_train.few_shot.plots import draw_sine
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.table import as_json, render
from meta_train.few_shot.training import Trained, judge, take
from meta_train.jobs.few_shot.folders import CONFIG, TABLE, job_folder, resume_arguments, row_folder
from meta_train.jobs.few_shot.runner import Trainers, read_json, say
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.device import choose_device
from meta_train.runtime.signals import Interrupted, TrainingStalled
from meta_train.tasks.episodes.base import HEAD


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
        TrainingStalled: too many outer steps of a method were skipped in a row; its checkpoint is
            written, and the other methods have been trained and tested.
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
    table = read_json(folder / TABLE, "rows") if kept else {}
    trainers = Trainers(config, device, folder, lambda: write_config(folder / CONFIG))
    for name in config.rows:  # before hours of training, not after
        try:
            trainers.check(name, row_folder(config, folder, name))
        except ValueError as error:
            raise ValueError(f"row {name}: {error}" if several else str(error)) from error
    failed: dict[str, TrainingStalled] = {}
    for name in config.rows:
        own = row_folder(config, folder, name)
        try:
            trained = take(name, trainers.trained(name, own), config)
        except TrainingStalled as stop:  # which says nothing of other rows
            failed[name] = stop
            if several:
                say(f"{name}: {stop}")
            continue
        trained.facts["begins_with"] = trainers.beginning(name)
        evaluation = judge(trained, config, device)
        done[name] = trained, evaluation
        _leave(config, trained, evaluation, own)
        # After each row, so that an interrupted job leaves what it has.
        table[name] = as_json(trained, evaluation)
        report.write_table(folder / TABLE, {"config": _plain(config), "rows": table})
        if several:
            say(render({name: done[name]}, name))
    if done and config.data == "sine":
        draw_sine(folder / "sine.png", done, config)
    if done:
        print(render(done, _title(config)))
    if failed:
        rows = f"{', '.join(failed)}: " if several else ""
        raise TrainingStalled(f"{rows}{list(failed.values())[-1]}")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all; left in {folder}/")
    return folder


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

"""The few-shot job: trains methods, tests them on episodes, and writes a run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from learned_opt.adaptation.initialization import Initialization
from learned_opt.adaptation.initialization_file import save_initialization
from meta_train.evaluation.comparison import report
from meta_train.few_shot.data_sets import IMAGES
from meta_train.few_shot.embedding_plot import draw_embeddings
from meta_train.few_shot.ignored_settings import ignored_settings
from meta_train.few_shot.instance_table import render_by_instance
from meta_train.few_shot.plots import draw_sine
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.table import as_json, render
from meta_train.few_shot.trained import TrainedMethod, evaluate_trained, trained_method
from meta_train.few_shot.verification import Verification, verify_trained
from meta_train.jobs.command import CONFIG, PROGRAM
from meta_train.jobs.few_shot.folders import (
    TABLE,
    job_folder,
    method_folder,
    resume_arguments,
)
from meta_train.jobs.few_shot.runner import MethodRunner, read_json
from meta_train.jobs.few_shot.tensorboard import write_results
from meta_train.jobs.run_folders import locked, remove_if_empty
from meta_train.jobs.run_texts import write_configuration
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.device import choose_device
from meta_train.runtime.progress import say
from meta_train.runtime.signals import Interrupted, TrainingStalled
from meta_train.tasks.episodes.base import HEAD


def run(config: FewShotConfig, write_config: Callable[[Path], object]) -> Path:
    """Run the job.

    Args:
        config: settings of the job.
        write_config: writes the configuration to a path.

    Returns:
        The run folder. It holds config.yaml, table.json and a picture: sine.png for sine curves,
        embeddings.png for methods that compare embeddings of characters. Each method has
        initialization.safetensors, checkpoints/ and tensorboard/, in a subfolder if there are
        several methods. A method that begins with another one holds that one's folder.

    Raises:
        ValueError: settings that do not go together, or a damaged checkpoint.
        OSError: the data is missing, the folder holds a run and `resume` is false, or another job
            uses it.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint is written.
        TrainingStalled: too many outer steps of a method were skipped in a row. Its checkpoint is
            written, and the other methods are trained and tested.
    """
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    folder = job_folder(config)
    try:
        with locked(folder):
            if config.out is not None and not config.resume:
                job_folder(config)  # Another job may have ended here in the meantime.
            return _run(config, write_config, device, folder)
    except KeyboardInterrupt:
        if not any(map(list_checkpoints, folder.glob("**/checkpoints"))):
            raise
        how = f"continue with {resume_arguments(folder)}"
        raise Interrupted("stopped at once", how) from None
    finally:
        if config.out is None:
            remove_if_empty(folder)


def _run(
    config: FewShotConfig,
    write_config: Callable[[Path], object],
    device: torch.device,
    folder: Path,
) -> Path:
    began = time.monotonic()
    several = len(config.methods) > 1
    done: dict[str, tuple[TrainedMethod, Evaluation]] = {}
    verified: dict[str, Verification] = {}
    kept = config.resume and (folder / TABLE).exists()
    table = read_json(folder / TABLE, "rows") if kept else {}

    def write_settings() -> None:
        write_config(folder / CONFIG)
        write_configuration(folder, f"{PROGRAM} few-shot")

    runner = MethodRunner(config, device, folder, write_settings)
    _check_methods(runner, config, folder)
    failed: dict[str, TrainingStalled] = {}
    for name in config.methods:
        own_folder = method_folder(config, folder, name)
        try:
            trainer = runner.train(name, own_folder)
        except TrainingStalled as stall:  # The other methods go on.
            failed[name] = stall
            if several:
                say(f"{name}: {stall}")
            continue
        trained = trained_method(name, trainer, config, runner.begun_with(name))
        evaluation = evaluate_trained(trained, config, device)
        verification = verify_trained(trained, config, device)
        done[name] = trained, evaluation
        if verification is not None:
            verified[name] = verification
        facts = as_json(trained, evaluation, verification)
        _save_initialization(config, trained, facts, own_folder)
        write_results(own_folder / "tensorboard", trained, evaluation, config, facts)
        # After each method: an interrupted job keeps the results that it has.
        table[name] = facts
        report.write_table(folder / TABLE, {"config": _plain(config), "rows": table})
        if several:
            one = {} if verification is None else {name: verification}
            say(_tables({name: done[name]}, one, config, name))
    if done:
        _draw(folder, done, config)
        print(_tables(done, verified, config))
    if failed:
        names = f"{', '.join(failed)}: " if several else ""
        raise TrainingStalled(f"{names}{list(failed.values())[-1]}")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes; results in {folder}/")
    return folder


def _check_methods(runner: MethodRunner, config: FewShotConfig, folder: Path) -> None:
    """Check all methods before hours of training, not after, and name settings without effect.

    Raises:
        ValueError: a method does not fit the settings; the message names it.
    """
    for name in config.methods:
        try:
            runner.check(name, method_folder(config, folder, name))
        except ValueError as error:
            several = len(config.methods) > 1
            raise ValueError(f"method {name}: {error}" if several else str(error)) from error
    for line in ignored_settings(config):
        print(line, file=sys.stderr)


def _draw(
    folder: Path, done: Mapping[str, tuple[TrainedMethod, Evaluation]], config: FewShotConfig
) -> None:
    """Draw the sine curves, or the embeddings, of the methods that were trained."""
    if config.data == "sine":
        draw_sine(folder / "sine.png", done, config)
        return
    trained = {name: method for name, (method, _) in done.items()}
    draw_embeddings(folder / "embeddings.png", trained, config)


def _save_initialization(
    config: FewShotConfig, trained: TrainedMethod, facts: dict[str, Any], folder: Path
) -> None:
    folder.mkdir(exist_ok=True)  # A method that uses another's training has no folder yet.
    method = trained.method
    card = {
        "row": trained.name,
        "data": config.data,
        "ways": config.ways if config.data != "sine" else None,
        "shots": config.support_shots,
        **facts,
        "torch": torch.__version__,
    }
    save_initialization(
        Initialization(
            parameters={key: value.cpu() for key, value in trained.initialization.items()},
            rule=trained.rule.cpu(),
            lr=method.inner_lr,
            steps=method.test_steps,
            only=(HEAD,) if method.adapted == "head" else None,
            proximal=method.proximal,
            card=card,
        ),
        folder / "initialization.safetensors",
    )


def _tables(
    done: Mapping[str, tuple[TrainedMethod, Evaluation]],
    verified: Mapping[str, Verification],
    config: FewShotConfig,
    title: str | None = None,
) -> str:
    """A table by inner steps, and one by instance for networks that read the training set."""
    readers = {name: one for name, one in done.items() if one[1].counts == "instance"}
    others = {name: one for name, one in done.items() if name not in readers}
    texts = [render(others, title or _title(config), verified)] if others else []
    if readers:
        texts.append(
            render_by_instance(readers, title or f"{IMAGES[config.data].title}, {config.ways}-way")
        )
    return "\n".join(texts)


def _title(config: FewShotConfig) -> str:
    if config.data == "sine":
        return f"sine curves from {config.support_shots} points"
    title = IMAGES[config.data].title
    return f"{title}, {config.ways}-way {config.support_shots}-shot"


def _plain(config: FewShotConfig) -> dict[str, object]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}

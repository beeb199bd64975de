"""The main job: meta-trains a rule, compares it with tuned optimizers, fills a run folder."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from learned_opt.rules import UpdateRule, create_rule
from learned_opt.weights import find_rule, save_rule
from meta_train.evaluation.baselines import BASELINES
from meta_train.evaluation.comparison import report
from meta_train.evaluation.comparison.compare import ComparedOptimizer, compare, total_steps
from meta_train.evaluation.comparison.tensorboard import write_comparison
from meta_train.evaluation.comparison.trainings import ComparisonTask
from meta_train.evaluation.validation.ratio_validator import RatioValidator
from meta_train.evaluation.validation.task_validator import TaskValidator
from meta_train.evaluation.validation.validator import Validator
from meta_train.jobs.command import CONFIG
from meta_train.jobs.config import EvaluateSettings, MainConfig
from meta_train.jobs.run_folders import claim_folder, locked
from meta_train.jobs.run_texts import card_text, told_apart, write_configuration
from meta_train.jobs.start_weights import check_same_start, start_at
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.distributed import DistributedContext, ProcessLost, joined
from meta_train.runtime.progress import progress_bar, say
from meta_train.runtime.seeding import derive_seed
from meta_train.runtime.signals import Interrupted, TrainingStalled, sigterm_like_ctrl_c
from meta_train.tasks import TaskFamily, create_task

WEIGHTS = "weights.safetensors"
"""The file of the meta-trained rule, in the run folder."""


def run(config: MainConfig, write_config: Callable[[Path], object]) -> Path:
    """Run the job. Under `torchrun` all processes call it; the first one writes and prints.

    Args:
        config: see `MainConfig`.
        write_config: writes the configuration to a path.

    Returns:
        The run folder: config.yaml, weights.safetensors, table.json, curves.png, checkpoints/ and
        tensorboard/.

    Raises:
        ValueError: an unknown name, a damaged checkpoint, or a resumed run that began with
            another `start`.
        FileExistsError: the folder holds a run and `resume` is false, or another job uses it.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
        TrainingStalled: too many skipped outer steps in a row; a checkpoint was written.
        ProcessLost: another process ended; the newest checkpoint is intact.
        FailedOnOtherRank: another process failed; it reports the error.
    """
    began = time.monotonic()
    torch.set_num_threads(config.threads)
    trainer: MetaTrainer | None = None
    with ExitStack() as lock:  # Of the run folder, in the first process.
        try:
            with joined(config.device) as (distributed, device):
                task = create_task(config.task, **config.task_settings)
                trainer = _build_trainer(config, task, distributed, device)
                folder = _meta_train(config, trainer, distributed, write_config, lock)
            # The other processes have ended and need not wait for the comparison.
            if distributed.first:
                with sigterm_like_ctrl_c():
                    _compare(config, task, trainer, folder)
                minutes = (time.monotonic() - began) / 60
                print(f"\nFinished after {minutes:.1f} minutes. Results are in")
                print(
                    f"{folder}/: weights.safetensors, table.json, curves.png, config.yaml, "
                    "tensorboard/"
                )
        except KeyboardInterrupt:
            reached = None if trainer is None else trainer.folder
            if reached is None or not list_checkpoints(reached / "checkpoints"):
                raise
            raise Interrupted("stopped at once", how_to_continue(reached)) from None
    return folder


def how_to_continue(folder: Path) -> str:
    """Says how to go on with the run in a folder."""
    return f"continue with --out {shlex.quote(str(folder))} --resume true"


def _build_trainer(
    config: MainConfig, task: TaskFamily, distributed: DistributedContext, device: torch.device
) -> MetaTrainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.train.seed, "rule"))
        rule = create_rule(config.rule, **config.rule_settings)
    if config.start is not None and not config.resume:  # A checkpoint holds the weights.
        other_settings = start_at(rule, config.start)
        if other_settings is not None and distributed.first:
            say(other_settings)
    return MetaTrainer(
        rule,
        task,
        config.train,
        device=device,
        validate=_validator(config, task, device),
        distributed=distributed,
    )


def _meta_train(
    config: MainConfig,
    trainer: MetaTrainer,
    distributed: DistributedContext,
    write_config: Callable[[Path], object],
    lock: ExitStack,
) -> Path:
    # Made after the trainer: bad settings should not leave an empty folder.
    folder = trainer.folder = distributed.from_first(lambda: _run_folder(config, lock))
    if config.resume:
        trainer.resume()
    hint = how_to_continue(folder)
    distributed.from_first(lambda: write_config(folder / CONFIG))
    if distributed.first:
        write_configuration(folder)
        shared = f" ({distributed.size} processes)" if distributed.size > 1 else ""
        say(f"run folder: {folder}{shared}")
        say(f"watch it with: tensorboard --logdir {folder}/tensorboard")
    try:
        trained = trainer.train(progress=config.progress)
    except (Interrupted, TrainingStalled) as stop:
        raise type(stop)(stop.what, hint) from None
    except ProcessLost as lost:
        raise ProcessLost(f"{lost}; the newest checkpoint is intact: {hint}") from lost
    if distributed.first:
        say(
            f"meta-trained {config.rule} on {config.task}: {trainer.outer_step} outer steps in "
            f"{trainer.seconds / 60:.1f} minutes\n{trainer.diverged} inner runs diverged, "
            f"{trainer.meta_optimizer.skipped} outer steps were skipped"
        )
        # An interrupted comparison must not lose the weights; it writes them again with the table.
        save_rule(trained, folder / WEIGHTS, card=_card(config, trainer))
    return folder


def _validator(config: MainConfig, task: TaskFamily, device: torch.device) -> Validator:
    settings = config.validate
    if settings.reference is None:
        return TaskValidator(task.validation(), config.evaluate.steps, device)
    return RatioValidator(
        create_task(settings.task).held_out(),
        find_rule(settings.reference),  # a network with its weights, not with random ones
        steps=settings.steps,
        seeds=range(settings.seeds),
        device=device,
    )


def _compare(config: MainConfig, task: TaskFamily, trainer: MetaTrainer, folder: Path) -> None:
    trained = trainer.kept.rule
    tasks = comparison_tasks(task, config.evaluate)
    table = evaluate(trained, tasks, config.evaluate, trainer.device, progress=config.progress)
    data = {
        **_card(config, trainer),
        "baselines_tuned_over": {b.label: list(b.learning_rates) for b in BASELINES},
        "columns": report.as_json(table, tasks),
    }
    report.write_table(folder / "table.json", data)
    save_rule(trained, folder / WEIGHTS, card=data)
    report.draw_curves(folder / "curves.png", table, tasks)
    rendered = report.render_table(table, tasks)
    print(rendered)
    write_comparison(
        folder / "tensorboard",
        table,
        tasks,
        texts={"1 final table": rendered, "4 card": card_text(data)},
        settings=_settings(config),
    )


def _settings(config: MainConfig) -> dict[str, Any]:
    """The settings that tell runs apart."""
    return {
        "task": config.task,
        "task_settings": config.task_settings,
        "rule": config.rule,
        "rule_settings": config.rule_settings,
        **told_apart(config.train),
    }


def _card(config: MainConfig, trainer: MetaTrainer) -> dict[str, Any]:
    """The header of the weights file: how the rule was made."""
    return {
        "task": config.task,
        "task_settings": config.task_settings,
        "rule": config.rule,
        "rule_settings": config.rule_settings,
        "start": None if config.start is None else config.start.name,
        "train": asdict(config.train),
        "validate": asdict(config.validate),
        "meta_training": {
            "outer_steps": trainer.outer_step,
            "stopped_early": trainer.outer_step < config.train.outer_steps,
            "minutes": round(trainer.seconds / 60, 2),
            "diverged_runs": trainer.diverged,
            "skipped_steps": trainer.meta_optimizer.skipped,
        },
        "torch": torch.__version__,
    }


def comparison_tasks(family: TaskFamily, settings: EvaluateSettings) -> list[ComparisonTask]:
    """The held-out tasks of a family, and the first of them over ten times the steps."""
    steps = settings.steps
    held_out = family.held_out()
    tasks = [
        ComparisonTask(f"column{k}" if k else "family", title, held, steps, patience=2 * steps)
        for k, (title, held) in enumerate(held_out.items())
    ]
    first = next(iter(held_out.values()))
    return [*tasks, ComparisonTask("long", "same family, 10 x the steps", first, 10 * steps, 0)]


def evaluate(
    rule: UpdateRule,
    tasks: list[ComparisonTask],
    settings: EvaluateSettings,
    device: torch.device,
    *,
    progress: bool = True,
) -> Mapping[str, list[ComparedOptimizer]]:
    """Compare a rule with the baselines on all tasks, with a progress bar."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    total = total_steps(tasks)
    with progress_bar(total, "step", show=progress, desc="evaluation") as bar:
        workers = settings.workers or (min(os.cpu_count() or 1, 4) if device.type == "cpu" else 1)
        return compare(
            rule, tasks, seeds=seeds, device=device, workers=workers, on_steps=bar.update
        )


def _run_folder(config: MainConfig, lock: ExitStack) -> Path:
    """Find the run folder, or create it, and lock it until `lock` is closed."""
    if config.out is None:
        folder = claim_folder(f"{config.task}_{config.rule}_seed{config.train.seed}")
        lock.enter_context(locked(folder))
        return folder
    checkpoints = config.out / "checkpoints"
    if config.resume and not list_checkpoints(checkpoints):  # Before the folder is created.
        raise ValueError(f"there is no checkpoint in {checkpoints}: start the run without --resume")
    lock.enter_context(locked(config.out))
    held = [*list_checkpoints(checkpoints), config.out / WEIGHTS]
    if not config.resume and any(path.exists() for path in held):
        raise FileExistsError(
            f"{config.out} already holds a run: add --resume true, or choose another --out"
        )
    if config.resume:
        check_same_start(config.out, config.start)
    return config.out

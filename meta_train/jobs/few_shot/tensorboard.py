"""Results of a few-shot method in TensorBoard: scores by inner step, gates by layer, texts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from learned_opt.monitoring.custom_scalars import Lines, write_layout
from learned_opt.monitoring.event_writer import Disk, replace_run
from learned_opt.monitoring.figures import log_figure
from meta_train.evaluation.comparison.tensorboard import write_figures
from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.episodes import evaluation_task
from meta_train.few_shot.gate_curves import draw_gate_bands, gate_bands
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.trained import TrainedMethod
from meta_train.jobs.run_texts import card_text
from meta_train.tasks.episodes.base import EpisodeTask

GATE_EPISODES = 5
"""Test episodes whose gates are drawn."""


def write_results(
    folder: Path,
    trained: TrainedMethod,
    evaluation: Evaluation,
    config: FewShotConfig,
    card: dict[str, Any],
) -> None:
    """Write the run "results" of a method, in place of an earlier one; a full disk is a warning.

    Args:
        folder: folder of the method's events.
        trained: the method.
        evaluation: its scores on test episodes.
        config: the job.
        card: facts about training and results.
    """
    writer = replace_run(folder / "results", Disk(folder))
    if writer is None:
        return
    counted = "inner step" if evaluation.counts == "steps" else evaluation.counts
    tag = f"test/{evaluation.metric}_by_{counted.replace(' ', '_')}"
    for steps in evaluation.steps:
        writer.add_scalar(tag, evaluation.mean(steps), steps)
    title = f"{evaluation.metric} by {counted}"
    write_layout(writer, {"Test episodes": [Lines(title, (f"^{tag}$",))]}, 0)
    rows = [
        [str(steps), f"{evaluation.mean(steps):.4g} ± {evaluation.interval(steps):.2g}"]
        for steps in evaluation.steps
    ]
    table = markdown_table([counted, evaluation.metric], rows, align=">>")
    note = f"mean and 95% interval over {evaluation.episodes} test episodes"
    writer.add_text("1 final table", f"**{trained.name}**, {note}\n\n{table}", 0)
    writer.add_text("4 card", card_text(card), 0)
    log_figure(writer, "gates/by_layer", lambda: _gates(trained, config), 0)
    settings = {
        "row": trained.name,
        "data": config.data,
        "ways": config.ways,
        "shots": config.support_shots,
        "seed": config.seed,
        "outer_steps": trained.facts["outer_steps"],
        "inner_lr": trained.method.inner_lr,
        "test_steps": trained.method.test_steps,
        "changes": asdict(config)["train"],
    }
    last = trained.method.test_steps
    shown = last if last in evaluation.steps else evaluation.steps[-1]
    figures = {f"final/{evaluation.metric}": evaluation.mean(shown)}
    write_figures(writer, settings, figures)
    writer.close()


def _gates(trained: TrainedMethod, config: FewShotConfig) -> Any:
    """The gates of the method's rule by layer; None if it has none."""
    task = evaluation_task(trained.method, config)
    if not isinstance(task, EpisodeTask) or not trained.method.test_steps:
        return None
    bands = gate_bands(
        trained.rule,
        trained.initialization,
        task,
        steps=trained.method.test_steps,
        episodes=GATE_EPISODES,
        seed=config.seed,
        lr=trained.method.inner_lr,
    )
    return (
        draw_gate_bands({f"{trained.name}, {config.support_shots}-shot": bands}) if bands else None
    )

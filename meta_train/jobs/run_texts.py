"""Texts of a run for TensorBoard: its configuration, the command to repeat it, its settings.

Texts are numbered in the order in which a person looks: the final table is 1, the card 4.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_train.jobs.command import CONFIG, PROGRAM
from meta_train.outer.settings import TrainSettings

MAIN = {"estimator", "lr", "outer_steps", "seed"}
HOUSEKEEPING = {
    *("checkpoint_every", "keep_checkpoints", "gates_every", "validate_every"),
    *("max_minutes", "compile_rule", "fused_rule"),
}
"""Settings that say when to write, or how fast, but not what is learned."""


def write_configuration(folder: Path, program: str = PROGRAM) -> None:
    """Write the run "configuration" of a run folder, in place of an earlier one.

    A full disk is a warning.

    Args:
        folder: the run folder; holds the configuration already.
        program: the command line that takes it.
    """
    from learned_opt.monitoring.event_writer import Disk, replace_run  # tensorboard is optional

    events = folder / "tensorboard"
    writer = replace_run(events / "configuration", Disk(events))
    if writer is None:
        return
    path = folder / CONFIG
    command = f"{program} --config {shlex.quote(str(path))}"
    writer.add_text("2 command", fenced(command, "sh"), 0)
    writer.add_text("3 configuration", fenced(path.read_text(), "yaml"), 0)
    writer.close()


def fenced(text: str, language: str) -> str:
    """The text as a block of code in Markdown."""
    return f"```{language}\n{text.strip()}\n```"


def card_text(card: Mapping[str, Any]) -> str:
    """A card of weights as Markdown."""
    return fenced(json.dumps(card, indent=2), "json")


def told_apart(train: TrainSettings) -> dict[str, Any]:
    """Settings of meta-training that tell runs apart: the main and the changed ones."""
    default = vars(TrainSettings())
    return {
        name: value
        for name, value in vars(train).items()
        if name in MAIN or (value != default[name] and name not in HOUSEKEEPING)
    }

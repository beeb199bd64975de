"""Runs few-shot jobs once, reads their validation, and writes tables into documents."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from documents import replace_between
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learned_opt.files import write_atomically
from meta_train.jobs.cli import main as command
from meta_train.runtime.checkpoint_files import list_checkpoints


def run_job(out: Path, settings: Callable[[], dict]) -> None:
    """Run a job unless it is done. Exits if the command fails.

    Args:
        out: run folder; a job that started there is resumed with its own settings.
        settings: makes the arguments of a new job.
    """
    if (out / "table.json").exists():
        return
    print(f"\n{out}", flush=True)
    if (out / "config.yaml").exists():
        begun = any(list_checkpoints(folder) for folder in out.glob("**/checkpoints"))
        given = ["--config", str(out / "config.yaml"), "--out", str(out)]
        given += ["--resume", json.dumps(begun)]
    else:
        asked = {**settings(), "out": out, "progress": sys.stderr.isatty()}
        given = [word for key, value in asked.items() for word in (f"--{key}", _written(value))]
    if status := command(["few-shot", *given]):
        sys.exit(status)


def _written(value: object) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def validation_curve(folder: Path) -> list[list[float]]:
    """Accuracy on the validation alphabets in a run folder, as pairs (outer step, accuracy)."""
    events = EventAccumulator(str(folder / "tensorboard" / "meta-training")).Reload()
    if "curves/validation_loss" not in events.Tags()["scalars"]:
        return []
    # A resumed run may have validated a step twice; the last counts.
    found = {event.step: 1 - event.value for event in events.Scalars("curves/validation_loss")}
    return [[step, round(accuracy, 4)] for step, accuracy in sorted(found.items())]


def write_tables(document: Path, tables: Mapping[str, str]) -> None:
    """Write tables between their markers; the prose of the document stays."""
    text = document.read_text()
    for name, table in tables.items():
        text = replace_between(text, name, table)
    write_atomically(document, text.encode())

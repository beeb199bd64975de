"""Runs of `python -m meta_train few-shot` that are done once, and go on where they were cut off."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from meta_train.jobs.cli import main as command
from meta_train.runtime.checkpoint_files import list_checkpoints


def run_job(out: Path, settings: Callable[[], dict]) -> None:
    """Run a job, unless it is done; exits where the command fails.

    Args:
        out: its run folder; a job that was begun there goes on with the settings that it has.
        settings: of the command line, asked for only if the job has not begun.
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

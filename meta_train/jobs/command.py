"""What command lines share: errors in one line, configurations read and recorded, exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace

from learned_opt.files import write_atomically
from meta_train.runtime.distributed import started_first
from meta_train.runtime.signals import Interrupted, TrainingStalled

PROGRAM = "python -m meta_train"

Config = TypeVar("Config", bound=Any)


class OneLineParser(ArgumentParser):
    """Says what is wrong in one line; the usage is a `--help` away."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say it and leave with status 2."""
        text = " ".join(str(message).split())
        if started_first():  # of several processes, which are all told the same
            sys.stderr.write(f"{self.prog}: error: {text}\n")
        raise SystemExit(2)


def read_config(
    parser: ArgumentParser, arguments: list[str] | None, kind: type[Config]
) -> tuple[Config, Callable[[Path], None]]:
    """Read a configuration off the command line; a bad value ends the program with status 2.

    Returns:
        The configuration, and what records it at a path.
    """
    parsed: Namespace = parser.parse_args(arguments)

    def write_config(path: Path) -> None:
        # As a recipe: the folder is each run's own.
        recipe = parsed.clone()
        recipe["out"], recipe["resume"] = None, False
        write_atomically(path, parser.dump(recipe).encode())

    try:
        settings = vars(parser.instantiate(parsed))
        return kind(**{field.name: settings[field.name] for field in fields(kind)}), write_config
    except ValueError as error:
        parser.error(str(error))


def exit_status(error: BaseException | None, program: str = PROGRAM) -> tuple[int, str]:
    """Exit status and a line to show."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "\nstopped at once; a run goes on with --out FOLDER --resume true"
    if isinstance(error, Interrupted):
        return 130, f"\n{error}"
    status = 2 if isinstance(error, (ValueError, OSError)) else 1
    status = 3 if isinstance(error, TrainingStalled) else status
    return status, f"{program}: error: {' '.join(str(error).split())}"

"""The command line: `python -m meta_train`, everything optional."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace

from learned_opt.files import write_atomically
from meta_train.config import MainConfig
from meta_train.main_job import run
from meta_train.ranks import EndedElsewhere, ProcessLost, started_first
from meta_train.stopping import Interrupted, NotLearning

PROGRAM = "python -m meta_train"
DESCRIPTION = """Meta-train an optimizer that is a neural network, then compare it with tuned
hand-designed ones on tasks that it has not seen. Without arguments: an LSTM on small
networks that classify handwritten digits, in about five minutes on two CPU cores. Several
processes share the work under torchrun: torchrun --nproc-per-node=2 -m meta_train ...
Few-shot learning is another command: python -m meta_train few-shot --help."""
FEW_SHOT = "few-shot"

Config = TypeVar("Config", bound=Any)


class OneLineParser(ArgumentParser):
    """Says what is wrong in one line; the usage is a `--help` away."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say it and leave with status 2."""
        text = " ".join(str(message).split())
        if started_first():  # of several processes, which are all told the same
            sys.stderr.write(f"{self.prog}: error: {text}\n")
        raise SystemExit(2)


def build_parser() -> ArgumentParser:
    """The parser of the main job."""
    parser = OneLineParser(
        prog=PROGRAM,
        usage="%(prog)s [--config FILE] [--SETTING VALUE ...]",
        description=DESCRIPTION,
    )
    parser.add_argument("--config", action="config", help="a YAML file of settings")
    parser.add_class_arguments(MainConfig, as_group=True)
    return parser


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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 where another process has ended; 2 for a bad value, or files that
        cannot be written; 3 where meta-training is of no use; 130 after Ctrl-C or SIGTERM. With 3
        and 130 a checkpoint is written, with 1 the newest one stands.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [FEW_SHOT]:
        from meta_train.few_shot.cli import main as few_shot  # what it needs is not needed here

        return few_shot(given[1:])
    parser = build_parser()
    config, write_config = read_config(parser, arguments, MainConfig)
    try:
        run(config, write_config)
    except EndedElsewhere as ended:  # which is said there
        return verdict(ended.__cause__)[0]
    except (Interrupted, KeyboardInterrupt, NotLearning, ProcessLost, ValueError, OSError) as error:
        status, text = verdict(error)
        print(text, file=sys.stderr)
        return status
    return 0


def verdict(error: BaseException | None, program: str = PROGRAM) -> tuple[int, str]:
    """Exit status and a line to show."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "\nstopped at once; a run goes on with --out FOLDER --resume true"
    if isinstance(error, Interrupted):
        return 130, f"\n{error}"
    status = 2 if isinstance(error, (ValueError, OSError)) else 1
    status = 3 if isinstance(error, NotLearning) else status
    return status, f"{program}: error: {' '.join(str(error).split())}"

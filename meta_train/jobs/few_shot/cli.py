"""The command line of few-shot learning: `python -m meta_train few-shot`."""

from __future__ import annotations

import os
import sys
import textwrap
from argparse import RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter

from meta_train.few_shot.methods.registry import ROWS
from meta_train.few_shot.settings import ALL, FewShotConfig
from meta_train.jobs.command import OneLineParser, exit_status, read_config
from meta_train.jobs.few_shot.job import run
from meta_train.runtime.signals import Interrupted, TrainingStalled

PROGRAM = "python -m meta_train few-shot"


class _Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the list of rows a list."""


def description() -> str:
    """What the command does, and every row by name."""
    lines = [
        "Train a few-shot method and test it on episodes that it has not seen. Without",
        "arguments: MAML on sine curves. --row all --data sine draws all rows in one",
        "picture, sine.png. By default rows train for a short while, far from",
        "convergence; --effort 10 takes ten times the outer steps.",
        "",
        f"rows (--row NAME, or --row {ALL} for all that fit; those with * fit sine curves):",
    ]
    for name, row in ROWS.items():
        mark = "*" if row.sine is not None else " "
        lines += textwrap.wrap(
            f"{mark} {name:<27} {row.source}", 80, initial_indent="  ", subsequent_indent=" " * 32
        )
    return "\n".join(lines)


def build_parser() -> OneLineParser:
    """The parser of the few-shot job."""
    parser = OneLineParser(
        prog=PROGRAM,
        usage="%(prog)s [--row NAME] [--data DATA] [--SETTING ...]",
        description=description(),
        formatter_class=_Formatter,
    )
    parser.add_argument("--config", action="config", help="a YAML file of settings")
    parser.add_class_arguments(FewShotConfig, as_group=True)
    return parser


def main(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit status, as of `meta_train.jobs.cli.main`.
    """
    parser = build_parser()
    config, write_config = read_config(parser, arguments, FewShotConfig)
    if os.environ.get("WORLD_SIZE", "") not in ("", "0", "1"):
        parser.error("few-shot runs in one process: start it without torchrun")
    try:
        run(config, write_config)
    except (Interrupted, KeyboardInterrupt, TrainingStalled, ValueError, OSError) as error:
        status, text = exit_status(error, PROGRAM)
        if isinstance(error, KeyboardInterrupt):  # with something to go on with, it is Interrupted
            text = "\nstopped at once, before there was anything to go on with"
        print(text, file=sys.stderr)
        return status
    return 0

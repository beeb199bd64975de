"""The command line of the few-shot job: `python -m meta_train few-shot`."""

from __future__ import annotations

import sys
import textwrap
from argparse import RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter

from meta_train.few_shot.methods.registry import METHODS
from meta_train.few_shot.settings import (
    ALL,
    EpisodeConfig,
    EvaluationConfig,
    FewShotConfig,
    MetaTrainingConfig,
    RunConfig,
)
from meta_train.jobs.command import OneLineParser, exit_status, read_config
from meta_train.jobs.few_shot.job import run
from meta_train.runtime.distributed import started_processes
from meta_train.runtime.signals import Interrupted, TrainingStalled

PROGRAM = "python -m meta_train few-shot"


class _Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the line breaks of the list of methods."""


def description() -> str:
    """Says what the command does, and lists the methods."""
    lines = [
        "Meta-train a few-shot method and test it on new episodes. Without arguments:",
        "MAML on sine curves. --row all trains all methods that fit the data; on sine",
        "curves it draws them in one picture, sine.png. Defaults train briefly, far from",
        "convergence; --effort 10 takes ten times the outer steps.",
        "",
        f"methods (--row NAME, or --row {ALL}); those with * fit sine curves:",
    ]
    for name, method in METHODS.items():
        mark = "*" if method.sine is not None else " "
        lines += textwrap.wrap(
            f"{mark} {name:<27} {method.source}",
            80,
            initial_indent="  ",
            subsequent_indent=" " * 32,
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
    parser.add_argument("--config", action="config", help="YAML file of settings")
    for part in (MetaTrainingConfig, EpisodeConfig, EvaluationConfig, RunConfig):
        parser.add_class_arguments(part, as_group=True)
    return parser


def main(arguments: list[str]) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after `few-shot`.

    Returns:
        The exit status, as of `meta_train.jobs.cli.main`.
    """
    parser = build_parser()
    config, write_config = read_config(parser, arguments, FewShotConfig)
    if started_processes() > 1:
        parser.error("few-shot runs in one process: start it without torchrun")
    try:
        run(config, write_config)
    except (Interrupted, KeyboardInterrupt, TrainingStalled, ValueError, OSError) as error:
        status, text = exit_status(error, PROGRAM)
        print(text, file=sys.stderr)
        return status
    return 0

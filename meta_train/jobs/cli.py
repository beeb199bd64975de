"""The command line: `python -m meta_train`, everything optional."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from meta_train.jobs.command import PROGRAM, OneLineParser, exit_status, read_config
from meta_train.jobs.config import MainConfig
from meta_train.jobs.meta_training import run
from meta_train.runtime.distributed import FailedOnOtherRank, ProcessLost
from meta_train.runtime.signals import Interrupted, TrainingStalled

DESCRIPTION = """Meta-train an optimizer that is a neural network, then compare it with tuned
hand-designed ones on tasks that it has not seen. Without arguments: an LSTM on small
networks that classify handwritten digits, in about five minutes on two CPU cores. Several
processes share the work under torchrun: torchrun --nproc-per-node=2 -m meta_train ...
Few-shot learning is another command: python -m meta_train few-shot --help."""
FEW_SHOT = "few-shot"


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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 where another process has ended; 2 for a bad value, or files that
        cannot be written; 3 where meta-training is of no use; 130 after Ctrl-C or SIGTERM. With 3
        and 130 a checkpoint is written, with 1 the newest one stands.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [FEW_SHOT]:
        from meta_train.jobs.few_shot.cli import (
            main as few_shot,  # what it needs is not needed here
        )

        return few_shot(given[1:])
    parser = build_parser()
    config, write_config = read_config(parser, arguments, MainConfig)
    try:
        run(config, write_config)
    except FailedOnOtherRank as ended:  # which is said there
        return exit_status(ended.__cause__)[0]
    except (
        Interrupted,
        KeyboardInterrupt,
        TrainingStalled,
        ProcessLost,
        ValueError,
        OSError,
    ) as error:
        status, text = exit_status(error)
        print(text, file=sys.stderr)
        return status
    return 0

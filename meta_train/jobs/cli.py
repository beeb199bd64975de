"""The command line of the main job: `python -m meta_train`."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from learned_opt.registry import unknown
from meta_train.jobs.command import PROGRAM, OneLineParser, exit_status, read_config
from meta_train.jobs.config import MainConfig
from meta_train.jobs.meta_training import run
from meta_train.outer.settings import RENAMED
from meta_train.runtime.distributed import FailedOnOtherRank, ProcessLost, started_processes
from meta_train.runtime.signals import Interrupted, TrainingStalled, sigterm_like_ctrl_c

DESCRIPTION = """Meta-train an optimizer that is a neural network, then compare it with tuned
hand-designed optimizers on tasks that it has not seen. All arguments are optional: by default an
LSTM learns to train small networks that classify handwritten digits, in about five minutes on two
CPU cores. With torchrun several processes share the work: torchrun --nproc-per-node=2 -m meta_train
... For few-shot learning see: python -m meta_train few-shot --help; for the benchmark of
optimizers: python -m meta_train benchmark --help; to see what an optimizer has learned: python -m
meta_train explain --help."""
FEW_SHOT = "few-shot"
BENCHMARK = "benchmark"
EXPLAIN = "explain"
COMMANDS = (FEW_SHOT, EXPLAIN, BENCHMARK)


def build_parser() -> ArgumentParser:
    """The parser of the main job's arguments."""
    parser = OneLineParser(
        prog=PROGRAM,
        usage=f"%(prog)s [{' | '.join(COMMANDS)}]\n    [--config FILE] [--SETTING VALUE ...]",
        description=DESCRIPTION,
        renamed={f"train.{old}": f"train.{new}" for old, new in RENAMED.items()},
    )
    parser.add_argument("--config", action="config", help="YAML file of settings.")
    parser.add_class_arguments(MainConfig, as_group=True)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 1 if another process ended, 2 for a bad value or a file
        that cannot be written, 3 if meta-training stalled, 130 after Ctrl-C or SIGTERM. With 3 and
        130 a checkpoint was written; with 1 the newest checkpoint is intact.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if started_processes() > 1:  # one that waits for the others in C code would never notice
        return _main(given)
    with sigterm_like_ctrl_c():
        return _main(given)


def _main(given: list[str]) -> int:
    if given[:1] == [FEW_SHOT]:
        from meta_train.jobs.few_shot import cli as few_shot  # slow to import, rarely needed

        return few_shot.main(given[1:])
    if given[:1] == [BENCHMARK]:
        from meta_train.jobs.benchmark import cli as benchmark

        return benchmark.main(given[1:])
    if given[:1] == [EXPLAIN]:
        from meta_train.jobs import explain

        return explain.main(given[1:])
    parser = build_parser()
    if given and not given[0].startswith("-"):
        parser.error(unknown("command", given[0], COMMANDS))
    config, write_config = read_config(parser, given, MainConfig)
    try:
        run(config, write_config)
    except FailedOnOtherRank as ended:  # that process reports the error
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

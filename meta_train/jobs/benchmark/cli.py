"""The benchmark's command: `python -m meta_train benchmark`."""

from __future__ import annotations

from argparse import HelpFormatter
from pathlib import Path

from learned_opt.optimizer.learned_optimizer import DEFAULT_RULE
from learned_opt.weights import list_pretrained
from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS
from meta_train.evaluation.benchmark.games import GAMES
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.jobs.benchmark.job import run, say
from meta_train.jobs.benchmark.settings import QUICK_OPTIMIZERS, BenchmarkConfig, read_arguments
from meta_train.jobs.command import OneLineParser, exit_status
from meta_train.runtime.signals import Interrupted

PROGRAM = "python -m meta_train benchmark"
DESCRIPTION = """Train many small tasks with this package's optimizer and with others, each at its
default and tuned, and compare. Writes benchmark.json, benchmark.md and benchmark.png into a folder.
A call with the same --out continues what is there. All of it takes many hours of a core; --quick
takes minutes."""


def build_parser() -> OneLineParser:
    """The parser of the benchmark's arguments.

    There is no `--config`: `--optimizer` imports a module, and no file may do so.
    """
    parser = OneLineParser(
        prog=PROGRAM,
        usage="%(prog)s [--quick] [--tasks NAME ...]\n"
        "    [--optimizers NAME ...] [--optimizer MODULE:FUNCTION ...] [--out FOLDER]",
        description=DESCRIPTION,
        formatter_class=HelpFormatter,  # the texts name the defaults: here None stands for them
    )
    own = ", ".join(list_pretrained())
    add = parser.add_argument
    add(
        "--tasks",
        nargs="+",
        metavar="NAME",
        help=f"tasks: {', '.join([*TASKS, *GAMES])} (default: all, with --quick six)",
    )
    add(
        "--optimizers",
        nargs="+",
        metavar="NAME",
        help=f"optimizers: {DEFAULT_RULE} (the default of LearnedOptimizer), "
        f"{', '.join(CONTESTANTS)}; also any rule of this package, such as {own} "
        f'(default: {DEFAULT_RULE} and all named before "also", with --quick '
        f"{DEFAULT_RULE}, {', '.join(QUICK_OPTIMIZERS)})",
    )
    add(
        "--optimizer",
        nargs="+",
        metavar="MODULE:FUNCTION",
        help="optimizers of your own, besides the others: the function takes the model and the "
        "number of steps, and returns an optimizer, or an optimizer and a scheduler; it must fit "
        "the model of the first task",
    )
    add("--quick", action="store_true", help="six tasks, a quarter of the steps, two seeds")
    add(
        "--no-sensitivity",
        action="store_true",
        help="skip the runs at other step sizes and told numbers of steps (--quick always does)",
    )
    add(
        "--length",
        type=float,
        metavar="FACTOR",
        help="training steps of each task, as a multiple of its own number (default: 1, with "
        "--quick 0.25); games keep theirs",
    )
    add("--seeds", type=int, help="scored seeds (default: 5, with --quick 2)")
    add("--trials", type=int, help="settings to try in tuning (default: 14, with --quick 5)")
    add("--workers", type=int, help="processes of one thread each (default: one a core)")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder of the results; runs recorded there are not repeated (default: a new one)",
    )
    add(
        "--again",
        nargs="+",
        metavar="NAME",
        help="optimizers to measure again: their runs on all tasks are dropped",
    )
    return parser


def parse(arguments: list[str]) -> BenchmarkConfig:
    """The settings of these arguments; exits with status 2 and one line on a bad value."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    try:
        return read_arguments(vars(given))
    except ValueError as error:
        parser.error(str(error))


def main(arguments: list[str]) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after `benchmark`.

    Returns:
        The exit status, as of `meta_train.jobs.cli.main`.
    """
    config = parse(arguments)
    try:
        run(config)
    except (Interrupted, KeyboardInterrupt, ValueError, OSError) as error:
        status, text = exit_status(error, PROGRAM)
        say(text)
        return status
    return 0

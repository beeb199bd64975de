"""The command that explains optimizers: `python -m meta_train explain`."""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from argparse import HelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from learned_opt.explanation import Explanation, explain
from learned_opt.explanation.explain import find, short_name
from learned_opt.explanation.explanation import need_matplotlib
from learned_opt.files import expand, write_atomically
from learned_opt.rules import list_rules
from learned_opt.weights import list_pretrained
from meta_train.jobs.command import OneLineParser, exit_status
from meta_train.jobs.meta_training import WEIGHTS
from meta_train.jobs.run_folders import claim_folder, locked, remove_if_empty

PROGRAM = "python -m meta_train explain"
DESCRIPTION = """Measure what optimizers do with gradients, and draw one page for each: clipping,
momentum, schedule, scale, state, symmetry, layers. Writes NAME.png and NAME.json into a folder, and
images and scalars for TensorBoard; prints a sentence or two for each panel. Takes about ten seconds
of a core for each."""
COLUMNS = 80
COMPARE = ("adam", "momentum")


@dataclass(frozen=True)
class ExplainConfig:
    """Settings of the command.

    Attributes:
        rules: names of bundled weights or of rules, or paths of weights.
        compare: names or paths of rules to draw beside each.
        out: folder of the results; None makes a new one.
        seed: random seed.
    """

    rules: tuple[str, ...]
    compare: tuple[str, ...]
    out: Path | None
    seed: int


def build_parser() -> OneLineParser:
    """The parser of the command's arguments."""
    parser = OneLineParser(
        prog=PROGRAM,
        usage="%(prog)s NAME_OR_PATH [NAME_OR_PATH ...]\n"
        "    [--out FOLDER] [--compare NAME_OR_PATH ...] [--seed NUMBER]",
        description=DESCRIPTION,
        formatter_class=HelpFormatter,  # the texts name the defaults: here None stands for them
    )
    bundled = ", ".join(list_pretrained())
    parser.add_argument(
        "NAME_OR_PATH",  # the error for a missing one shows it
        nargs="+",
        help=f"weights ({bundled}, or the path of a file or of a run folder), or a rule "
        f"({', '.join(list_rules())}); a rule without bundled weights gets fresh ones",
    )
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="NAME_OR_PATH",
        help=f"optimizers to draw beside each, in greys (default: {' '.join(COMPARE)})",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder of the results (default: a new one)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    return parser


def parse(arguments: list[str]) -> ExplainConfig:
    """The settings of these arguments; exits with status 2 and one line on a bad value."""
    parser = build_parser()
    given = vars(parser.parse_args(arguments))
    compare = COMPARE if given["compare"] is None else given["compare"]
    rules, others = (tuple(map(_weights_in, names)) for names in (given["NAME_OR_PATH"], compare))
    config = ExplainConfig(rules, others, given["out"], given["seed"])
    try:
        if not 0 <= config.seed < 2**63:
            raise ValueError(f"--seed must be from 0 to 2**63 - 1, got {config.seed}")
        for name in (*config.rules, *config.compare):  # before minutes are spent
            find(name, config.seed)
        files = [short_name(name) for name in config.rules]
        for name, file in zip(config.rules, files, strict=True):
            if files.count(file) > 1:
                raise ValueError(f"{name}: two of the optimizers would be written as {file}.png")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return config


def _weights_in(name_or_path: str) -> str:
    """The path of the weights in a run folder; anything else as it is."""
    weights = expand(name_or_path) / WEIGHTS
    known = {*list_rules(), *list_pretrained()}
    return str(weights) if name_or_path not in known and weights.is_file() else name_or_path


def run(config: ExplainConfig) -> Path:
    """Explain each rule. Files are written completely or not at all.

    Returns:
        The folder of the results.

    Raises:
        ValueError: a rule cannot be explained.
        ImportError: matplotlib is not installed.
        OSError: a file cannot be written, or another job uses the folder.
    """
    need_matplotlib()  # before minutes are spent
    folder = claim_folder("explain") if config.out is None else expand(config.out)
    try:
        with locked(folder):
            for name in config.rules:
                with one_thread():
                    explanation = explain(name, compare=config.compare, seed=config.seed)
                print(describe(explanation), flush=True)
                _write(explanation, folder, short_name(name))
    finally:
        remove_if_empty(folder)
    print(f"written to {folder}")
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: its operations here are so small that several wait for each other.

    On a busy machine two took eight times the CPU time of one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(explanation: Explanation, folder: Path, name: str) -> None:
    """Write events, picture and numbers; each file complete or not at all."""
    from learned_opt.monitoring.event_writer import Disk, EventWriter

    with tempfile.TemporaryDirectory(prefix=".events.", dir=folder) as unfinished:
        writer = EventWriter(unfinished, disk=Disk(folder / name))
        explanation.write(writer)
        writer.close()
        if not writer.failed:
            (folder / name).mkdir(exist_ok=True)
            for old in (folder / name).glob("events.out.tfevents.*"):
                old.unlink()
            for file in Path(unfinished).iterdir():
                file.replace(folder / name / file.name)
    explanation.save(folder / f"{name}.png")
    write_atomically(folder / f"{name}.json", dump(explanation.numbers).encode())


def describe(explanation: Explanation) -> str:
    """Name and sentences, at most `COLUMNS` wide."""
    lines = [f"{explanation.name} ({explanation.findings.subtitle})"]
    for number, (panel, sentence) in enumerate(explanation.sentences.items(), 1):
        start = f"  {number} {panel:<9}"
        lines += textwrap.wrap(
            sentence, COLUMNS, initial_indent=start, subsequent_indent=" " * len(start)
        )
    return "\n".join([*lines, ""])


def dump(numbers: object) -> str:
    """JSON with lists of numbers in one line."""
    return f"{_dump(numbers, 0)}\n"


def _dump(value: object, depth: int) -> str:
    if isinstance(value, dict) and value:
        pad = "  " * (depth + 1)
        rows = [f"{pad}{json.dumps(key)}: {_dump(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * depth + "}"
    return json.dumps(value)


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after `explain`.

    Returns:
        The exit status, as of `meta_train.jobs.cli.main`.
    """
    config = parse(list(arguments))
    try:
        run(config)
    except KeyboardInterrupt:
        print("\nstopped; the pages that were written are complete", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        status, text = exit_status(error, PROGRAM)
        print(text, file=sys.stderr)
        return status
    return 0

"""The command line: `python -m meta_train`, everything optional."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from learned_opt.files import write_atomically
from meta_train.config import MainConfig
from meta_train.main_job import run
from meta_train.stopping import Interrupted

DESCRIPTION = """Meta-train an optimizer that is a neural network, then compare it with tuned
hand-designed ones on tasks that it has not seen. Without arguments: an LSTM on small
networks that classify handwritten digits, in about five minutes on two CPU cores."""


class _OneLineParser(ArgumentParser):
    """Says what is wrong in one line; the usage is a `--help` away."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        text = " ".join(str(message).split())
        sys.stderr.write(f"{self.prog}: error: {text}\n")
        raise SystemExit(2)


def build_parser() -> ArgumentParser:
    """The parser of the main job."""
    parser = _OneLineParser(
        prog="python -m meta_train",
        usage="%(prog)s [--config FILE] [--SETTING VALUE ...]",
        description=DESCRIPTION,
    )
    parser.add_argument("--config", action="config", help="a YAML file of settings")
    parser.add_class_arguments(MainConfig, as_group=True)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, 2 for a bad value, 130 after Ctrl-C (a checkpoint is then written).
    """
    parser = build_parser()
    parsed: Namespace = parser.parse_args(arguments)

    def write_config(path: Path) -> None:
        # As a recipe: the folder is each run's own.
        recipe = parsed.clone()
        recipe["out"], recipe["resume"] = None, False
        write_atomically(path, parser.dump(recipe).encode())

    try:
        settings = vars(parser.instantiate(parsed))
        config = MainConfig(**{key: settings[key] for key in MainConfig.__dataclass_fields__})
        run(config, write_config)
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped at once; a run goes on with --out FOLDER --resume true", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0

"""Shared by all command lines: one-line errors, config files, exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from learned_opt.files import expand, write_atomically
from meta_train.jobs.error_text import explain_error
from meta_train.runtime.distributed import started_first
from meta_train.runtime.signals import Interrupted, TrainingStalled

PROGRAM = "python -m meta_train"
CONFIG = "config.yaml"
"""Name of the configuration in a run folder."""

Config = TypeVar("Config", bound=Any)

set_parsing_settings(
    docstring_parse_attribute_docstrings=True,  # the text under each setting
    # A configuration names entries of our registries. It imports no module and makes no object.
    instantiate_subclass_spec_in_any=False,
    import_path_denylist=["*"],
)


class OneLineParser(ArgumentParser):
    """A parser that reports an error in one line, without the usage.

    Args:
        renamed: former names of settings, such as "train.window", and their present names.
    """

    def __init__(
        self, *args: Any, renamed: Mapping[str, str] = MappingProxyType({}), **kwargs: Any
    ) -> None:
        # No abbreviations: a former name may be the start of a present one.
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.renamed = renamed

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse arguments; a file that names a class to import is refused in one line, too."""
        try:
            return super().parse_args(*args, **kwargs)
        except UnicodeDecodeError as error:
            given = args[0] if args and args[0] is not None else sys.argv[1:]
            self.error(f"{_config_of(given, error)} is not a text in UTF-8: {error.reason}")
        except ValueError as error:
            self.error(str(error))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the error to stderr and exit with status 2."""
        text = explain_error(" ".join(str(message).split()), self.get_defaults(), self.renamed)
        if started_first():  # all processes of a run fail alike
            print(f"{self.prog}: error: {text}", file=sys.stderr)
        raise SystemExit(2)


def _config_of(arguments: Sequence[str], error: UnicodeDecodeError) -> str:
    """The configuration file among the arguments whose bytes could not be read."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        path = word if before == "--config" else word.removeprefix("--config=")
        if path is not word or before == "--config":
            with suppress(OSError):
                if error.object in expand(path).read_bytes():
                    return path
    return "the configuration"


def with_flags(arguments: Sequence[str], defaults: Namespace) -> list[str]:
    """The arguments with a value for each yes-or-no setting that has none: `--resume` is true."""
    flags = {f"--{name}" for name in defaults.keys() if isinstance(defaults[name], bool)}
    followed = zip(arguments, [*arguments, "--"][1:], strict=True)
    return [f"{a}=true" if a in flags and b.startswith("--") else a for a, b in followed]


def read_config(
    parser: ArgumentParser, arguments: list[str] | None, kind: type[Config]
) -> tuple[Config, Callable[[Path], None]]:
    """Parse the command line; exit with status 2 on a bad value.

    A run is resumed with the configuration in its folder, changed by the arguments, unless they
    name a configuration.

    Returns:
        The configuration, and a function that writes it to a path as a config file.
    """
    given = with_flags(sys.argv[1:] if arguments is None else arguments, parser.get_defaults())
    parsed: Namespace = parser.parse_args(given)
    if parsed.resume and parsed.out is not None and not parsed.config:
        recorded = expand(parsed.out) / CONFIG
        if recorded.exists():
            parsed = parser.parse_args(["--config", str(recorded), *given])

    def write_config(path: Path) -> None:
        # Without the folder: each repetition of the run has its own.
        recipe = parsed.clone()
        recipe["out"], recipe["resume"] = None, False
        write_atomically(path, parser.dump(recipe).encode())

    try:
        settings = vars(parser.instantiate(parsed))
        return kind(**{field.name: settings[field.name] for field in fields(kind)}), write_config
    except ValueError as error:
        parser.error(str(error))


def exit_status(error: BaseException | None, program: str = PROGRAM) -> tuple[int, str]:
    """The exit status of an error, and a line for stderr."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "\nstopped before there was anything to continue"
    if isinstance(error, Interrupted):
        return 130, f"\n{error}"
    status = 2 if isinstance(error, (ValueError, OSError)) else 1
    status = 3 if isinstance(error, TrainingStalled) else status
    return status, f"{program}: error: {' '.join(str(error).split())}"

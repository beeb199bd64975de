"""Entry point of `python -m meta_train`."""

import io
import os
import signal
import sys
from types import FrameType

EXTRA = {"higher", "jsonargparse", "matplotlib", "PIL", "sklearn", "tensorboard", "tqdm"}
"""Modules that the extra "meta" brings."""


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End on Ctrl-C while modules are imported: some swallow the exception, and go on half made."""
    say_once("\nstopped before anything began\n")
    os._exit(130)


def say_once(text: str) -> None:
    """Write to stderr, if there is one, from the first of several processes."""
    if sys.stderr is not None and os.environ.get("RANK", "0") == "0":
        sys.stderr.write(text)
        sys.stderr.flush()


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a log in another encoding than UTF-8 gets a "?"
            stream.reconfigure(errors="replace")
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, end_at_once)
    if sys.stderr is not None and sys.stderr.isatty():
        say_once("starting: the imports take a few seconds\n")
    try:
        from meta_train.jobs.cli import main

        signal.signal(signal.SIGINT, usual)
        sys.exit(main())
    except KeyboardInterrupt:
        say_once("\nstopped before anything began\n")
        sys.exit(130)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in EXTRA:
            raise
        sys.exit(
            f"python -m meta_train needs {missing.name}, which is not installed: "
            "python -m pip install 'learned-opt[meta]'"
        )

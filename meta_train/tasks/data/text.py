"""Plain text as windows of symbols.

The default text is the language reference that comes with Python for `pydoc`: about 460,000
characters, which differ between versions of Python.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from learned_opt.files import expand
from learned_opt.registry import look_up

SYMBOLS = "\n" + "".join(chr(code) for code in range(32, 127))
"""Printable ASCII. One more symbol stands for every other character."""

VOCABULARY = len(SYMBOLS) + 1

SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
"""First and last character of each split, as fractions of the text."""


@functools.cache
def read_windows(path: str | None, split: str, length: int) -> Tensor:
    """Cut a split of a text into windows of symbols, `[M, length + 1]`.

    The last symbol of a window is the first one of the next, so that every symbol is predicted
    once.

    Args:
        path: a text file in UTF-8; None for Python's own documentation.
        split: "train", "validation" or "test".
        length: symbols to predict in a window.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown split, or a file that is not UTF-8, is empty or is too short.
    """
    first, last = look_up("split", split, SHARES)
    text = _encoded(path)
    part = text[round(first * len(text)) : round(last * len(text))]
    if len(part) < 2 * length + 1:
        raise ValueError(
            f"{path or 'the default text'} is too short: its {split} part, {last - first:.0%} of "
            f"{len(text)} characters, must hold two windows of {length}"
        )
    return part.unfold(0, length + 1, length)


@functools.cache
def _encoded(path: str | None) -> Tensor:
    codes = {symbol: code for code, symbol in enumerate(SYMBOLS)}
    other = len(SYMBOLS)
    return torch.tensor([codes.get(symbol, other) for symbol in _read(path)])


def _read(path: str | None) -> str:
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[key] for key in sorted(topics))
    file = expand(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no text file {path}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: byte {error.start} is wrong") from None
    if not text:
        raise ValueError(f"{path} is empty")
    return text

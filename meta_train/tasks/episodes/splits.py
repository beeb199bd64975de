"""Splits of Omniglot's characters into training, validation and test.

`omniglot_splits.json` lists the alphabets of each split. The split by character (the protocol of
most papers: 1200 random characters, the rest for testing) has 1623 entries, so the file holds only
its seed and sizes. Names are ordered by the SHA-256 of "seed/name", which does not change between
versions of a random number generator.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from learned_opt.registry import look_up

SPLITS = ("train", "validation", "test")
SPLIT_BY = ("alphabet", "character")


@functools.cache
def stored_splits() -> dict[str, Any]:
    """The content of `omniglot_splits.json`."""
    text = resources.files("meta_train.tasks.episodes").joinpath("omniglot_splits.json").read_text()
    return dict(json.loads(text))


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Names in a pseudo-random order that depends only on the names and the seed."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())


def split_characters(
    alphabets: Sequence[str], characters: Sequence[str], split: str, split_by: str
) -> list[int]:
    """Indices of the characters of a split.

    By alphabet: 20 background alphabets for training, 4 for validation and 6 for testing. If the
    20 evaluation alphabets are given too, they are the test set and the 6 join the training set, as
    in Lake et al. 2015.

    By character: 1100 of 1623 characters for training, 100 for validation and 423 for testing (Finn
    et al. 2017, arXiv 1703.03400), or the same fractions of fewer characters.

    Args:
        alphabets: the alphabet of each character.
        characters: the name of each character in its alphabet.
        split: "train", "validation" or "test".
        split_by: "alphabet" or "character".

    Raises:
        ValueError: an unknown split, a split without characters, or, by alphabet, a missing
            background alphabet.
    """
    look_up("split", split, dict.fromkeys(SPLITS))
    look_up("way to split", split_by, dict.fromkeys(SPLIT_BY))
    if split_by == "alphabet":
        wanted = _alphabets_of(set(alphabets), split)
        chosen = [index for index, alphabet in enumerate(alphabets) if alphabet in wanted]
    else:
        chosen = _by_character(alphabets, characters, split)
    if not chosen:
        raise ValueError(f"no character is in split {split!r} by {split_by}")
    return chosen


def _alphabets_of(present: set[str], split: str) -> set[str]:
    written = stored_splits()["background"]
    background = {name for names in written.values() for name in names}
    others = present - background
    if missing := sorted(background - present):
        more = f"; instead there is {', '.join(sorted(others)[:3])}" if others else ""
        raise ValueError(
            f"the split by alphabet needs all {len(background)} background alphabets, but "
            f"{', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''} is missing{more}"
        )
    if not others:
        return set(written[split])
    if split == "test":
        return others
    return set(written[split]) | set(written["test"] if split == "train" else ())


def _by_character(alphabets: Sequence[str], characters: Sequence[str], split: str) -> list[int]:
    names = [f"{a}/{c}" for a, c in zip(alphabets, characters, strict=True)]
    place = {name: index for index, name in enumerate(names)}
    order = [place[name] for name in shuffled(names, stored_splits()["seed"])]
    shares = stored_splits()["characters"]
    total = sum(shares.values())
    first, last = _bounds(shares, split)
    return sorted(order[first * len(order) // total : last * len(order) // total])


def _bounds(shares: dict[str, int], split: str) -> tuple[int, int]:
    before = sum(shares[name] for name in SPLITS[: SPLITS.index(split)])
    return before, before + shares[split]

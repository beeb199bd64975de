"""Random numbers that depend on their purpose alone, not on earlier draws.

Every draw of meta-training has its own generator, seeded from a path such as
(run seed, "problem", run, episode). No generator is saved: a resumed run draws the same numbers as
an unbroken one, and a task draws the same numbers in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*path: int | str) -> int:
    """A 63-bit seed of `path`. Equal paths give equal seeds, other paths unrelated seeds.

    Whole numbers of any type are equal to Python's: 1, `numpy.int64(1)`, `torch.tensor(1)`.

    Raises:
        ValueError: a number that is not whole.
    """
    text = "/".join(repr(_plain(part)) for part in path)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _plain(part: int | str) -> int | str:
    if isinstance(part, str):
        return str(part)  # a NumPy string has another repr
    whole = int(part)
    if whole != part:
        raise ValueError(f"a seed must be a whole number, got {part!r}")
    return whole


def generator(*path: int | str) -> torch.Generator:
    """A CPU generator that is seeded from `path`."""
    return torch.Generator().manual_seed(derive_seed(*path))


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators, of the CPU and of `device`, at the end."""
    accelerator = device.type != "cpu"
    kind = device.type if accelerator else "cuda"
    with torch.random.fork_rng([device] if accelerator else [], device_type=kind):
        yield


@contextmanager
def seeded(device: torch.device, *path: int | str) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device`, and restore them at the end.

    For code that uses them, such as dropout in a task's module.
    """
    with own_randomness(device):
        seed_globally(device, derive_seed(*path))
        yield


@contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator with a number, and restore it at the end.

    For code that builds a module on the CPU: no generator of an accelerator is touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def seed_globally(device: torch.device, seed: int) -> None:
    """Seed torch's global generators of the CPU and of `device`.

    `torch.manual_seed` takes a hundred times as long: for each kind of device that is not there, it
    records where it was called.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)

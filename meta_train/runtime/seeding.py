"""Random numbers that depend on what they are for, not on what was drawn before.

Every draw of meta-training has a generator of its own, seeded from a path such as
(run seed, "problem", run, episode). So nothing about generators needs saving, a resumed run draws
what the unbroken one would have drawn, and a task draws the same whichever process runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*path: int | str) -> int:
    """A 63-bit seed for `path`; equal paths give equal seeds, others unrelated ones."""
    text = "/".join(repr(part) for part in path)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*path: int | str) -> torch.Generator:
    """A CPU generator seeded for `path`."""
    return torch.Generator().manual_seed(derive_seed(*path))


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Put torch's global generators, of the CPU and of `device`, back as they were at the end."""
    accelerator = device.type != "cpu"
    kind = device.type if accelerator else "cuda"
    with torch.random.fork_rng([device] if accelerator else [], device_type=kind):
        yield


@contextmanager
def seeded(device: torch.device, *path: int | str) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` for a while, then put them back.

    For what draws from them without asking, as dropout in a task's module does.
    """
    with own_randomness(device):
        torch.default_generator.manual_seed(derive_seed(*path))
        if device.type != "cpu":
            getattr(torch, device.type).manual_seed(derive_seed(*path))
        yield

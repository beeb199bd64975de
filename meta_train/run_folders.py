"""New run folders, each of one job, however many begin at once."""

from __future__ import annotations

import itertools
import time
from pathlib import Path


def claim_folder(name: str) -> Path:
    """Make a new folder under runs/, called after the time and `name`."""
    base = Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
    base.parent.mkdir(exist_ok=True)
    for count in itertools.count(1):
        folder = base if count == 1 else base.with_name(f"{base.name}_{count}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("counting never ends")

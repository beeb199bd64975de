"""New run folders, each of one job, however many begin at once."""

from __future__ import annotations

import time
from pathlib import Path


def claim_folder(name: str) -> Path:
    """Make a new folder under runs/, called after the time and `name`."""
    base = Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
    base.parent.mkdir(exist_ok=True)
    folder, count = base, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
            folder = base.with_name(f"{base.name}_{count}")
        else:
            return folder

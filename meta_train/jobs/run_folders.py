"""New run folders; jobs that start at the same time get different ones."""

from __future__ import annotations

import time
from pathlib import Path


def claim_folder(name: str) -> Path:
    """Create a folder under runs/ whose name is the time and `name`."""
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

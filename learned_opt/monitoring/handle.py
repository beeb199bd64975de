"""Detaches a monitor from an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MonitorHandle:
    """Detaches a monitor from an optimizer: by `remove()`, or at the end of a `with` block."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._handles = handles
        self.attached = True

    def remove(self) -> None:
        """Remove the hooks; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self.attached = False

    def __enter__(self) -> MonitorHandle:
        """Stay attached inside the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach."""
        self.remove()

"""The memory of a block: named rows of numbers, one number for each coordinate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from torch import Tensor


class Rows:
    """Views of one memory, in which names stand for rows that follow each other.

    Args:
        memory: at least as many elements as all rows have, `[elements]`.
        layout: the number of rows of each name, in the order that they lie in memory.
        count: coordinates of the block.
    """

    def __init__(self, memory: Tensor, layout: Mapping[str, int], count: int) -> None:
        sizes = list(layout.values())
        total = sum(sizes)
        self.count = count
        self._all = memory[: total * count].view(total, count)
        self._end = dict(zip(layout, accumulate(sizes), strict=True))
        self._start = {name: self._end[name] - layout[name] for name in layout}
        # To make a view takes as long as to compute with a row, and most blocks have one size.
        self._views: dict[tuple[int, int], Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """The rows of a name, `[rows, count]`."""
        return self._view(self._start[name], self._end[name])

    def part(self, name: str, first: int, count: int = 1) -> Tensor:
        """`count` rows of a name, from row `first` of it on."""
        start = self._start[name] + first
        return self._view(start, start + count)

    def between(self, first: str, last: str) -> Tensor:
        """The rows from the first name to the last, both included."""
        return self._view(self._start[first], self._end[last])

    def around(self, names: Iterable[str]) -> Tensor:
        """The shortest stretch of rows that holds all the names."""
        names = list(names)
        first = min(self._start[name] for name in names)
        return self._view(first, max(self._end[name] for name in names))

    def _view(self, start: int, end: int) -> Tensor:
        view = self._views.get((start, end))
        if view is None:
            view = self._views[start, end] = self._all[start:end]
        return view

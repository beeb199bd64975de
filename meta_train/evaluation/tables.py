"""Markdown tables that also read well in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], align: str = "") -> str:
    """Write a Markdown table, its columns padded to equal width.

    Examples:
        >>> print(markdown_table(["rule", "loss"], [["sgd", 0.5], ["adam", 0.25]], align="<>"))
        | rule | loss |
        | ---- | ---: |
        | sgd  |  0.5 |
        | adam | 0.25 |

    Args:
        header: one title per column.
        rows: one cell per column; cells are written with `str`.
        align: "<" or ">" per column; by default the first column is left-aligned, the others right.

    Raises:
        ValueError: a row or `align` has another number of columns than the header.
    """
    align = align or "<" + ">" * (len(header) - 1)
    table = [[str(cell) for cell in cells] for cells in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*table, strict=True)]
    columns = list(zip(align, widths, strict=True))
    rule = ["-" * (width - 1) + ("-" if side == "<" else ":") for side, width in columns]
    lines = [
        [f"{cell:{side}{width}}" for cell, (side, width) in zip(cells, columns, strict=True)]
        for cells in table
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))

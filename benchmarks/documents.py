"""Tables between markers in Markdown files: find them, write them.

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. A program writes it;
people write all the rest.
"""

import re

PATTERN = r"<!-- table: (?P<name>{}) -->\n(?P<table>.*?)<!-- end -->"


def find_tables(text):
    """All tables between markers, by name; without their last newline."""
    found = re.finditer(PATTERN.format(r"[^>]+?"), text, re.S)
    return {match["name"]: match["table"].rstrip("\n") for match in found}


def replace_between(text, name, table):
    """The text with this table between the markers of this name.

    Raises:
        ValueError: the text does not have these markers exactly once.
    """
    block = f"<!-- table: {name} -->\n{table}\n<!-- end -->"
    text, count = re.subn(PATTERN.format(re.escape(name)), lambda _: block, text, flags=re.S)
    if count != 1:
        raise ValueError(f"expected the table {name!r} once, found it {count} times")
    return text


def mean_and_spread(mean, spread, digits=".3g"):
    """A mean and its spread, as in "2.08 ± 0.05"."""
    return f"{mean:{digits}} ± {spread:.1g}"


def smallest_in_bold(cells):
    """The cells, the smallest in bold; none where the smallest shows twice.

    Args:
        cells: as in "2.08 ± 0.05", or a bound, as in "< 2e-07".
    """
    values = [float(cell.split(" ±")[0].removeprefix("< ")) for cell in cells]
    best = min(values)
    if values.count(best) > 1:
        return cells
    return [
        f"**{cell}**" if value == best else cell for value, cell in zip(values, cells, strict=True)
    ]

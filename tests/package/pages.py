"""Reads Markdown files: snippets, links, commands, cells of tables."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)
"""README, CONTRIBUTING, CHANGELOG and all pages of the site."""


def read(page):
    return (ROOT / page).read_text()


def snippets(text, title=None):
    """Blocks of Python: those without a title, or `{title: block}` with `title=True`."""
    found = re.findall(r"^```python(?: title=\"(.+?)\")?\n(.*?)^```", text, re.S | re.M)
    if title:
        return {name: block for name, block in found if name}
    return [block for name, block in found if not name]


def prose(text):
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def links(text):
    """Targets of links and images that are no addresses."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in link]


def paths(text):
    """Files and folders of the repository that the text names in backticks."""
    tops = "learned_opt|meta_train|tests|examples|benchmarks|docs"
    return re.findall(rf"`((?:{tops})/[\w./-]*)`", text)


def anchors(text):
    """Anchors of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in headings}


def commands(text):
    """Command lines, split into words: those of shell blocks, and those in backticks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    inline = re.findall(r"`((?:python|torchrun|mkdocs|bash) [^`]+)`", prose(text))
    parts = [part for line in [*lines, *inline] for part in line.split(" && ")]
    return [shlex.split(part, comments=True) for part in parts]


def cells(row):
    """The cells of a row of a table, without bold."""
    return [cell.strip(" *") for cell in row.split("|")[1:-1]]


def rows(table):
    """All rows of a table but its heading."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [cells(line) for line in lines if not line.startswith("| ---")][1:]

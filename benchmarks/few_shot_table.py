"""The few-shot table as a document, out of measured cells alone."""

from meta_train.few_shot.rows import ROWS

COLUMNS = (
    "row",
    "accuracy",
    "published",
    "minutes",
    "outer steps",
    "inner steps",
    "adapted parameters",
    "transductive",
)
HEADER = """# Few-shot classification on Omniglot, measured

Written by `python benchmarks/few_shot.py` from `docs/measured/few_shot.json`; the head of that
program says how each cell is made. Every cell is one `python -m meta_train few-shot`.

- **Data.** By the short protocol the 30 background alphabets, split once into 20 for training, 4
  for validation (not used here: the weights are the last ones) and 6 that are only tested on
  (`meta_train/few_shot/omniglot_splits.json`). Rotations by 90, 180 and 270 degrees are classes of
  their own. Whole alphabets are held out, which is harder than the papers' split by characters, and
  there are 20 alphabets to learn from in place of 50.
- **Network.** Four convolutions of 64 filters and stride 2, batch statistics. Transductive rows
  normalise query images with one another, as MAML's and Reptile's published figures do.
- **Accuracy** is the mean over test episodes with its 95% interval, in percent; one seed. Minutes
  are of training; after a plus those of the MAML that a row begins with.
- **Published** figures are the papers', after 30,000 outer steps and more, with the ± that they
  give: a 95% interval over test tasks where it is said what it is.
"""
WHY = """## Why rows stay below their papers

{short} of the {count} cells were trained by the short protocol: {minutes} minutes on one core of a
CPU, {steps} outer steps of {episodes} episodes, where the papers take 30,000 to 100,000 on a GPU.
Rows of many inner steps or of a large learned rule get the fewest outer steps, and lose most. The
longest of them, {row} at {setting} for {longest} minutes, has {best}. Cells without a figure were
not run.
"""


def document(cells):
    """The whole document, in Markdown."""
    parts = [HEADER]
    for ways, shots in sorted({(cell["ways"], cell["shots"]) for cell in cells}):
        parts.append(table([c for c in cells if (c["ways"], c["shots"]) == (ways, shots)]))
    return "\n".join([*parts, reasons(cells)])


def table(cells):
    """One setting."""
    ways, shots = cells[0]["ways"], cells[0]["shots"]
    episodes = sorted({cell["episodes"] for cell in cells})
    lines = [
        f"## {ways}-way {shots}-shot",
        "",
        f"{' or '.join(map(str, episodes))} test episodes a row.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    found = {cell["row"]: cell for cell in cells}
    for name in ROWS:
        cell = found.get(name)
        if cell is None:
            lines.append(f"| {name} | - | {published(name, ways, shots)} | | | | | |")
            continue
        lines.append(
            f"| {name} | {percent(cell['accuracy'], cell['interval'])} "
            f"| {published(name, ways, shots)} | {minutes(cell)} | {cell['outer_steps']} "
            f"| {cell['inner_steps']} | {cell['adapted_parameters']:,} "
            f"| {'yes' if cell['transductive'] else 'no'} |"
        )
    return "\n".join([*lines, ""])


def reasons(cells):
    """Why figures are missed."""
    short = [cell for cell in cells if cell["protocol"] == "short"]
    if not short:
        return ""
    longest = max(short, key=lambda cell: cell["minutes"])
    return WHY.format(
        short=len(short),
        count=len(cells),
        minutes=span(short, "minutes", ".1f"),
        steps=span(short, "outer_steps", "d"),
        episodes=span(short, "meta_batch", "d"),
        row=longest["row"],
        setting=f"{longest['ways']}-way {longest['shots']}-shot",
        longest=f"{longest['minutes']:.0f}",
        best=percent(longest["accuracy"], longest["interval"]),
    )


def span(cells, key, form):
    """The smallest and the largest of a fact."""
    values = [cell[key] for cell in cells]
    return f"{min(values):{form}} to {max(values):{form}}"


def published(name, ways, shots):
    """The paper's figure, or nothing."""
    value, interval = ROWS[name].published.get((ways, shots), (None, None))
    if value is None:
        return ""
    what = f" ({ROWS[name].published_as})" if ROWS[name].published_as else ""
    return f"{value}{what}" if interval is None else f"{value} ± {interval}{what}"


def percent(accuracy, interval):
    """A measured accuracy."""
    return f"{100 * accuracy:.1f} ± {100 * interval:.1f}"


def minutes(cell):
    """Of training, and of what it begins with."""
    text = f"{cell['minutes']:.1f}"
    return text if cell["begins_with"] is None else f"{text} + {cell['begins_with']['minutes']:.1f}"

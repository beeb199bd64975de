"""The few-shot table as a document, out of measured cells alone."""

import statistics
import textwrap

from few_shot_notes import NOTES

from meta_train.few_shot.methods.registry import ROWS

COLUMNS = (
    "row",
    "accuracy",
    "published",
    "below",
    "minutes",
    "outer steps",
    "inner steps",
    "adapted parameters",
    "transductive",
)
HEADER = """# Few-shot classification on Omniglot, measured

Written by `python benchmarks/few_shot/few_shot.py` from `docs/measured/few_shot.json`; the head of
that
program says how each cell is made. Every cell is one `python -m meta_train few-shot`. What each row
is, and how it differs from its paper, stands [below the tables](#rows).

- **Data.** By the short protocol the 30 background alphabets, split once into 20 for training, 4
  for validation (not used here: what is tested is the moving average of the weights at the end) and
  6 that are only tested on (`meta_train/tasks/episodes/omniglot_splits.json`). Rotations by 90,
  180 and 270 degrees are classes of their own. Whole alphabets are held out, which is harder than
  the papers' split by characters, and there are 20 alphabets to learn from in place of 50.
- **Network.** Four convolutions of 64 filters and stride 2 and the mean over positions, as in
  MAML's code; batch statistics. Transductive rows normalise query images with one another, as
  MAML's and Reptile's published figures do: test episodes have 5 query images of each class.
- **Outer training.** Adam with betas 0.9 and 0.99, a warm-up of 20 steps, a cosine down to 5% of
  the rate and gradients clipped at 1 (meta-lstm at its paper's 0.25; Reptile: SGD, linear, not
  clipped); what is tested is the moving average of the weights with decay 0.98. The papers' rates
  are mostly constant, half of ours, and they test the last weights. Rows that begin with MAML have
  a fifth of its outer rate, which was chosen when a larger one had undone what MAML had learned
  (seen in the accuracy of learned-gated-lstm at 5-way 1-shot). Rows that learn an LSTM, and
  maml-further, are trained in first order, gradients being taken as constants, and through as many
  inner steps as they are tested with; maml in second order, at 5 ways through one step.
- **Accuracy** is the mean over test episodes with its 95% interval, in percent; one seed. Cells of
  a setting are alike in minutes, but for those that are named above its table, and not in outer
  steps (maml-further alone takes as many as learned-gated-lstm); most are far from converged: they
  say how a row learns in that time, not which method is better. Minutes are of training; after a
  plus those of the MAML that a row begins with. Inner steps are those of testing.
- **Published** figures are the papers', with the ± that they give: a 95% interval over test tasks
  where it is said what it is. "Below" is what is missing, in points.
"""
TITLE = "## Why rows stay below their papers"
WHY = """
{short} of the {count} cells were trained by the short protocol: {minutes} minutes on one core of a
CPU, {steps} outer steps of {episodes} episodes, where the papers take tens of thousands to a
million (MAML's 60,000 of 32). Of the {figures} cells with a published figure, {below} are below it,
mostly, we think, for want of training: {row} at {setting}, which of them trained longest, for
{longest} minutes, has {best}{missing}; the farthest are {farthest}. And beside the papers
there are fewer alphabets to learn from, and whole alphabets to be tested on. Besides, rows differ
from their papers as is said below.
"""
LEARNED = """
Learned rules begin with the setting's MAML; maml-further is the control, trained further with the
fixed step. At {places}: maml has {maml}, maml-further {further}, learned-gated-lstm {gated},
learned-step-size-lstm {sized}. Of all learned rules, above the control by more than both intervals:
{added}. Rules with larger networks are mostly below what they began with: a minute or two are not
enough for them to find back.
"""


def document(cells):
    """The whole document, in Markdown."""
    parts = [HEADER]
    for ways, shots in sorted({(cell["ways"], cell["shots"]) for cell in cells}):
        parts.append(table([c for c in cells if (c["ways"], c["shots"]) == (ways, shots)]))
    return "\n".join([*parts, reasons(cells), learned_rules(cells), rows()])


def table(cells):
    """One setting."""
    ways, shots = cells[0]["ways"], cells[0]["shots"]
    episodes = sorted({cell["episodes"] for cell in cells})
    lines = [
        f"## {setting(cells[0])}",
        "",
        f"{' or '.join(map(str, episodes))} test episodes a row.{longer(cells)}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    found = {cell["row"]: cell for cell in cells}
    for name in ROWS:
        cell = found.get(name)
        if cell is None:
            lines.append(f"| {name} | - | {published(name, ways, shots)} |" + " |" * 6)
            continue
        lines.append(
            f"| {name} | {percent(cell['accuracy'], cell['interval'])} "
            f"| {published(name, ways, shots)} | {below(cell)} | {minutes(cell)} "
            f"| {cell['outer_steps']} | {cell['inner_steps']} | {cell['adapted_parameters']:,} "
            f"| {'yes' if cell['transductive'] else 'no'} |"
        )
    return "\n".join([*lines, ""])


def longer(cells):
    """Which rows trained far longer than most."""
    usual = statistics.median(cell["minutes"] for cell in cells)
    names = [cell["row"] for cell in cells if cell["minutes"] > 2.5 * usual]
    return f" Trained longer than the others: {', '.join(names)}." if names else ""


def reasons(cells):
    """Why figures are missed."""
    short = [cell for cell in cells if cell["protocol"] == "short"]
    if not short:
        return ""
    judged = [cell for cell in short if gap(cell) is not None]
    longest = max(judged or short, key=lambda cell: cell["minutes"])
    missed = sorted((cell for cell in short if (gap(cell) or 0) > 0), key=gap)
    text = WHY.format(
        short=len(short),
        count=len(cells),
        minutes=span(short, "minutes", ".1f"),
        steps=span(short, "outer_steps", "d"),
        episodes=span(short, "meta_batch", "d"),
        figures=len(judged),
        below=len(missed),
        row=longest["row"],
        setting=setting(longest),
        longest=f"{longest['minutes']:.0f}",
        best=percent(longest["accuracy"], longest["interval"]),
        missing=f", {below(longest)} points below" if below(longest) else "",
        farthest=", ".join(
            f"{one['row']} at {setting(one)} ({below(one)} after {one['outer_steps']} outer steps)"
            for one in missed[:-4:-1]
        ),
    )
    return "\n\n".join((TITLE, textwrap.fill(text.strip(), 100))) + "\n"


def learned_rules(cells):
    """What they add to MAML, where both and the control were measured."""
    names = ("maml", "maml-further", "learned-gated-lstm", "learned-step-size-lstm")
    found = {(cell["row"], setting(cell)): cell for cell in cells}
    where = [s for s in dict.fromkeys(map(setting, cells)) if all((n, s) in found for n in names)]
    if not where:
        return ""
    maml, further, gated, sized = (
        ", ".join(percent(one["accuracy"], one["interval"]) for one in (found[n, s] for s in where))
        for n in names
    )
    added = [
        f"{name} at {s}"
        for name in ROWS
        for s in where
        if name.startswith("learned-") and (name, s) in found
        if above(found[name, s], found["maml-further", s])
    ]
    text = LEARNED.format(
        places=", ".join(where),
        maml=maml,
        further=further,
        gated=gated,
        sized=sized,
        added=f"{', '.join(added)}, where the control is far from converged" if added else "none",
    )
    return "\n\n".join(("## Learned rules beside MAML", textwrap.fill(text.strip(), 100))) + "\n"


def above(one, other):
    """Whether a cell is above another by more than both intervals."""
    gain = one["accuracy"] - other["accuracy"]
    return gain > one["interval"] + other["interval"]


def rows():
    """What each row is, and how it differs from its paper."""
    lines = ["## Rows", ""]
    for name, row in ROWS.items():
        note = f"{row.source}. {NOTES.get(name, '')}".strip()
        lines.append(
            textwrap.fill(
                f"- **{name}**: {note}", 100, subsequent_indent="  ", break_on_hyphens=False
            )
        )
    return "\n".join([*lines, ""])


def setting(cell):
    """In words."""
    return f"{cell['ways']}-way {cell['shots']}-shot"


def gap(cell):
    """Points that are missing to the published figure; None where there is none."""
    value, _ = ROWS[cell["row"]].published.get((cell["ways"], cell["shots"]), (None, None))
    return None if value is None else value - 100 * cell["accuracy"]


def below(cell):
    """The same as text; nothing where nothing is missing."""
    points = gap(cell)
    return f"{points:.1f}" if points is not None and points > 0 else ""


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

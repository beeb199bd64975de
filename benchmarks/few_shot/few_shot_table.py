"""The tables of docs/few_shot.md, from measured cells and the registry of methods."""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.methods.registry import METHODS

COLUMNS = (
    "method",
    "accuracy, %",
    "published, %",
    "below, points",
    "minutes",
    "outer steps",
    "inner steps",
    "adapted parameters",
    "transductive",
)
CONTROL = "maml-further"
LEARNED = ("maml", CONTROL, *(name for name in METHODS if name.startswith("learned-")))
LONG = 2.5
"""Multiple of the median minutes of a setting above which a cell is marked as trained longer."""


def tables(cells):
    """All tables by the names of their markers.

    Args:
        cells: measured cells, as in docs/measured/few_shot.json.
    """
    settings = sorted({(cell["ways"], cell["shots"]) for cell in cells})
    found = {
        f"{ways}-way-{shots}-shot": setting_table(
            [cell for cell in cells if (cell["ways"], cell["shots"]) == (ways, shots)]
        )
        for ways, shots in settings
    }
    return {
        "methods": methods_table(),
        **found,
        "training": training_table(cells),
        "farthest": farthest_table(cells),
        "learned-rules": learned_rules_table(cells),
    }


def methods_table():
    """Initialisation x rule x adapted parameters x estimator of each method on Omniglot."""
    rows = []
    for name, method in METHODS.items():
        own = method.omniglot
        start = own.initialization if own.begins_with is None else f"from {own.begins_with}"
        if own.uses is not None:
            start = f"of {own.uses}"
        read = [
            f"{kind}: {one}" for kind, one in (("head", own.head), ("reader", own.reader)) if one
        ]
        rows.append(
            (
                name,
                method.source,
                start,
                "-" if read else own.rule,
                read[0] if read else own.adapted,
                {"episodes": own.estimator, "classes": "supervised"}.get(own.trained_on, "-"),
            )
        )
    heads = ("method", "source", "initialisation", "rule", "adapted", "estimator")
    return markdown_table(heads, rows)


def setting_table(cells):
    """All methods at one number of ways and shots."""
    usual = statistics.median(cell["minutes"] for cell in cells)
    found = {cell["row"]: cell for cell in cells}
    ways, shots = cells[0]["ways"], cells[0]["shots"]
    rows = []
    for name in METHODS:
        figure = published(name, ways, shots)
        cell = found.get(name)
        if cell is None:
            rows.append((name, "-", figure, *[""] * (len(COLUMNS) - 3)))
            continue
        mark = " (longer)" if cell["minutes"] > LONG * usual else ""
        rows.append(
            (
                name,
                percent(cell),
                figure,
                below(cell),
                minutes(cell) + mark,
                f"{cell['outer_steps']:,}",
                cell["inner_steps"],
                f"{cell['adapted_parameters']:,}",
                "yes" if cell["transductive"] else "no",
            )
        )
    return markdown_table(COLUMNS, rows)


def training_table(cells):
    """How long cells were trained, by protocol."""
    rows = []
    for protocol in sorted({cell["protocol"] for cell in cells}):
        own = [cell for cell in cells if cell["protocol"] == protocol]
        figures = [cell for cell in own if gap(cell) is not None]
        missed = [cell for cell in figures if gap(cell) > 0]
        rows.append(
            (
                protocol,
                len(own),
                span(own, "minutes", ".1f"),
                span(own, "outer_steps", ",d"),
                span(own, "meta_batch", "d"),
                f"{len(missed)} of {len(figures)}",
            )
        )
    heads = ("protocol", "cells", "minutes", "outer steps", "episodes per outer step")
    return markdown_table((*heads, "below the published figure"), rows)


def farthest_table(cells):
    """The cell with a published figure that trained longest, and the three farthest below."""
    figures = [cell for cell in cells if gap(cell) is not None]
    longest = max(figures, key=lambda cell: cell["minutes"])
    farthest = sorted(figures, key=gap)[:-4:-1]
    rows = [
        (what, cell["row"], setting(cell), percent(cell), below(cell), *trained(cell))
        for what, cell in (("trained longest", longest), *(("farthest", one) for one in farthest))
    ]
    heads = ("cell", "method", "setting", "accuracy, %", "below, points", "minutes", "outer steps")
    return markdown_table(heads, rows)


def learned_rules_table(cells):
    """Learned rules next to MAML; bold where above the control by more than both intervals."""
    found = {(cell["row"], setting(cell)): cell for cell in cells}
    where = [
        at for at in dict.fromkeys(map(setting, cells)) if all((n, at) in found for n in LEARNED)
    ]
    rows = []
    for name in LEARNED:
        shown = [name]
        for at in where:
            cell = found[name, at]
            text = percent(cell)
            learned = name.startswith("learned-")
            shown.append(f"**{text}**" if learned and above(cell, found[CONTROL, at]) else text)
        rows.append(shown)
    return markdown_table(("accuracy, %", *where), rows)


def above(one, other):
    """Whether a cell is above another by more than both intervals."""
    return one["accuracy"] - other["accuracy"] > one["interval"] + other["interval"]


def setting(cell):
    """Ways and shots in words."""
    return f"{cell['ways']}-way {cell['shots']}-shot"


def gap(cell):
    """Points below the published figure; None without a figure."""
    value, _ = METHODS[cell["row"]].published.get((cell["ways"], cell["shots"]), (None, None))
    return None if value is None else value - 100 * cell["accuracy"]


def below(cell):
    """Points below the published figure as text; empty where none are missing."""
    points = gap(cell)
    return f"{points:.1f}" if points is not None and points > 0 else ""


def span(cells, key, form):
    """The smallest and the largest of a fact."""
    values = [cell[key] for cell in cells]
    return f"{min(values):{form}} to {max(values):{form}}"


def trained(cell):
    """Minutes and outer steps of training."""
    return minutes(cell), f"{cell['outer_steps']:,}"


def published(name, ways, shots):
    """The paper's figure as text; empty where it has none."""
    method = METHODS[name]
    value, interval = method.published.get((ways, shots), (None, None))
    if value is None:
        return ""
    of = f" ({method.published_as})" if method.published_as else ""
    return f"{value}{of}" if interval is None else f"{value} ± {interval}{of}"


def percent(cell):
    """A measured accuracy and half its interval."""
    return f"{100 * cell['accuracy']:.1f} ± {100 * cell['interval']:.1f}"


def minutes(cell):
    """Minutes of training, and of the method that it begins with."""
    text = f"{cell['minutes']:.1f}"
    return text if cell["begins_with"] is None else f"{text} + {cell['begins_with']['minutes']:.1f}"

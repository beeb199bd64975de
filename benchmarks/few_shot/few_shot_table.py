"""The tables of docs/few_shot.md, from measured cells and the registry of methods."""

from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.methods.registry import METHODS

LEAST_MINUTES = 20
"""Cells that trained for less say nothing about a method, and are left out."""


def tables(cells):
    """All tables by the names of their markers.

    Args:
        cells: measured cells, as in docs/measured/few_shot.json.
    """
    return {
        "methods": methods_table(),
        "trained": trained_table(cells),
        "validation": validation_table(cells),
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


def trained_table(cells):
    """Accuracy of trained methods beside their papers' figures."""
    rows = [
        (
            cell["row"],
            setting(cell),
            percent(cell),
            published(cell["row"], cell["ways"], cell["shots"]),
            below(cell),
            rose(cell),
            minutes(cell),
            f"{cell['outer_steps']:,}",
            cell["meta_batch"],
            cell["inner_steps"],
            cell["test_queries"],
            "yes" if cell["transductive"] else "no",
        )
        for cell in cells
    ]
    heads = ("method", "setting", "accuracy, %", "published, %", "below, points", "rose, points")
    counts = (
        "minutes",
        "outer steps",
        "episodes a step",
        "inner steps",
        "test queries",
        "transductive",
    )
    return markdown_table((*heads, *counts), rows)


def validation_table(cells):
    """Accuracy on validation episodes at ten places of training, for cells that have it."""
    rows = []
    for cell in cells:
        curve = cell["validation"]
        if curve:
            places = [curve[round(k * (len(curve) - 1) / 9)] for k in range(10)]
            shown = [f"{100 * accuracy:.1f} ({step:,})" for step, accuracy in places]
            rows.append((cell["row"], setting(cell), *shown))
    heads = [f"{k}" for k in range(1, 11)]
    return markdown_table(("method", "setting", *heads), rows)


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


def rose(cell):
    """Points by which the best validation rose in the last third of training, as text."""
    curve = cell["validation"]
    if not curve:
        return ""
    last = curve[-1][0]
    before = max(accuracy for step, accuracy in curve if 3 * step <= 2 * last)
    after = max(accuracy for step, accuracy in curve if 3 * step > 2 * last)
    return f"{100 * (after - before):.1f}"


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

"""The tables of docs/few_shot.md, from measured cells and the registry of methods."""

from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.methods.registry import METHODS

LARGEST_RISE = 1.0
"""Points by which validation may still rise in the last third of training.

About the 95% interval of 200 validation episodes, which is .5 to 1.1 points. Cells that rose by
more stopped too early to say anything about a method, and are left out.
"""
LONG_MINUTES = 360
"""Minutes of training after which a cell is shown even if it still rises."""
PLACE = ("method", "setting", "seed")


def tables(cells):
    """All tables by the names of their markers.

    Args:
        cells: measured cells, as in docs/measured/few_shot.json.
    """
    return {
        "methods": methods_table(),
        "trained": trained_table(cells),
        "training": training_table(cells),
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
            *place(cell),
            percent(cell),
            published(cell["row"], cell["ways"], cell["shots"]),
            below(cell),
            equal_error(cell),
            rose(cell),
        )
        for cell in cells
    ]
    heads = ("accuracy, %", "published, %", "below, points", "equal error, %", "rose, points")
    return markdown_table((*PLACE, *heads), rows)


def training_table(cells):
    """How the methods were trained and tested."""
    rows = [
        (
            *place(cell),
            minutes(cell),
            f"{cell['outer_steps']:,}",
            cell["meta_batch"],
            cell["inner_steps"],
            cell["test_queries"],
            "yes" if cell["transductive"] else "no",
        )
        for cell in cells
    ]
    training = ("minutes", "outer steps", "episodes a step")
    testing = ("inner steps", "test queries", "transductive")
    return markdown_table((*PLACE, *training, *testing), rows)


def validation_table(cells):
    """Accuracy on validation episodes at up to ten places of training, for cells that have it."""
    rows = []
    for cell in cells:
        curve = cell["validation"]
        if curve:
            indices = dict.fromkeys(round(k * (len(curve) - 1) / 9) for k in range(10))
            places = [curve[index] for index in indices]
            shown = [f"{100 * accuracy:.1f} ({step:,})" for step, accuracy in places]
            shown += [""] * (10 - len(shown))
            rows.append((*place(cell), *shown))
    heads = [f"{k}" for k in range(1, 11)]
    return markdown_table((*PLACE, *heads), rows)


def order(cell):
    """Place of a cell in the tables; only cells of one method, setting and seed share it."""
    return cell["ways"], cell["shots"], list(METHODS).index(cell["row"]), cell["seed"]


def place(cell):
    """Method, ways and shots in words, and seed."""
    return cell["row"], f"{cell['ways']}-way {cell['shots']}-shot", cell["seed"]


def gap(cell):
    """Points below the published figure; None without a figure."""
    value, _ = METHODS[cell["row"]].published.get((cell["ways"], cell["shots"]), (None, None))
    return None if value is None else value - 100 * cell["accuracy"]


def below(cell):
    """Points below the published figure as text; empty where none are missing."""
    points = gap(cell)
    return f"{points:.1f}" if points is not None and points > 0 else ""


def rise(cell):
    """Points by which the best validation rose in the last third of training.

    None if the cell was not validated both before and in the last third.
    """
    curve = cell["validation"]
    last = curve[-1][0] if curve else 0
    before = [accuracy for step, accuracy in curve if 3 * step <= 2 * last]
    after = [accuracy for step, accuracy in curve if 3 * step > 2 * last]
    return 100 * (max(after) - max(before)) if before else None


def rose(cell):
    """The rise as text; empty if it is not known."""
    points = rise(cell)
    return "" if points is None else f"{points:.1f}"


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


def equal_error(cell):
    """The equal error rate of verification and half its interval; empty for other methods."""
    if cell["equal_error"] is None:
        return ""
    rate, interval = cell["equal_error"]
    return f"{100 * rate:.1f} ± {100 * interval:.1f}"


def minutes(cell):
    """Minutes of training, and of the method that it begins with."""
    text = f"{cell['minutes']:.1f}"
    return text if cell["begins_with"] is None else f"{text} + {cell['begins_with']['minutes']:.1f}"

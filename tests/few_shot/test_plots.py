"""Errors of few-shot regression: every curve of a panel can be told from the others."""

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from meta_train.few_shot import plots
from meta_train.few_shot.methods.registry import list_methods
from meta_train.few_shot.table import RecordedEvaluation

GREY = "#d9d9d9"


def recorded(names):
    """Made-up errors of methods after 0, 1 and 2 inner steps."""
    results = [{"steps": k, "mean": 3.0 / (k + 1), "interval": 0.1} for k in range(3)]
    return {name: (None, RecordedEvaluation({"episodes": 9, "results": results})) for name in names}


def panels(names):
    """The panels of errors: titles, and for each the looks of its lines by label."""
    methods = recorded(names)
    figure = Figure()
    plots._draw_errors(figure, methods, plots._by_kind(methods))
    return {
        axis.get_title(): [
            (line.get_label(), to_hex(line.get_color()), line.get_linestyle())
            for line in axis.get_lines()
        ]
        for axis in figure.axes
        if axis.get_visible()
    }


def test_many_methods_are_drawn_by_kind_in_looks_of_their_own():
    names = list_methods(sine=True)
    found = panels(names)
    assert list(found) == [
        "MAML and variants",
        "Reptile",
        "other estimators and learning rates",
        "learned update rules",
    ]
    coloured = []
    for lines in found.values():
        assert len(lines) == len(names)
        own = [line for line in lines if line[1] != GREY]
        assert len({(color, style) for _, color, style in own}) == len(own)
        coloured += [label for label, *_ in own]
    assert sorted(coloured) == sorted(names)


def test_few_methods_share_a_panel():
    names = list_methods(sine=True)[:10]
    ((title, lines),) = panels(names).items()
    assert title == "" and [label for label, *_ in lines] == names
    assert len({(color, style) for _, color, style in lines}) == 10
    assert GREY not in {color for _, color, _ in lines}

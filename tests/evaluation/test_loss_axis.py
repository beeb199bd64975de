"""Logarithmic axes say their ticks in plain numbers where those are short."""

import pytest
from matplotlib.figure import Figure

from meta_train.evaluation.loss_axis import show_losses


def labels_in_sight(figure, axis):
    figure.draw_without_rendering()
    low, high = axis.get_ylim()
    ticks = [*axis.yaxis.get_major_ticks(), *axis.yaxis.get_minor_ticks()]
    texts = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
    return [text for text in texts if text]


@pytest.mark.parametrize(
    "losses",
    [(2.8, 2.2), (1.9, 0.3), (5.0, 0.02)],
    ids=["less than a decade", "about a decade", "several decades"],
)
def test_plain_numbers(losses):
    figure = Figure()
    axis = figure.subplots()
    axis.plot(losses)
    show_losses(axis, floor=1e-7)
    low, high = axis.get_ylim()
    assert losses[1] / 2 < low < losses[1] and losses[0] < high < 2 * losses[0]
    labels = labels_in_sight(figure, axis)
    assert 2 <= len(labels) <= 10
    assert all(float(label) > 0 for label in labels)
    assert axis.get_yscale() == "log"


def test_powers_of_ten_over_many_decades():
    figure = Figure()
    axis = figure.subplots()
    axis.plot((5.0, 1e-9))
    show_losses(axis, floor=2e-7)
    assert axis.get_ylim()[0] == pytest.approx(2e-7)
    assert all("10^" in label for label in labels_in_sight(figure, axis))

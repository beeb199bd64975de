"""Markdown tables are padded to equal width."""

import pytest

from meta_train.evaluation.tables import markdown_table


def test_a_table():
    table = markdown_table(["optimizer", "loss"], [["sgd", 0.5], ["adam", 12.25]])
    assert table.splitlines() == [
        "| optimizer |  loss |",
        "| --------- | ----: |",
        "| sgd       |   0.5 |",
        "| adam      | 12.25 |",
    ]


def test_alignment_is_chosen_and_a_column_is_at_least_three_wide():
    assert markdown_table(["a", "b"], [[1, 2]], align="><").splitlines() == [
        "|   a | b   |",
        "| --: | --- |",
        "|   1 | 2   |",
    ]


@pytest.mark.parametrize(("rows", "align"), [([["only one"]], ""), ([["a", "b"]], "<")])
def test_all_rows_have_the_same_number_of_columns(rows, align):
    with pytest.raises(ValueError):
        markdown_table(["a", "b"], rows, align)

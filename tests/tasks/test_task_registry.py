"""The registry of task families."""

from meta_train.tasks import TASKS, list_tasks


def test_every_family_is_listed():
    assert list_tasks(with_files=True) == [
        "digits-mlp",
        "quadratic",
        "test-functions",
        "logistic-regression",
        "random-mlp",
        "conv",
        "autoencoder",
        "regression",
        "word-pairs",
        "char-recurrent",
        "char-rnn",
        "char-transformer",
        "varied",
        "mixture",
        "sine",
        "omniglot",
        "omniglot-classes",
    ]


def test_a_pattern_filters_names():
    assert list_tasks("char-*") == ["char-recurrent", "char-rnn", "char-transformer"]
    assert list_tasks("sine") == ["sine"]
    assert list_tasks("nothing*") == []


def test_descriptions_are_one_line():
    listed = list_tasks(with_description=True, with_files=True)
    assert [name for name, _ in listed] == list(TASKS)
    for _, description in listed:
        assert 20 < len(description) < 80 and "\n" not in description
    assert list_tasks("sine", with_description=True) == [
        ("sine", "Few-shot regression of sine waves")
    ]


def test_only_omniglot_needs_files():
    assert set(TASKS) - set(list_tasks()) == {"omniglot", "omniglot-classes"}
    assert list_tasks("omniglot*") == []
    assert list_tasks("omniglot*", with_files=True) == ["omniglot", "omniglot-classes"]

import pytest

from learned_opt.registry import create, look_up, unknown


def test_a_known_name_is_looked_up():
    assert look_up("thing", "b", {"a": 1, "b": 2}) == 2


def test_an_unknown_name_is_answered_with_the_nearest_one_in_one_line():
    with pytest.raises(ValueError) as caught:
        look_up("rule", "adma", {"adam": 1, "sgd": 2})
    assert str(caught.value) == "unknown rule 'adma'; did you mean 'adam'? (known: adam, sgd)"


def test_a_name_like_no_other_gets_no_guess():
    assert unknown("rule", "zzzzz", ["adam"]) == "unknown rule 'zzzzz' (known: adam)"
    assert unknown("task", "nope", ["sine"]) == "unknown task 'nope' (known: sine)"


def test_capitals_do_not_hide_the_nearest_name():
    assert "did you mean 'adam'?" in unknown("rule", "ADAM", ["adam", "sgd"])


def test_an_unknown_setting_is_answered_with_the_nearest_one():
    def build(*, hidden_size=3):
        return hidden_size

    assert create("rule", "lstm", {"lstm": build}, {"hidden_size": 5}) == 5
    with pytest.raises(ValueError, match="setting of rule 'lstm' 'hiden_size'.*'hidden_size'"):
        create("rule", "lstm", {"lstm": build}, {"hiden_size": 5})


@pytest.mark.parametrize("value", [2.5, float("inf"), float("nan")])
def test_a_setting_that_counts_is_a_whole_number(value):
    def build(size: int, most: int | None = None, rate: float = 1.0):
        return size, most, rate

    table = {"a": build}
    assert create("thing", "a", table, {"size": 2, "most": None, "rate": 0.5}) == (2, None, 0.5)
    for settings in ({"size": value}, {"size": 1, "most": value}):
        with pytest.raises(ValueError, match=f"must be a whole number, got {value}"):
            create("thing", "a", table, settings)

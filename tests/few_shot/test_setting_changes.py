"""Changes of settings: names, types and conversions."""

from dataclasses import dataclass, field

import pytest

from meta_train.few_shot.setting_changes import read_changes


@dataclass
class Settings:
    steps: int = 1
    sizes: tuple[int, ...] = ()
    lr: float | None = None
    options: dict[str, object] = field(default_factory=dict)


def read(**given):
    return read_changes("setting", given, Settings, {"rate": "lr"})


def test_values_get_the_types_of_their_fields():
    found = read(steps=2, sizes=[1, 2], lr=None, options={"a": "off"})
    assert found == {"steps": 2, "sizes": (1, 2), "lr": None, "options": {"a": "off"}}
    assert read() == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": 1}, "unknown setting 'step'; did you mean 'steps'"),
        ({"rate": 1}, "setting rate is now called lr"),
        ({"steps": 1.5}, "steps must be int, got 1.5"),
        ({"steps": None}, "steps must be int, got None"),
        ({"sizes": 3}, r"sizes must be tuple\[int, ...\], got 3"),
        ({"options": 3}, "options must be "),
    ],
)
def test_wrong_names_and_types_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        read(**given)

"""Range checks name the setting, and refuse what is not a number."""

import math

import pytest

from meta_train.runtime.checks import (
    check_at_least,
    check_fraction,
    check_not_negative,
    check_positive,
)


def test_values_at_the_limits_pass():
    check_at_least(1, a=1, b=2)
    check_positive(a=1e-300, b=1e30)
    check_not_negative(a=0, b=1e30)
    check_fraction(a=0, b=1)


@pytest.mark.parametrize(
    ("check", "value", "said"),
    [
        (lambda **values: check_at_least(1, **values), 0, "b must be at least 1, got 0"),
        (check_positive, 0.0, "b must be positive, got 0.0"),
        (check_positive, math.nan, "b must be positive, got nan"),
        (check_positive, 1.1e30, r"b must be at most 1e\+30, got 1.1e\+30"),
        (check_not_negative, -1, "b must not be negative, got -1"),
        (check_not_negative, math.inf, r"b must be at most 1e\+30, got inf"),
        (check_fraction, 1.01, r"b must be in \[0, 1\], got 1.01"),
        (check_fraction, math.nan, r"b must be in \[0, 1\], got nan"),
    ],
)
def test_the_bad_one_is_named(check, value, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        check(a=1, b=value)

"""One training of every rule in float32, by each driver and by each code that steps it in place.

All are held to the unroll in float64: the rule's own code, its faster code (PyTorch operations, C),
the unroll of one run and of several, and `higher`. `tests/backends/triton_cases.py` holds Triton's
steps to the same training.
"""

import pytest
from one_training import CODES, ROUNDING, check, exact, follow

from learned_opt import create_rule, list_rules

DRIVERS = ("own code", "unroll", "unroll of two", "higher")
WAYS = [(name, way) for name in list_rules() for way in (*DRIVERS, *CODES[name])]


@pytest.mark.parametrize(("rule", "way"), WAYS)
def test_a_training_is_that_of_the_unroll_in_float64(rule, way):
    if way in CODES[rule]:
        why = CODES[rule][way]().refuses_rule(create_rule(rule))
        if why is not None:  # no C library
            pytest.skip(why)
    check(follow(rule, way), exact(rule), ROUNDING.get(rule, 1e-5))

"""Any function can validate; a validator says what it is."""

from meta_train.evaluation.validation.validator import FunctionValidator, Validator, as_validator


def norm(meta_parameters):
    return float(meta_parameters)


class Described(Validator):
    def __call__(self, meta_parameters):
        return 1.0

    def describe(self):
        return {"a": 1}

    def figure(self):
        return None


def test_a_function_is_wrapped_and_a_validator_is_not():
    wrapped = as_validator(norm)
    assert isinstance(wrapped, FunctionValidator)
    assert wrapped(2) == 2.0
    assert wrapped.describe() is None and wrapped.figure() is None
    validator = Described()
    assert as_validator(validator) is validator
    assert as_validator(None) is None

"""One number, measured several times."""

import pytest

from xdc_core.evaluation.spread import spread


def test_the_deviation_is_that_of_a_sample() -> None:
    found = spread([4.0, 1.0, 4.0, 9.0]).content()
    assert found == {"n": 4, "mean": 4.5, "sd": pytest.approx(11**0.5), "min": 1.0, "max": 9.0}


def test_of_one_value_there_is_no_deviation() -> None:
    assert spread([0.3]).content() == {"n": 1, "mean": 0.3, "sd": None, "min": 0.3, "max": 0.3}


def test_of_no_value_there_is_nothing() -> None:
    assert spread([]).content() == {"n": 0, "mean": None, "sd": None, "min": None, "max": None}


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3])
def test_equal_values_have_themselves_as_mean_and_no_deviation(value: float) -> None:
    assert spread([value] * 3).content() == {"n": 3, "mean": value, "sd": 0, "min": value, "max": value}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"1 of 3 values are not finite, the first is (nan|inf)"):
        spread([1.0, bad, 2.0])

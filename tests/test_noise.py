import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from lrtape.noise import CONFIDENCE, difference

values = st.lists(st.integers(-1000, 1000).map(lambda number: number / 64), min_size=2, max_size=8)


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")  # scipy's, of nearly identical values
@given(values, values)
def test_the_interval_is_welchs(first: list[float], second: list[float]) -> None:
    """It is what scipy computes, to twelve digits, wherever a sample has any spread."""
    found = difference(first, second)
    assert found is not None
    if statistics.stdev(first) + statistics.stdev(second) == 0:
        assert found.low == found.mean == found.high
        return
    interval = ttest_ind(first, second, equal_var=False).confidence_interval(CONFIDENCE)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)


@given(values, values)
def test_who_is_first_changes_the_sign_alone(first: list[float], second: list[float]) -> None:
    """The difference the other way around is the same interval, mirrored."""
    there, back = difference(first, second), difference(second, first)
    assert there is not None
    assert back is not None
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.is_beyond_noise == back.is_beyond_noise


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0, 3.0]), ([1.0, 2.0], [3.0]), ([1.0], [2.0]), ([], [1.0])])
def test_one_value_tells_nothing_of_noise(first: list[float], second: list[float]) -> None:
    """Nobody can tell from one seed, whatever the other point has."""
    assert difference(first, second) is None


def test_without_any_spread_every_difference_is_real() -> None:
    """Seeds that change nothing leave no noise: a difference counts, and none is none."""
    real, none = difference([1.0, 1.0], [2.0, 2.0]), difference([1.0, 1.0], [1.0, 1.0])
    assert real is not None
    assert real.is_beyond_noise
    assert none is not None
    assert not none.is_beyond_noise


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_unit_does_not_matter(unit: float) -> None:
    """Spreads whose squares vanish, or overflow, are judged as any other."""
    found = difference([1.0 * unit, 2.0 * unit, 3.0 * unit], [11.0 * unit, 12.0 * unit, 13.0 * unit])
    plain = difference([1.0, 2.0, 3.0], [11.0, 12.0, 13.0])
    assert found is not None
    assert plain is not None
    assert math.isclose(found.low / unit, plain.low, rel_tol=1e-9)
    assert found.is_beyond_noise

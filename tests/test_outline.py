"""The outline of a curve."""

from array import array
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lrtape.outline import Outline
from lrtape.tape import Series


def outline_of(values: list[float], max_corners: int) -> list[tuple[int, float]]:
    steps = array("q", range(len(values)))
    return list(Outline.of(Series(steps, steps, array("d", values)), max_corners).corners())


def drawn(corners: list[tuple[int, float]], n_steps: int) -> list[float]:
    """What a picture shows at each step: every corner is held until the next one."""
    values: list[float] = []
    for (step, value), (until, _) in pairwise(corners):
        values += [value] * (until - step)
    assert len(values) == n_steps
    return values


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_a_short_curve_is_kept_as_it_is(values: list[float]) -> None:
    """Every step of it."""
    assert drawn(outline_of(values, max_corners=200), len(values)) == values


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.integers(8, 40))
def test_a_long_curve_keeps_its_extremes_in_few_corners(values: list[float], max_corners: int) -> None:
    """The largest and the least value are corners at their first steps, the corners are few, and of the curve."""
    corners = outline_of(values, max_corners)

    assert len(corners) <= max_corners + 1
    assert corners == sorted(corners, key=lambda corner: corner[0])
    assert all(values[step] == value for step, value in corners[:-1])
    for extreme in (max(values), min(values)):
        assert (values.index(extreme), extreme) in corners
    assert (corners[0], corners[-1]) == ((0, values[0]), (len(values), values[-1]))


def test_one_spike_in_a_hundred_thousand_steps_is_seen() -> None:
    """It begins at its step, and is drawn no wider than a stretch, which is about a hundredth of the picture."""
    values = [1e-3] * 100_000
    values[61_803] = 1.0

    shown = drawn(outline_of(values, max_corners=400), 100_000)

    spike = [step for step, value in enumerate(shown) if value == 1.0]
    assert spike[0] == 61_803
    assert len(spike) <= 2_000


def test_the_drops_of_a_long_steplr_stay_at_their_steps() -> None:
    """Where each stretch of the outline has one of them at most, the picture is exact."""
    values = [0.1 ** (step // 3_333) for step in range(20_000)]

    assert drawn(outline_of(values, max_corners=400), 20_000) == values

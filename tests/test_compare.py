import dataclasses
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtape.compare import Comparison, compare
from lrtape.tape import Point, Series, Tape

POINTS = st.lists(
    st.builds(
        Point,
        key=st.just("lr/a"),
        step=st.integers(0, 6),
        time_ms=st.integers(0, 3),
        value=st.sampled_from([0.1, 0.2, 1e-8, 0.0, math.nan, math.inf, -math.inf]),
    ),
    min_size=1,
)


def series(points: list[Point]) -> Series:
    return Tape(points)["lr/a"]


def rows(points: list[Point]) -> set[str]:
    return {repr(point) for point in points}


def changed(point: Point, **to: float) -> Point:
    return point._replace(**to)  # type: ignore[arg-type]


@given(POINTS, st.randoms(use_true_random=False))
def test_equal_rows_in_any_order_are_equal(points: list[Point], chance: random.Random) -> None:
    """Order does not matter, nor how often the very same row is there on either side; NaN equals NaN."""
    stored = points + chance.choices(points, k=3)
    chance.shuffle(stored)
    recorded = points + chance.choices(points, k=3)

    assert compare("lr/a", series(recorded), stored) == Comparison(n_recorded=len(recorded))


@given(POINTS, st.data())
def test_a_missing_row_is_found(points: list[Point], data: st.DataObject) -> None:
    """Whichever row is not stored, it alone is named as missing."""
    gone = data.draw(st.sampled_from(points))
    found = compare("lr/a", series(points), [point for point in points if repr(point) != repr(gone)])

    assert rows(found.missing) == {repr(gone)}
    assert (len(found.missing), found.foreign, found.unrecorded, found.is_equal) == (1, [], [], False)
    assert found.differences() == [f"lr/a lacks a row at step {gone.step}"]


@given(POINTS, st.data())
def test_a_changed_value_is_found(points: list[Point], data: st.DataObject) -> None:
    """By one bit is enough: the recorded row is missing, the stored one foreign, and the sentence has both."""
    index = data.draw(st.integers(0, len(points) - 1))
    old = points[index]
    new = changed(old, value=math.nextafter(old.value, 1) if math.isfinite(old.value) else 0.3)
    stored = [new if repr(point) == repr(old) else point for point in points]
    found = compare("lr/a", series(points), stored)

    assert (rows(found.missing), rows(found.foreign)) == ({repr(old)}, {repr(new)})
    assert found.differences() == [f"lr/a at step {old.step} is {new.value!r}, but the tape has {old.value!r}"]


@given(POINTS, st.data())
def test_a_changed_time_is_found(points: list[Point], data: st.DataObject) -> None:
    """The same value at another millisecond is another row, and the sentence has both times."""
    old = data.draw(st.sampled_from(points))
    new = changed(old, time_ms=old.time_ms + 10)
    found = compare("lr/a", series(points), [new if repr(point) == repr(old) else point for point in points])

    assert (rows(found.missing), rows(found.foreign)) == ({repr(old)}, {repr(new)})
    assert found.differences() == [
        f"lr/a at step {old.step} has the time {new.time_ms} (Unix ms), but the tape has {old.time_ms}"
    ]


@given(POINTS, st.data())
def test_a_double_is_found(points: list[Point], data: st.DataObject) -> None:
    """A row that is stored again with another time is foreign, and nothing is missing."""
    double = changed(data.draw(st.sampled_from(points)), time_ms=10)
    found = compare("lr/a", series(points), [*points, double])

    assert (found.missing, rows(found.foreign), found.is_equal) == ([], {repr(double)}, False)
    assert found.differences() == [f"lr/a has 1 row too many at step {double.step}"]


@given(POINTS, st.data())
def test_a_step_that_the_tape_does_not_have_is_no_difference(points: list[Point], data: st.DataObject) -> None:
    """It may be another recording's: it is remarked upon, and the store still has what the tape has."""
    other = [Point("lr/a", data.draw(st.integers(7, 99)), 0, 0.1), Point("lr/a", 100, 0, 0.1)]
    found = compare("lr/a", series(points), [*points, *other])

    assert found == Comparison(unrecorded=other, n_recorded=len(points))
    assert (found.is_equal, found.differences()) == (True, [])
    assert found.remarks() == [f"lr/a has rows at 2 steps that the tape does not have, {other[0].step} to 100"]


def test_two_values_of_one_step_are_two_rows() -> None:
    """A person may log twice at one step: both must be stored, and one without the other is found."""
    points = [Point("lr/a", 3, 1, 0.1), Point("lr/a", 3, 1, 0.2)]

    assert compare("lr/a", series(points), reversed(points)).is_equal
    assert compare("lr/a", series(points), points[1:]).missing == points[:1]


@pytest.mark.parametrize(
    ("spoil", "sentences"),
    [
        (lambda points: points[:4] + points[6:8], ["lr/a lacks a row at step 4 (and at 3 more)"]),
        (
            lambda points: [changed(point, value=0.5) for point in points],
            ["lr/a at step 0 is 0.5, but the tape has 0.1 (and at 9 more)"],
        ),
        (
            lambda points: points + [changed(point, time_ms=99) for point in points[2:4]],
            ["lr/a has 1 row too many at step 2 (and at 1 more)"],
        ),
        (
            lambda points: [*points[1:], changed(points[2], time_ms=7), changed(points[2], time_ms=8)],
            ["lr/a lacks a row at step 0", "lr/a has 2 rows too many at step 2"],
        ),
    ],
)
def test_each_kind_of_difference_is_one_sentence(
    spoil: Callable[[list[Point]], list[Point]], sentences: list[str]
) -> None:
    """It names the first step, and says at how many more it is so."""
    points = [Point("lr/a", step, step, 0.1) for step in range(10)]

    assert compare("lr/a", series(points), spoil(points)).differences() == sentences


def test_comparisons_add_up() -> None:
    """The sum of two keys has the differences and the rows of both."""
    a, b = Point("lr/a", 0, 0, 0.1), Point("lr/b", 0, 0, 0.1)
    total = sum((compare(p.key, Tape([p])[p.key], []) for p in (a, b)), start=Comparison())

    assert total == Comparison(missing=[a, b], n_recorded=2)
    assert total.differences() == ["lr/a lacks a row at step 0", "lr/b lacks a row at step 0"]
    assert (total + Comparison()) == total
    assert dataclasses.replace(total, missing=[]).is_equal


def test_many_rows_of_one_step_and_time_take_no_longer() -> None:
    """Whatever is logged without a step shares step 0: 100,000 rows in reversed order are compared in seconds."""
    points = [Point("lr/a", 0, time_ms, 0.1) for time_ms in range(100_000)]

    assert compare("lr/a", series(points), reversed(points)).is_equal

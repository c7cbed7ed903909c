import math

from hypothesis import given
from hypothesis import strategies as st

from lrtape.tape import Point, Tape

POINTS = st.lists(
    st.builds(
        Point,
        key=st.sampled_from(["lr/a", "lr/b", "train/loss"]),
        step=st.integers(0, 2**40),
        time_ms=st.integers(0, 2**45),
        value=st.floats(allow_nan=True, allow_infinity=True),
    ),
    unique_by=lambda point: point[:3],
)


@given(POINTS, st.randoms())
def test_a_tape_does_not_depend_on_the_order_of_its_points(points: list[Point], random: object) -> None:
    """The same points in any order make the same tape, NaN and infinity included."""
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert dict(Tape(points)) == dict(Tape(shuffled))


@given(POINTS)
def test_a_tape_gives_back_its_points(points: list[Point]) -> None:
    """Nothing is lost, merged or changed."""
    back = [repr(point) for point in Tape(points).points()]

    assert sorted(back) == sorted(map(repr, points))


def test_tapes_that_differ_in_one_bit_are_not_equal() -> None:
    """Equality is exact: a value one ulp away, another time or another step is a difference."""
    point = Point("lr/a", 1, 2, 0.1)
    others = [point._replace(value=math.nextafter(0.1, 1)), point._replace(step=2), point._replace(time_ms=3)]

    assert dict(Tape([point])) == dict(Tape([point]))
    assert all(dict(Tape([point])) != dict(Tape([other])) for other in others)


def test_the_learning_rates_alone() -> None:
    """`lr` leaves out every key that is not a learning rate."""
    assert list(Tape([Point("train/loss", 0, 0, 1.0), Point("lr/a", 0, 0, 1.0)]).lr) == ["lr/a"]


@given(POINTS, POINTS)
def test_a_union_has_every_row_once(first: list[Point], second: list[Point]) -> None:
    """What two tapes share is there once, what they do not share is all there, and the order is that of any tape."""
    shared = first[: len(first) // 2]
    union = Tape.union([Tape(first), Tape([*shared, *second])])

    assert sorted(map(repr, union.points())) == sorted({repr(point) for point in (*first, *second)})
    for series in union.values():
        rows = list(zip(series.steps, series.times_ms, strict=True))
        assert rows == sorted(rows)


def test_a_union_of_a_training_and_its_resumption_is_their_sequence() -> None:
    """The second goes on where the first one stopped."""
    points = [Point("lr/a", step, step, 0.1) for step in range(10)]

    assert dict(Tape.union([Tape(points[:4]), Tape(points[4:]), Tape()])) == dict(Tape(points))

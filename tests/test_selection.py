import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtape.compare import allow, compare
from lrtape.keys import MAX_KEY_CHARACTERS, Keys, log10_key
from lrtape.recording_options import CHANGES, EVERY_STEP
from lrtape.selection import LEVEL_MS, LEVEL_SHARE, Selection, may_have, must_have
from lrtape.spool import End, Frame, Header, Mark, SpoolReader, SpoolWriter, read_spool
from lrtape.tape import Group, GroupLayout, Point, Record, Series, Status, Tape

LAYOUT = GroupLayout(0, (Group("a", "lr/a"), Group("b", "lr/b")))
KEYS = ("lr/a", "lr/b")
LRS = st.sampled_from([0.1, 0.2, 1e-7, 0.0, -0.5, math.nan, math.inf, -math.inf])


def write(path: Path, *frames: Frame, record: str = CHANGES, lr_log10: bool = False) -> Path:
    writer = SpoolWriter(path, Header("run", True, "uri", 1, record=record, lr_log10=lr_log10))
    for frame in frames:
        writer.write(frame)
    writer.close()
    return path


def stored(path: Path, is_over: bool = True) -> list[Point]:
    with SpoolReader(path) as reader:
        return list(Selection(reader).points(is_over))


def steps(points: list[Point], key: str) -> list[int]:
    return [point.step for point in points if point.key == key]


@pytest.fixture
def spool(tmp_path: Path) -> Callable[..., list[Point]]:
    """What the store gets of these frames, a layout of two groups before them."""
    return lambda *frames, **options: stored(write(tmp_path / "spool", LAYOUT, *frames, **options))


def drawn(series: Series, step: int) -> float:
    """What MLflow draws at a step: a straight line between the two rows around it."""
    for (begin, was), (end, now) in pairwise(zip(series.steps, series.values, strict=True)):
        if begin <= step <= end:
            return was if step == begin else now if step == end else was + (now - was) * (step - begin) / (end - begin)
    (only,) = series.values
    return only


def finite(series: Series) -> Series:
    """What is drawn of a curve; what is not finite is stored under other keys."""
    tape = Tape(point for point in Tape.of({"x": series}).points() if math.isfinite(point.value))
    return tape.get("x", Series())


@st.composite
def recordings(draw: st.DrawFn) -> list[Frame]:
    """Two optimizers, whose groups come and go, with marks, half records and logged values between their steps."""
    frames: list[Frame] = []
    groups: dict[int, int] = {}
    next_steps = [0, draw(st.integers(0, 3))]
    time_ms = 0
    for kind in draw(st.lists(st.sampled_from(["record"] * 12 + ["layout", "mark", "log", "half"]), max_size=60)):
        index = draw(st.integers(0, 1))
        time_ms += draw(st.sampled_from([0, 1, LEVEL_MS // 2, LEVEL_MS, 10 * LEVEL_MS]))
        if kind == "layout" or index not in groups:
            groups[index] = draw(st.integers(1, 3))
            layout = tuple(Group(name, f"lr/{index}/{name}") for name in "abc"[: groups[index]])
            frames.append(GroupLayout(index, layout))
        if kind == "record":
            lrs = draw(st.lists(LRS, min_size=groups[index], max_size=groups[index]))
            for _ in range(draw(st.integers(1, 5))):
                frames.append(Record(index, next_steps[index], time_ms, lrs))
                next_steps[index] += draw(st.sampled_from([1, 1, 1, 4]))
        elif kind == "half":
            frames.append(Point(f"lr/{index}/a", next_steps[index], time_ms, draw(LRS)))
            next_steps[index] += 1
        elif kind == "mark":
            frames.append(Mark(next_steps[index] - 1))
        else:
            frames.append(Point("train/loss", next_steps[index], time_ms, 1.5))
    return frames + [End(Status.FINISHED)] * draw(st.integers(0, 1))


@settings(max_examples=150, deadline=None)
@given(recordings())
def test_the_drawn_curve_is_the_tape(frames: list[Frame]) -> None:
    """At every recorded step, the straight line through the stored rows has the recorded lr; and everything that is no
    lr is stored as it came.
    """
    with TemporaryDirectory() as folder:
        path = write(Path(folder, "spool"), *frames)
        tape, got = read_spool(path), Tape(stored(path))

    assert set(got) == set(tape)
    for key, series in tape.items():
        if not key.startswith("lr/"):
            assert got[key] == series
            continue
        for step, lr in zip(series.steps, series.values, strict=True):
            if math.isfinite(lr):
                assert drawn(finite(got[key]), step) == lr
        for is_that in (math.isnan, math.isinf):  # what health/nan/<key> and health/inf/<key> are drawn from
            there, here = (
                [step for step, lr in zip(rows.steps, rows.values, strict=True) if is_that(lr)]
                for rows in (series, got[key])
            )
            assert there[:1] == here[:1]
            assert there[-1:] == here[-1:]


@settings(max_examples=150, deadline=None)
@given(recordings(), st.sampled_from([CHANGES, EVERY_STEP]), st.booleans(), st.data())
def test_what_is_sent_is_what_must_and_may_be_there(
    frames: list[Frame], record: str, lr_log10: bool, data: st.DataObject
) -> None:
    """A comparison with the tape alone finds nothing wrong with what was sent; and finds each row that is required and
    missing.
    """
    with TemporaryDirectory() as folder:
        path = write(Path(folder, "spool"), *frames, record=record, lr_log10=lr_log10)
        tape, sent = read_spool(path), stored(path)
    required, allowed = must_have(tape, record, lr_log10), may_have(tape, lr_log10)

    def compared(points: list[Point], key: str) -> list[str]:
        rows = [point for point in points if point.key == key]
        return allow(compare(key, required[key], rows), allowed).differences()

    assert {point.key for point in sent} == set(required)
    assert [compared(sent, key) for key in required] == [[]] * len(required)
    if sent:
        lost = data.draw(st.sampled_from(list(required.points())))
        left = [point for point in sent if repr(point) != repr(lost)]
        assert compared(left, lost.key) == [f"{lost.key} lacks a row at step {lost.step}"]
        false = lost._replace(value=77.0)
        assert "too many" in str(compared([*sent, false], lost.key))


@settings(max_examples=100, deadline=None)
@given(recordings(), st.booleans(), st.data())
def test_it_does_not_matter_where_a_shipper_is_killed(frames: list[Frame], lr_log10: bool, data: st.DataObject) -> None:
    """One that goes on at any frame sends the same rows as one that was never stopped."""
    with TemporaryDirectory() as folder:
        path = write(Path(folder, "spool"), *frames, lr_log10=lr_log10)
        batches = []
        with SpoolReader(path) as reader:
            whole = Selection(reader)
            max_points = data.draw(st.integers(1, 7))
            while (batch := whole.batch(max_points)).points:
                batches.append(batch)
            rest = whole.rest()
        n_sent = data.draw(st.integers(0, len(batches)))
        with SpoolReader(path) as reader:
            later = Selection(reader)
            if n_sent:
                later.skip_to(batches[n_sent - 1].offset)
            points = later.batch(10**9).points + later.rest()

    expected = [point for batch in batches[n_sent:] for point in batch.points] + rest
    assert repr(points) == repr(expected)


def test_few_rows_are_needed(spool: Callable[..., list[Point]]) -> None:
    """Of a thousand steps with one change of one group: the first, both sides, the last; of the other, two."""
    records = [Record(0, step, step, [0.1 if step < 400 else 0.01, 0.5]) for step in range(1000)]
    points = spool(*records)
    tape = Tape(Point(key, r.step, r.step, lr) for r in records for key, lr in zip(KEYS, r.lrs, strict=True))

    assert must_have(tape, CHANGES, False) == Tape(points)
    assert steps(points, "lr/a") == [0, 399, 400, 999]
    assert steps(points, "lr/b") == [0, 999]


def test_a_schedule_that_changes_at_every_step_is_stored_whole(spool: Callable[..., list[Point]]) -> None:
    """There, `changes` and `every_step` are one."""
    points = spool(*(Record(0, step, step, [0.1 / (step + 1), 0.5]) for step in range(50)))

    assert steps(points, "lr/a") == list(range(50))


def test_a_mark_is_stored(spool: Callable[..., list[Point]]) -> None:
    """The step before a mark is stored, once, however often it is marked."""
    frames: list[Frame] = [Record(0, step, step, [0.1, 0.5]) for step in range(10)]
    points = spool(*frames[:4], Mark(3), Mark(3), *frames[4:])

    assert steps(points, "lr/a") == [0, 3, 9]


def test_a_curve_grows_while_it_is_level(spool: Callable[..., list[Point]]) -> None:
    """Once a minute at first, then less and less often: a month has fewer rows than MLflow draws."""
    month_ms = 30 * 24 * 3_600_000
    points = spool(*(Record(0, step, step * 10_000, [0.1, 0.5]) for step in range(month_ms // 10_000)))
    times_ms = [point.time_ms for point in points if point.key == "lr/a"]

    assert times_ms[:4] == [0, 60_000, 120_000, 180_000]
    gaps = [after - before for before, after in pairwise(times_ms[:-1])]
    assert all(
        gap <= max(LEVEL_MS, LEVEL_SHARE * after) + 10_000 for gap, after in zip(gaps, times_ms[1:], strict=False)
    )
    assert len(times_ms) < 200


def test_what_goes_on_has_no_last_step(tmp_path: Path) -> None:
    """The last step of a spool that still grows is not stored before it is known to be the last one, or a change."""
    path = write(tmp_path / "spool", LAYOUT, *(Record(0, step, step, [0.1, 0.5]) for step in range(10)))

    assert steps(stored(path, is_over=False), "lr/a") == [0]
    assert steps(stored(path, is_over=True), "lr/a") == [0, 9]


def test_a_logarithm_stands_beside_each_lr_that_has_one(spool: Callable[..., list[Point]]) -> None:
    """Of the same step and time; none of 0, of a negative lr, and of what is not finite. Losses have none."""
    lrs = [1e-3, 1.0000000000000002e-06, 3e-8, 0.0, -0.1, math.nan, math.inf]
    loss = Point("train/loss", 0, 0, 0.5)
    points = spool(*(Record(0, step, 100 + step, [lr, 1.0]) for step, lr in enumerate(lrs)), loss, lr_log10=True)

    assert [point for point in points if point.key == "lr_log10/a"] == [
        Point("lr_log10/a", 0, 100, -3.0),
        Point("lr_log10/a", 1, 101, -6.0),
        Point("lr_log10/a", 2, 102, -7.522878745),
    ]
    assert set(Tape(points)) == {"lr/a", "lr/b", "lr_log10/a", "lr_log10/b", "train/loss"}


def test_what_somebody_logs_under_the_same_key_is_kept(spool: Callable[..., list[Point]]) -> None:
    """It is no logarithm of ours, and none is made of it; both are required of the store."""
    own = Point("lr_log10/a", 0, 7, 42.0)
    points = spool(Record(0, 0, 100, [0.1, 0.5]), own, lr_log10=True)
    tape = Tape(point for point in points if point == own or point.key.startswith("lr/"))

    assert [point for point in points if point.key == "lr_log10/a"] == [Point("lr_log10/a", 0, 100, -1.0), own]
    assert must_have(tape, CHANGES, True) == Tape(points)


def long_names() -> Iterator[str]:
    for length in (MAX_KEY_CHARACTERS - 9, MAX_KEY_CHARACTERS - 4, 2 * MAX_KEY_CHARACTERS):
        for end in "xy":
            yield "layer." * (length // 6) + end


def test_the_keys_of_logarithms_are_legal_and_differ() -> None:
    """However long the name of a group is."""
    keys = Keys()
    found = [log10_key(keys.reserve(name).key) for name in ["a", *long_names()]]

    assert found[0] == "lr_log10/a"
    assert len(set(found)) == len(found)
    assert max(map(len, found)) == MAX_KEY_CHARACTERS


def test_a_spool_of_before_is_stored_whole() -> None:
    """A header that says nothing of it, as it was written once, means every step and no logarithm."""
    old = {
        "run_id": "run",
        "owns_run": True,
        "tracking_uri": "uri",
        "created_ms": 1,
        "recording_id": "a",
        "keep": False,
    }

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=Header) == Header("run", True, "uri", 1, "a")


def test_a_batch_ends_on_a_whole_frame(tmp_path: Path) -> None:
    """A batch holds all of what a frame is about, and its offset is where the next reader may go on."""
    records = [Record(0, step, step, [0.1 * step, 0.5 * step]) for step in range(3)]
    path = write(tmp_path / "spool", LAYOUT, *records)
    with SpoolReader(path) as reader:
        selection = Selection(reader)
        first, second = (selection.batch(n) for n in (1, 100))
    assert [point.key for point in first.points] == ["lr/a", "lr/b"]

    with SpoolReader(path) as reader:
        later = Selection(reader)
        later.skip_to(first.offset)
        assert later.batch(100) == second


def test_a_batch_is_no_larger_than_it_may_be(tmp_path: Path) -> None:
    """A frame that does not fit waits for the next batch; one that is larger by itself has a batch of its own."""
    records = [Record(0, step, step, [0.1 * step, 0.5 * step]) for step in range(4)]
    path = write(tmp_path / "spool", LAYOUT, *records, record=EVERY_STEP)
    with SpoolReader(path) as reader:
        selection = Selection(reader)
        batches = [selection.batch(n) for n in (3, 1, 3, 100)]

    assert [[point.step for point in batch.points] for batch in batches] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert [batch.is_full for batch in batches] == [True, True, True, False]
    for batch, later in pairwise(batches):
        with SpoolReader(path) as reader:
            selection = Selection(reader)
            selection.skip_to(batch.offset)
            assert selection.batch(2).points == later.points

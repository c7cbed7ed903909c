from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lrtape.errors import TrackingError
from lrtape.progress import PROGRESS, SPOOL, Progress
from lrtape.shipper import BATCH_POINTS, ship
from lrtape.spool import End, Header, SpoolWriter, read_tape
from lrtape.tape import Group, Groups, Point, Record, Tape
from lrtape.tracking.sink import RefusedError

N_STEPS = 1200


class FailingSink:
    """Stores points in memory; raises what it is told to, in order, before it stores anything again."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.stored: list[Point] = []
        self.batches: list[int] = []

    def send(self, points: Sequence[Point]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append(len(points))
        self.stored += points


def dead(_: float) -> bool:
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spool of two groups, complete but for its end."""
    writer = SpoolWriter(tmp_path / SPOOL, Header("run", "uri", 1, 2))
    writer.write(Groups(0, (Group("a", "lr/a"), Group("b", "lr/b"))))
    for step in range(N_STEPS):
        writer.write(Record(0, step, 100 + step, [0.1 * step, 0.2 * step]))
    writer.close()
    return tmp_path


def test_everything_is_sent_once_in_order_and_in_bulk(folder: Path) -> None:
    """A whole spool arrives in batches of 1,000, in its order, and the progress ends at its last byte."""
    sink = FailingSink()
    reader = ship(folder, sink, dead)

    assert sink.batches == [BATCH_POINTS, BATCH_POINTS, 2 * N_STEPS - 2 * BATCH_POINTS]
    assert dict(Tape(sink.stored)) == dict(read_tape(folder / SPOOL))
    assert [point.step for point in sink.stored] == sorted(point.step for point in sink.stored)
    assert Progress.load(folder) == Progress((folder / SPOOL).stat().st_size, 2 * N_STEPS)
    assert reader.end is None


def test_what_is_acknowledged_is_not_sent_again(folder: Path) -> None:
    """A second shipper goes on where the first one was stopped."""
    first = FailingSink()
    with pytest.raises(KeyboardInterrupt):
        ship(folder, StoppedAfter(first, 2), dead)
    second = FailingSink()
    ship(folder, second, dead)

    assert len(first.stored) == 2 * BATCH_POINTS
    assert len(first.stored) + len(second.stored) == 2 * N_STEPS
    assert dict(Tape(first.stored + second.stored)) == dict(read_tape(folder / SPOOL))


class StoppedAfter:
    """Passes on so many batches, and is then stopped like a process."""

    def __init__(self, sink: FailingSink, batches: int) -> None:
        self._sink = sink
        self._batches = batches

    def send(self, points: Sequence[Point]) -> None:
        if self._batches == 0:
            raise KeyboardInterrupt
        self._batches -= 1
        self._sink.send(points)


def test_a_failure_that_passes_is_outlasted(folder: Path) -> None:
    """The batch that failed is sent again, before any later one, and nothing is missing or doubled."""
    sink = FailingSink(TrackingError("busy"), ConnectionResetError("gone"))
    ship(folder, sink, dead)

    assert dict(Tape(sink.stored)) == dict(read_tape(folder / SPOOL))
    assert len(sink.stored) == 2 * N_STEPS
    assert Progress.load(folder).error == ""


def test_patience_ends_some_time_after_the_writer(folder: Path) -> None:
    """A dead writer's shipper gives up at last, says why, and leaves the spool alone."""
    sink = FailingSink(*[TrackingError("http://me:s3cret@host is down")] * 99)
    ship(folder, sink, dead, give_up_s=0.0)
    progress = Progress.load(folder)

    assert progress.offset == progress.points == 0
    assert progress.error == "TrackingError: http://***@host is down"
    assert not progress.refused
    assert len(read_tape(folder / SPOOL)["lr/a"]) == N_STEPS


def test_a_refusal_is_not_repeated(folder: Path) -> None:
    """When the store refuses for good, the shipper says so and stops."""
    sink = FailingSink(RefusedError("the run is deleted"))
    ship(folder, sink, dead)

    assert (sink.stored, Progress.load(folder).refused) == ([], True)


def test_a_damaged_progress_is_not_believed(folder: Path) -> None:
    """Everything is sent again rather than something never."""
    (folder / PROGRESS).write_text('{"offset": 123')
    sink = FailingSink()
    ship(folder, sink, dead)

    assert len(sink.stored) == 2 * N_STEPS


def test_a_growing_spool_is_followed_until_its_end(tmp_path: Path) -> None:
    """Points arrive while the writer lives, and the shipper stops at the end without being told otherwise."""
    writer = SpoolWriter(tmp_path / SPOOL, Header("run", "uri", 1, 2))
    writer.write(Groups(0, (Group("a", "lr/a"),)))
    script: list[Callable[[], object]] = [
        lambda: writer.write(Record(0, 0, 1, [0.5])),
        lambda: writer.write(Record(0, 1, 2, [0.25])),
        lambda: writer.write(End("FINISHED")),
    ]

    def lives(_: float) -> bool:
        script.pop(0)()
        return True

    sink = FailingSink()
    reader = ship(tmp_path, sink, lives)

    assert sink.batches == [1, 1]
    assert reader.end == End("FINISHED")
    assert Progress.load(tmp_path).offset == writer.size


def test_the_last_words_of_a_writer_that_dies_are_sent(tmp_path: Path) -> None:
    """What was written just before the death, after the last look at the file, is read too."""
    writer = SpoolWriter(tmp_path / SPOOL, Header("run", "uri", 1, 2))
    writer.write(Groups(0, (Group("a", "lr/a"),)))

    def dies_writing(_: float) -> bool:
        if not sink.stored:
            writer.write(Record(0, 0, 1, [0.5]))
        return False

    sink = FailingSink()
    reader = ship(tmp_path, sink, dies_writing)

    assert sink.stored == [Point("lr/a", 0, 1, 0.5)]
    assert reader.end is None

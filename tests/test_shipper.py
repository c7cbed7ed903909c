import contextlib
import gc
from collections.abc import Sequence
from pathlib import Path

import pytest

from lrtape.errors import TrackingError
from lrtape.shipper import BATCH_POINTS, GC_THRESHOLD, DeadWriter, Shipped, ship
from lrtape.spool import End, Frame, Header, SpoolWriter, read_spool
from lrtape.spool_folder import Progress, SpoolFolder
from lrtape.tape import Group, GroupLayout, Point, Record, Status, Tape
from lrtape.tracking.sink import RefusedError, RefusedPointsError

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


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    """A spool of two groups, complete but for its end."""
    writer = SpoolWriter(tmp_path / "spool", Header("run", True, "uri", 1))
    writer.write(GroupLayout(0, (Group("a", "lr/a"), Group("b", "lr/b"))))
    for step in range(N_STEPS):
        writer.write(Record(0, step, 100 + step, [0.1 * step, 0.2 * step]))
    writer.close()
    return SpoolFolder(tmp_path)


def test_everything_is_sent_once_in_order_and_in_bulk(folder: SpoolFolder) -> None:
    """A whole spool arrives in batches of 1,000, in its order, and the progress ends at its last byte."""
    sink = FailingSink()
    shipped = ship(folder, sink, DeadWriter())

    assert sink.batches == [BATCH_POINTS, BATCH_POINTS, 2 * N_STEPS - 2 * BATCH_POINTS]
    assert dict(Tape(sink.stored)) == dict(read_spool(folder.spool))
    assert [point.step for point in sink.stored] == sorted(point.step for point in sink.stored)
    assert folder.load_progress() == Progress(folder.spool.stat().st_size, 2 * N_STEPS)
    assert shipped == Shipped(2 * N_STEPS, None)


@pytest.mark.parametrize("n_groups", [1, 3, 7, 400, 1001])
def test_no_request_is_for_a_few_rows_too_many(tmp_path: Path, n_groups: int) -> None:
    """A step that does not fit waits for the next batch, whatever the number of groups."""
    writer = SpoolWriter(tmp_path / "spool", Header("run", True, "uri", 1))
    writer.write(GroupLayout(0, tuple(Group(f"{index}", f"lr/{index}") for index in range(n_groups))))
    for step in range(N_STEPS if n_groups < 10 else 5):
        writer.write(Record(0, step, 100 + step, [0.1] * n_groups))
    writer.close()
    sink = FailingSink()
    ship(SpoolFolder(tmp_path), sink, DeadWriter())

    whole_steps = max(BATCH_POINTS // n_groups, 1)
    assert {*sink.batches[:-1]} <= {whole_steps * n_groups}
    assert dict(Tape(sink.stored)) == dict(read_spool(tmp_path / "spool"))


def test_pythons_garbage_collector_is_as_it_was(folder: SpoolFolder) -> None:
    """Shipping lets it look less often, and leaves it as it was found, whatever happens."""
    before = gc.get_threshold()
    seen = []
    with pytest.raises(KeyboardInterrupt):
        ship(folder, StoppedAfter(FailingSink(), 1), DeadWriter())
    assert gc.get_threshold() == before

    class Watching(FailingSink):
        def send(self, points: Sequence[Point]) -> None:
            seen.append(gc.get_threshold())

    ship(folder, Watching(), DeadWriter())
    assert {*seen} == {GC_THRESHOLD}
    assert gc.get_threshold() == before


def test_what_is_acknowledged_is_not_sent_again(folder: SpoolFolder) -> None:
    """A second shipper goes on where the first one was stopped."""
    first = FailingSink()
    with pytest.raises(KeyboardInterrupt):
        ship(folder, StoppedAfter(first, 2), DeadWriter())
    second = FailingSink()
    ship(folder, second, DeadWriter())

    assert len(first.stored) == 2 * BATCH_POINTS
    assert len(first.stored) + len(second.stored) == 2 * N_STEPS
    assert dict(Tape(first.stored + second.stored)) == dict(read_spool(folder.spool))


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


def test_a_failure_that_passes_is_outlasted(folder: SpoolFolder) -> None:
    """The batch that failed is sent again, before any later one, and nothing is missing or doubled."""
    sink = FailingSink(TrackingError("busy"), ConnectionResetError("gone"))
    ship(folder, sink, DeadWriter())

    assert dict(Tape(sink.stored)) == dict(read_spool(folder.spool))
    assert len(sink.stored) == 2 * N_STEPS
    assert folder.load_progress().error == ""


def test_patience_ends_some_time_after_the_writer(folder: SpoolFolder) -> None:
    """A dead writer's shipper gives up at last, says why, and leaves the spool alone."""
    sink = FailingSink(*[TrackingError("http://me:s3cret@host is down")] * 99)
    ship(folder, sink, DeadWriter(), give_up_s=0.0)
    progress = folder.load_progress()

    assert progress.offset == progress.points == 0
    assert progress.error == "TrackingError: http://***@host is down"
    assert not progress.refused
    assert len(read_spool(folder.spool)["lr/a"]) == N_STEPS


def test_a_refusal_ends_the_shipping_of_what_has_ended(folder: SpoolFolder) -> None:
    """When the recording is over and the store refuses for good, the shipper says so and stops."""
    sink = FailingSink(*[RefusedError("the run is deleted")] * 9)
    shipped = ship(folder, sink, DeadWriter())

    assert (sink.stored, folder.load_progress().refused, shipped.error) == ([], True, "the run is deleted")
    assert len(sink.errors) == 7  # a second try, as somebody may have mended it meanwhile


def test_a_refusal_is_outlasted_while_the_recording_goes_on(tmp_path: Path) -> None:
    """Somebody may restore the run, or give the permission: then everything arrives."""
    folder = SpoolFolder(tmp_path)
    records = [Record(0, step, step, [0.5]) for step in range(4)]
    writer = ScriptedWriter(folder.spool, *records, End(Status.FINISHED))
    sink = FailingSink(RefusedError("the run is deleted"))
    shipped = ship(folder, sink, writer)

    assert [point.step for point in sink.stored] == [0, 1, 2, 3]
    assert (shipped.error, folder.load_progress().refused) == ("", False)


class PickySink(FailingSink):
    """Takes all keys but one."""

    def send(self, points: Sequence[Point]) -> None:
        if any(point.key == "lr/b" for point in points):
            raise RefusedPointsError("lr/b is no key")
        super().send(points)


def test_a_refused_key_does_not_cost_the_others(folder: SpoolFolder) -> None:
    """The values of the other keys are stored, and the refused ones are counted and named."""
    sink = PickySink()
    shipped = ship(folder, sink, DeadWriter())
    progress = folder.load_progress()

    assert [point.step for point in sink.stored] == list(range(N_STEPS))
    assert {point.key for point in sink.stored} == {"lr/a"}
    assert shipped.refused == {"lr/b": (N_STEPS, "lr/b is no key")}
    assert (progress.refused_keys, progress.points) == (("lr/b",), N_STEPS)
    assert "lr/b is no key" in progress.error


def test_the_last_word_stands_for_an_end_that_could_not_be_written(folder: SpoolFolder) -> None:
    """Where the disk is full, the writer says through its pipe how the training ended."""
    writer = DeadWriter()
    writer.last_word = End(Status.FINISHED, lost=3)

    assert ship(folder, FailingSink(), writer).end == writer.last_word


def test_a_damaged_progress_is_not_believed(folder: SpoolFolder) -> None:
    """Everything is sent again rather than something never."""
    folder.progress_file.write_text('{"offset": 123')
    sink = FailingSink()
    ship(folder, sink, DeadWriter())

    assert len(sink.stored) == 2 * N_STEPS


def test_damage_is_no_end(folder: SpoolFolder) -> None:
    """What is behind a damaged frame is never taken for sent: the shipper says where the damage is, and stops."""
    data = bytearray(folder.spool.read_bytes())
    data[len(data) // 2] ^= 0xFF
    folder.spool.write_bytes(data)
    sink = FailingSink()
    shipped = ship(folder, sink, DeadWriter())

    assert 0 < len(sink.stored) == shipped.points < 2 * N_STEPS
    assert "is damaged: what is behind its byte" in shipped.error
    assert folder.load_progress().error == shipped.error


def test_a_torn_tail_is_an_end(folder: SpoolFolder) -> None:
    """A writer that was killed in the middle of a frame has not recorded that step."""
    folder.spool.write_bytes(folder.spool.read_bytes()[:-3])
    sink = FailingSink()

    assert ship(folder, sink, DeadWriter()) == Shipped(2 * (N_STEPS - 1), None)


@pytest.mark.parametrize("n_batches", range(4))
def test_of_changes_each_row_is_sent_once(tmp_path: Path, n_batches: int) -> None:
    """Whenever a shipper is killed, the next one sends the rest: both sides of each change, and the last step of a
    writer that has died without a word. A third one finds nothing to do.
    """
    writer = SpoolWriter(tmp_path / "spool", Header("run", True, "uri", 1, record="changes"))
    writer.write(GroupLayout(0, (Group("a", "lr/a"),)))
    for step in range(N_STEPS):
        writer.write(Record(0, step, step, [0.5 if step < 100 else step if step < 1100 else 0.25]))
    writer.close()
    folder = SpoolFolder(tmp_path)
    sink = FailingSink()
    with contextlib.suppress(KeyboardInterrupt):
        ship(folder, StoppedAfter(sink, n_batches), DeadWriter())
    n_sent = [0, BATCH_POINTS, BATCH_POINTS + 3, BATCH_POINTS + 4][n_batches]
    assert len(sink.stored) == folder.load_progress().points == n_sent
    shipped = ship(folder, sink, DeadWriter())

    assert [point.step for point in sink.stored] == [0, *range(99, 1101), N_STEPS - 1]
    assert shipped == ship(folder, sink, DeadWriter()) == Shipped(len(sink.stored), None)


class ScriptedWriter:
    """A writer that does the next thing of its script whenever its shipper looks, and is dead after the last one."""

    def __init__(self, path: Path, *script: Frame) -> None:
        self.spool = SpoolWriter(path, Header("run", True, "uri", 1))
        self.spool.write(GroupLayout(0, (Group("a", "lr/a"),)))
        self._script = list(script)
        self.last_word: End | None = None

    def is_recording(self, wait_s: float) -> bool:
        if self._script:
            self.spool.write(self._script.pop(0))
        return bool(self._script)

    def is_alive(self) -> bool:
        return bool(self._script)


def test_a_growing_spool_is_followed_until_its_end(tmp_path: Path) -> None:
    """Points arrive while the writer lives, and the shipper stops at the end without being told otherwise."""
    folder = SpoolFolder(tmp_path)
    end = End(Status.FINISHED)
    writer = ScriptedWriter(folder.spool, Record(0, 0, 1, [0.5]), Record(0, 1, 2, [0.25]), end, end)
    sink = FailingSink()
    shipped = ship(folder, sink, writer)

    assert sink.batches == [1, 1]
    assert shipped == Shipped(2, end)
    assert folder.load_progress().offset == writer.spool.size


def test_the_last_words_of_a_writer_that_dies_are_sent(tmp_path: Path) -> None:
    """What was written just before the death, after the last look at the file, is read too."""
    folder = SpoolFolder(tmp_path)
    sink = FailingSink()
    shipped = ship(folder, sink, ScriptedWriter(folder.spool, Record(0, 0, 1, [0.5])))

    assert sink.stored == [Point("lr/a", 0, 1, 0.5)]
    assert shipped == Shipped(1, None)

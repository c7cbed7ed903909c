import contextlib
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtape.errors import SpoolError
from lrtape.spool import MAGIC, End, Frame, Header, SpoolReader, SpoolWriter, read_spool
from lrtape.tape import Finding, Group, GroupLayout, Point, Record, Status

HEADER = Header("run", True, "sqlite:////store.db", 1)
GROUPS = GroupLayout(0, (Group("a", "lr/a"), Group("b", "lr/b")))
FRAMES: list[Frame] = [
    GROUPS,
    Record(0, 0, 10, [0.1, 1e-300]),
    Point("train/loss", 0, 11, float("inf")),
    Finding("some-code", "a sentence", "lr/a", 0),
    Record(0, 1, 12, [0.2, 5e-324]),
    End(Status.FINISHED),
]


def write_spool(path: Path, frames: list[Frame]) -> Path:
    writer = SpoolWriter(path, HEADER)
    assert all(writer.write(frame) for frame in frames)
    writer.close()
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every frame comes back equal and in order, behind the header."""
    with SpoolReader(write_spool(tmp_path / "spool", FRAMES)) as reader:
        assert reader.header == HEADER
        assert list(reader.frames()) == FRAMES
        assert reader.end == End(Status.FINISHED)


@given(lrs=st.lists(st.floats(allow_nan=False), min_size=2, max_size=2), step=st.integers(0, 2**62))
def test_an_lr_is_kept_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, lrs: list[float], step: int) -> None:
    """Any float survives the spool with its last bit, also -0.0, infinity and subnormals."""
    path = write_spool(tmp_path_factory.mktemp("spool") / "spool", [GROUPS, Record(0, step, 0, lrs)])
    tape = read_spool(path)

    assert [value.hex() for key in ("lr/a", "lr/b") for value in tape[key].values] == [lr.hex() for lr in lrs]
    assert list(tape["lr/a"].steps) == [step]


def test_a_torn_tail_hides_nothing_before_it(tmp_path: Path) -> None:
    """Cut at any byte, the spool yields exactly the frames that are whole."""
    whole = write_spool(tmp_path / "spool", FRAMES).read_bytes()
    with SpoolReader(tmp_path / "spool") as reader:
        ends = [reader.offset] + [reader.offset for _ in reader.frames()]
    for cut in range(ends[0], len(whole)):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with SpoolReader(tmp_path / "cut") as reader:
            assert list(reader.frames()) == FRAMES[: sum(end <= cut for end in ends[1:])]


def test_a_flipped_byte_is_never_taken_for_a_value(tmp_path: Path) -> None:
    """Whatever byte is damaged, what is read is a prefix of what was written."""
    whole = write_spool(tmp_path / "spool", FRAMES).read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            with SpoolReader(tmp_path / "damaged") as reader:
                read = list(reader.frames())
        except SpoolError:
            continue
        assert read == FRAMES[: len(read)]
        assert len(read) < len(FRAMES)


def test_damage_is_told_from_a_torn_tail(tmp_path: Path) -> None:
    """Any damaged byte before the last frame is damage, in its length too; a tail cut at any byte is none."""
    whole = write_spool(tmp_path / "spool", FRAMES).read_bytes()
    start = len(write_spool(tmp_path / "empty", []).read_bytes())
    last = len(whole) - len(write_spool(tmp_path / "all_but_the_last", FRAMES[:-1]).read_bytes())
    for position in range(start, len(whole) - last):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        (tmp_path / "damaged").write_bytes(damaged)
        with SpoolReader(tmp_path / "damaged") as reader:
            list(reader.frames())
            assert reader.is_damaged()
    for cut in range(start, len(whole) + 1):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with SpoolReader(tmp_path / "cut") as reader:
            list(reader.frames())
            assert not reader.is_damaged()


def test_looking_for_damage_takes_nothing_away(tmp_path: Path) -> None:
    """A frame that arrives just before the look is still yielded after it."""
    writer = SpoolWriter(tmp_path / "spool", HEADER)
    with SpoolReader(tmp_path / "spool") as reader:
        assert list(reader.frames()) == []
        writer.write(GROUPS)
        assert not reader.is_damaged()
        assert list(reader.frames()) == [GROUPS]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 200), max_size=30))
def test_a_growing_spool_is_read_to_its_end(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    """A reader that follows the writer, byte chunk by byte chunk, sees every frame once."""
    folder = tmp_path_factory.mktemp("spool")
    whole = write_spool(folder / "spool", FRAMES).read_bytes()
    start = len(write_spool(folder / "empty", []).read_bytes())
    growing = folder / "growing"
    growing.write_bytes(whole[:start])
    seen: list[Frame] = []
    with SpoolReader(growing) as reader, growing.open("ab") as file:
        for size in [*sizes, len(whole)]:
            file.write(whole[start : start + size])
            file.flush()
            start += size
            seen += reader.frames()
    assert seen == FRAMES


def test_a_tail_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    """A reader that has met a torn frame sees what is later written in its place."""
    path = write_spool(tmp_path / "spool", [GROUPS])
    size = path.stat().st_size
    with path.open("ab") as file, SpoolReader(path) as reader:
        file.write(b"\x10\x00\x00\x00torn")
        file.flush()
        assert list(reader.frames()) == [GROUPS]
        os.truncate(path, size)
        whole = write_spool(tmp_path / "other", [GROUPS, FRAMES[1]]).read_bytes()
        with path.open("ab") as again:
            again.write(whole[size:])
        assert list(reader.frames()) == [FRAMES[1]]


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A file that is no spool is named, with what was found in it."""
    (tmp_path / "x").write_bytes(b"PK\x03\x04")

    with pytest.raises(SpoolError, match=r"must begin with .* but begins with b'PK"):
        SpoolReader(tmp_path / "x")
    (tmp_path / "y").write_bytes(MAGIC)
    with pytest.raises(SpoolError, match="header"):
        SpoolReader(tmp_path / "y")


@contextlib.contextmanager
def full_disk(writer: SpoolWriter, room: int) -> Iterator[None]:
    """No file may grow further than `room` bytes beyond the size that the spool has now."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer.size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def records(n: int) -> list[Frame]:
    return [Record(0, step, step, [0.1, 0.2]) for step in range(n)]


@pytest.mark.parametrize("room", [0, 10, 100])
def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path: Path, room: int) -> None:
    """What the disk refuses, or takes half of, is held, and written in its order as soon as there is room."""
    writer = SpoolWriter(tmp_path / "spool", HEADER)
    assert writer.write(GROUPS)
    frames = records(1000)
    with full_disk(writer, room):
        assert all(writer.write(frame) for frame in frames[:700])
        assert writer.lost > 690
        with SpoolReader(tmp_path / "spool") as reader:
            seen = list(reader.frames())
        assert seen == [GROUPS, *frames[: len(seen) - 1]]
    assert all(writer.write(frame) for frame in frames[700:])
    writer.end(Status.FINISHED)
    writer.close()

    assert writer.lost == 0
    with SpoolReader(tmp_path / "spool") as reader:
        assert list(reader.frames()) == [GROUPS, *frames, End(Status.FINISHED)]


def test_a_disk_that_stays_full_costs_frames_and_nothing_else(tmp_path: Path) -> None:
    """The frames that never fitted are counted, in the last frame too, and those around them stay readable."""
    writer = SpoolWriter(tmp_path / "spool", HEADER)
    assert writer.write(GROUPS)
    long = Point("k" * 200, 0, 0, 0.0)
    with full_disk(writer, 100):
        for frame in (FRAMES[1], long, FRAMES[1]):
            assert writer.write(frame)
        writer.end(Status.FAILED, 2.5)
    writer.close()

    assert (writer.lost, writer.error is not None) == (2, True)
    with SpoolReader(tmp_path / "spool") as reader:
        assert list(reader.frames()) == [GROUPS, FRAMES[1], End(Status.FAILED, 2.5, lost=2)]


def test_what_is_held_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stays full for days does not fill the memory: what is too much is refused, and counted."""
    monkeypatch.setattr("lrtape.spool.MAX_HELD_BYTES", 1000)
    writer = SpoolWriter(tmp_path / "spool", HEADER)
    with full_disk(writer, 0):
        taken = [writer.write(frame) for frame in records(100)]
    assert taken == sorted(taken, reverse=True)
    assert 0 < sum(taken) < 50
    assert writer.lost == 100


def test_a_deleted_spool_is_written_anew(tmp_path: Path) -> None:
    """As long as its writer lives, the file can be had again, with all that is in it."""
    path = tmp_path / "folder" / "spool"
    path.parent.mkdir()
    writer = SpoolWriter(path, HEADER)
    assert writer.is_there()
    shutil.rmtree(path.parent)
    assert not writer.is_there()
    for frame in FRAMES:
        writer.write(frame)
    writer.restore()
    writer.close()

    with SpoolReader(path) as reader:
        assert list(reader.frames()) == FRAMES


@settings(max_examples=200)
@given(
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=4),
    garbage=st.binary(max_size=60),
)
def test_any_damage_leaves_the_intact_prefix(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]], garbage: bytes
) -> None:
    """Truncated, flipped and followed by garbage: every frame before the damage, no value that was not written."""
    folder = tmp_path_factory.mktemp("spool")
    whole = write_spool(folder / "spool", FRAMES).read_bytes()
    damaged = bytearray(whole[:cut])
    for position, mask in flips:
        if position < len(damaged):
            damaged[position] ^= mask
    damaged += garbage
    (folder / "damaged").write_bytes(damaged)
    intact = next((i for i, (a, b) in enumerate(zip(whole, damaged, strict=False)) if a != b), len(damaged))
    try:
        with SpoolReader(folder / "damaged") as reader:
            read = list(reader.frames())
            reader.is_damaged()
    except SpoolError:
        assert intact < len(write_spool(folder / "header", []).read_bytes())
        return
    assert read == FRAMES[: len(read)]
    n_whole = 0
    while (
        n_whole < len(FRAMES) and len(write_spool(folder / f"{n_whole}", FRAMES[: n_whole + 1]).read_bytes()) <= intact
    ):
        n_whole += 1
    assert len(read) >= n_whole

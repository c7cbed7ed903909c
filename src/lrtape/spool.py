"""The spool: the append-only file that stands between a training process and its shipper.

A spool begins with `MAGIC` and goes on in frames::

    length   uint32, little-endian   bytes of the payload
    crc32    uint32, little-endian   of kind and payload
    kind     uint8                   one of the ``Kind`` values
    payload  MessagePack             see ``Kind``

Every frame is one unbuffered append, so a process that is killed loses nothing that a finished step recorded. A reader
stops at the first frame that is not whole and never guesses. No credential is ever written into a spool.
"""

import enum
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from lrtape.errors import SpoolError
from lrtape.tape import Finding, GroupLayout, Point, Record, Status, Tape

MAGIC = b"LRTAPE\x00\x01"
"""Six letters, a zero, and the version of the format."""

_PREFIX = struct.Struct("<IIB")
_pack_prefix = _PREFIX.pack
_MAX_PAYLOAD_BYTES = 1 << 26
_READ_BYTES = 1 << 20


class Kind(enum.IntEnum):
    """What a frame holds; the payload is the MessagePack of the noun of that name, fields in order."""

    HEADER = 0
    GROUP_LAYOUT = 1
    RECORD = 2
    POINT = 3
    FINDING = 4
    END = 5


@dataclass(frozen=True, slots=True)
class Header:
    """The first frame: where all the others belong.

    Attributes:
        run_id: of an MLflow run.
        owns_run: whether the recording started the run, and ends it.
        tracking_uri: where that run is, credentials masked.
        created_ms: when the recording began, in Unix milliseconds.
    """

    run_id: str
    owns_run: bool
    tracking_uri: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class End:
    """The last frame of a recording that was ended. Without one the recording goes on, or its process was killed."""

    status: Status


Frame = Header | GroupLayout | Record | Point | Finding | End

_KIND_OF: dict[type, Kind] = {
    Header: Kind.HEADER,
    GroupLayout: Kind.GROUP_LAYOUT,
    Record: Kind.RECORD,
    Point: Kind.POINT,
    Finding: Kind.FINDING,
    End: Kind.END,
}
_DECODER: dict[int, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(noun) for noun, kind in _KIND_OF.items()
}
_CRC_OF_KIND: dict[int, int] = {kind: crc32(bytes([kind])) for kind in Kind}
_KIND_AND_CRC_OF = {noun: (int(kind), _CRC_OF_KIND[kind]) for noun, kind in _KIND_OF.items()}

_encode = msgspec.msgpack.Encoder().encode


def _frame(kind: Kind, payload: bytes) -> bytes:
    return _pack_prefix(len(payload), crc32(payload, _CRC_OF_KIND[kind]), kind) + payload


def _parse(data: bytes, position: int) -> Frame | None:
    """The frame that begins at `position`, if it is whole and its checksum is right."""
    if len(data) - position < _PREFIX.size:
        return None
    length, crc, kind = _PREFIX.unpack_from(data, position)
    begin = position + _PREFIX.size
    if kind not in _DECODER or begin + length > len(data):
        return None
    payload = data[begin : begin + length]
    if crc32(payload, _CRC_OF_KIND[kind]) != crc:
        return None
    try:
        frame: Frame = _DECODER[kind].decode(payload)
    except msgspec.DecodeError:
        return None
    return frame


class SpoolWriter:
    """Appends frames to a new spool. Called by the training thread; one `write` per frame, unbuffered.

    A write that fails (disk full, say) does not raise: the frame is dropped, the file is cut back to its last whole
    frame, and `error` and `lost` tell about it. The next write tries again.

    Args:
        path: the file to create; it must not exist.
        header: the first frame.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # for as long as this process lives: others see that it does
        self.lost = 0
        self.error: OSError | None = None
        first = MAGIC + _frame(Kind.HEADER, _encode(header))
        if os.write(self._fd, first) != len(first):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._path.stat().st_size

    def write(self, frame: Frame) -> bool:
        """Append one frame and say whether it is in the file. Most of its cost is one system call."""
        # _frame(), without the call: this runs in every step.
        kind, crc = _KIND_AND_CRC_OF[type(frame)]
        payload = _encode(frame)
        data = _pack_prefix(len(payload), crc32(payload, crc), kind) + payload
        try:
            written = os.write(self._fd, data)
            if written == len(data):
                return True
            # What follows a torn frame could never be read.
            os.ftruncate(self._fd, self.size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.lost += 1
            self.error = error
            return False

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Batch(NamedTuple):
    """Points to send, and the offset of the spool in bytes up to which they reach: what to acknowledge afterwards."""

    points: list[Point]
    offset: int


class SpoolReader:
    """Reads a spool from its beginning, also while it grows.

    Args:
        path: a spool.

    Raises:
        SpoolError: the file is not a spool of this version.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._buffer = b""
        self._position = 0
        self._keys: dict[int, list[str]] = {}
        self.offset = len(MAGIC)
        self.end: Status | None = None
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            self.close()
            raise SpoolError(
                f"{path} must begin with {MAGIC!r}, but begins with {magic!r} instead: it is not a spool, or it was "
                "written by another version of lrtape. Read it with the version that wrote it."
            )
        header = next(self.frames(), None)
        if not isinstance(header, Header):
            self.close()
            raise SpoolError(f"{path} must have a whole header after its first bytes, but has none: it is damaged.")
        self.header = header

    def frames(self) -> Iterator[Frame]:
        """Yield every whole frame that is there and was not yielded before; `offset` is then behind the last one.

        Stops, without an error, at a frame that is torn or whose checksum is wrong.
        """
        while (frame := self._next()) is not None:
            if isinstance(frame, GroupLayout):
                self._keys[frame.optimizer_index] = [group.key for group in frame.groups]
            elif isinstance(frame, End):
                self.end = frame.status
            yield frame
        # A torn frame may yet be cut off and written again: read its bytes anew next time.
        self._buffer, self._position = b"", 0

    def _next(self) -> Frame | None:
        if not self._buffered(_PREFIX.size):
            return None
        length = _PREFIX.unpack_from(self._buffer, self._position)[0]
        if length > _MAX_PAYLOAD_BYTES or not self._buffered(_PREFIX.size + length):
            return None
        frame = _parse(self._buffer, self._position)
        if frame is not None:
            self._position += _PREFIX.size + length
            self.offset += _PREFIX.size + length
        return frame

    def _buffered(self, n_bytes: int) -> bool:
        """Have `n_bytes` of the next frame in the buffer, if the file has them."""
        if len(self._buffer) - self._position < n_bytes:
            kept = self._buffer[self._position :]
            self._file.seek(self.offset + len(kept))
            self._buffer = kept + self._file.read(max(n_bytes, _READ_BYTES))
            self._position = 0
        return len(self._buffer) - self._position >= n_bytes

    def is_damaged(self) -> bool:
        """Whether there is a whole frame somewhere behind the next one, which itself cannot be read.

        Then the next one is no torn tail, which its writer may cut off, and which has nothing behind it.
        """
        self._file.seek(self.offset)
        rest = self._file.read()
        if _parse(rest, 0) is not None:
            return False
        return any(_parse(rest, position) is not None for position in range(1, len(rest) - _PREFIX.size + 1))

    def points_of(self, frame: Frame) -> list[Point]:
        """The rows that a frame means for a tracking store; none for a frame that is not about values."""
        if isinstance(frame, Record):
            keys = self._keys[frame.optimizer_index]
            return [Point(key, frame.step, frame.time_ms, lr) for key, lr in zip(keys, frame.lrs, strict=True)]
        return [frame] if isinstance(frame, Point) else []

    def skip_to(self, offset: int) -> None:
        """Read up to `offset`, for the names of the groups, without returning any points."""
        if offset <= self.offset:
            return
        for _ in self.frames():
            if self.offset >= offset:
                break

    def batch(self, max_points: int) -> Batch:
        """Read on until at least `max_points` points are together, or nothing more is there."""
        points: list[Point] = []
        for frame in self.frames():
            points += self.points_of(frame)
            if len(points) >= max_points:
                break
        return Batch(points, self.offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "SpoolReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_spool(path: Path) -> Tape:
    """Read a whole spool as a `Tape`.

    Raises:
        SpoolError: the file is not a spool of this version.
        FileNotFoundError: there is no such file.
    """
    with SpoolReader(path) as reader:
        return Tape(point for frame in reader.frames() for point in reader.points_of(frame))

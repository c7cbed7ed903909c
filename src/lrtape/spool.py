"""The spool: the append-only file that stands between a training process and its shipper.

A spool begins with `MAGIC` and goes on in frames::

    length   uint32, little-endian   bytes of the payload
    crc32    uint32, little-endian   of kind and payload
    kind     uint8                   one of the ``Kind`` values
    payload  MessagePack             see ``Kind``

Every frame is one unbuffered append, so a process that is killed loses nothing that a finished step recorded. A reader
stops at the first frame that is not whole and never guesses. No credential is ever written into a spool.
"""

import contextlib
import enum
import errno
import fcntl
import os
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from lrtape.errors import SpoolError
from lrtape.recording_options import EVERY_STEP
from lrtape.tape import Finding, GroupLayout, Point, Record, Status, Tape, Verdict

MAGIC = b"LRTAPE\x00\x01"
"""Six letters, a zero, and the version of the format."""

_PREFIX = struct.Struct("<IIB")
_pack_prefix = _PREFIX.pack
_write = os.write  # looked up once, and not in every step
_MAX_PAYLOAD_BYTES = 1 << 26
MAX_HELD_BYTES = 1 << 26
"""Half a million steps of four groups."""
MAX_HELD_FRAMES_A_WRITE = 256
"""About 0.3 ms."""
_READ_BYTES = 1 << 20


class Kind(enum.IntEnum):
    """What a frame holds; the payload is the MessagePack of the noun of that name, fields in order."""

    HEADER = 0
    GROUP_LAYOUT = 1
    RECORD = 2
    POINT = 3
    FINDING = 4
    END = 5
    VERDICT = 6
    MARK = 7


@dataclass(frozen=True, slots=True)
class Header:
    """The first frame: where all the others belong.

    Attributes:
        run_id: of an MLflow run; empty for a run that is still to be created, see `lrtape.tracking.planned_run`.
        owns_run: whether the recording started the run, and ends it.
        tracking_uri: where that run is, credentials masked.
        created_ms: when the recording began, in Unix milliseconds.
        recording_id: eight hex digits; a run may have several recordings: one that was resumed, say.
        keep: whether the spool shall stay when everything is stored.
        record: which learning rates the tracking store gets, ``every_step`` or ``changes``; the spool has all.
        lr_log10: whether it gets the logarithm of each, too.
    """

    run_id: str
    owns_run: bool
    tracking_uri: str
    created_ms: int
    recording_id: str = ""
    keep: bool = False
    record: str = EVERY_STEP
    lr_log10: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The last frame of a recording that was ended. Without one the recording goes on, or its process was killed.

    Attributes:
        status: how the training ended.
        us_per_step: what recording one step took on the training thread, in microseconds: the median of samples;
            ``None`` without any.
        lost: number of frames that could never be written.
        error: the exception that has ended the training, credentials masked; empty for none.
    """

    status: Status
    us_per_step: float | None = None
    lost: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Says that the steps made last are to be in the tracking store, whether an lr has changed or not.

    Attributes:
        step: index of the last step of the first optimizer, from 0.
    """

    step: int


Frame = Header | GroupLayout | Record | Point | Finding | End | Verdict | Mark

_KIND_OF: dict[type, Kind] = {
    Header: Kind.HEADER,
    GroupLayout: Kind.GROUP_LAYOUT,
    Record: Kind.RECORD,
    Point: Kind.POINT,
    Finding: Kind.FINDING,
    Verdict: Kind.VERDICT,
    End: Kind.END,
    Mark: Kind.MARK,
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

    A write that fails (disk full, say) does not raise: the file is cut back to its last whole frame, and the frame is
    held in memory, with all that follow it, until a later write succeeds. Only what is over `MAX_HELD_BYTES`, or is
    still held at `close`, is lost; `lost` and `error` tell about it.

    Args:
        path: the file to create; it must not exist.
        header: the first frame.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        # Readable too, for `restore`.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # for as long as this process lives: others see that it does
        self.error: OSError | None = None
        self._n_refused = 0
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._whole_bytes: int | None = None
        self._size = 0
        self._append(MAGIC + _frame(Kind.HEADER, _encode(header)))

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; in a forked child it was."""
        return self._fd < 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._fd).st_size if self._fd >= 0 else self._size

    @property
    def lost(self) -> int:
        """How many frames are not in the file."""
        return self._n_refused + len(self._held)

    def write(self, frame: Frame) -> bool:
        """Append one frame and say whether it is safe. Most of its cost is one system call."""
        # _frame() and _append(), without the calls: this runs in every step.
        payload = _encode(frame)
        kind, crc = _KIND_AND_CRC_OF[type(frame)]
        data = _pack_prefix(len(payload), crc32(payload, crc), kind) + payload
        if self._held:
            return self._hold(data) and self._write_held()
        try:
            written = _write(self._fd, data)
        except OSError as error:
            self.error = error
            return self._hold(data)
        if written == len(data):
            return True
        self._cut_off(written)
        return self._hold(data)

    def _append(self, data: bytes) -> None:
        if self._whole_bytes is not None:
            os.ftruncate(self._fd, self._whole_bytes)
            self._whole_bytes = None
        written = os.write(self._fd, data)
        if written < len(data):
            self._cut_off(written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _cut_off(self, torn_bytes: int) -> None:
        """Cut the file back to its last whole frame: what follows a torn one could never be read."""
        self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._whole_bytes = self.size - torn_bytes  # what _append() does again, should it fail here
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._whole_bytes)

    def _hold(self, data: bytes) -> bool:
        if self._fd < 0 or self._held_bytes + len(data) > MAX_HELD_BYTES:
            self._n_refused += 1
            return False
        self._held.append(data)
        self._held_bytes += len(data)
        return True

    def _write_held(self) -> bool:
        """Write what is held, in order, as far as it goes; not so much at once that the training would notice."""
        try:
            for _ in range(min(MAX_HELD_FRAMES_A_WRITE, len(self._held))):
                self._append(self._held[0])
                self._held_bytes -= len(self._held.popleft())
        except OSError as error:
            self.error = error
        return True

    def tend(self) -> None:
        """Try to write what is held. Does not raise."""
        if self._held:
            self._write_held()

    def end(self, status: Status, us_per_step: float | None = None, error: str = "") -> End:
        """Write whatever is still held, and the last frame; nothing may follow. Does not raise.

        Returns:
            The last frame, which itself may not have fitted.
        """
        before = None
        while self._held and len(self._held) != before:
            before = len(self._held)
            self._write_held()
        self._n_refused += len(self._held)
        self._held.clear()
        end = End(status, us_per_step, self._n_refused, error)
        try:
            self._append(_frame(Kind.END, _encode(end)))
        except OSError as failure:
            self.error = failure
        return end

    def is_there(self) -> bool:
        """Whether the file still has its name: somebody may have deleted it."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except OSError:
            return False

    def restore(self) -> None:
        """Write a file that was deleted anew: this process still has it open.

        Raises:
            OSError: it cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        with new.open("wb") as copy:
            position = 0
            while data := os.pread(self._fd, _READ_BYTES, position):
                position += copy.write(data)
        new.replace(self._path)

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            self._size = self.size
            os.close(self._fd)
            self._fd = -1


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
        self.end: End | None = None
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
                self.end = frame
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
        """What a frame has recorded; nothing, for a frame that is not about values."""
        if isinstance(frame, Record):
            keys = self._keys[frame.optimizer_index]
            return [Point(key, frame.step, frame.time_ms, lr) for key, lr in zip(keys, frame.lrs, strict=True)]
        return [frame] if isinstance(frame, Point) else []

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

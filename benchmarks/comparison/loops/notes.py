"""What a training notes by itself, step by step, so that it outlives a SIGKILL: what it used, and when."""

import mmap
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

N_GROUPS = 4

_COUNT = struct.Struct("<q")
_ROW = struct.Struct(f"<5q{N_GROUPS}d")


class Notes:
    """A shared mapping of a file: how many updates were made, and a row for each. Written by the training thread.

    A row costs about three microseconds, most of it for reading the clock of the thread four times: the same with
    recording and without.

    Args:
        path: of the file, which is made.
        n_steps: as many rows as there is room for.
    """

    def __init__(self, path: Path, n_steps: int) -> None:
        with path.open("wb+") as file:
            file.truncate(_COUNT.size + n_steps * _ROW.size)
            self._map = mmap.mmap(file.fileno(), 0)
        self._n = 0
        self._forward_ns = self._backward_ns = self._update_ns = 0

    def begin_forward(self) -> None:
        """The model begins to compute."""
        self._forward_ns = time.thread_time_ns()

    def end_backward(self) -> None:
        """A last gradient is there; of several calls the latest counts."""
        self._backward_ns = time.thread_time_ns()

    def begin_update(self) -> None:
        """The optimizer begins to update."""
        self._update_ns = time.thread_time_ns()

    def end_update(self, lrs: Sequence[float]) -> None:
        """The update is made, with these learning rates."""
        updated_ns = time.thread_time_ns()
        offset = _COUNT.size + self._n * _ROW.size
        marks = (self._forward_ns, self._backward_ns, self._update_ns, updated_ns, time.perf_counter_ns())
        _ROW.pack_into(self._map, offset, *marks, *lrs)
        self._n += 1
        _COUNT.pack_into(self._map, 0, self._n)


@dataclass(frozen=True, slots=True)
class Step:
    """A row.

    Attributes:
        updated_cpu_ns: CPU time of the training thread when the update was made.
        computing_cpu_ns: of the step, what forward and backward pass and the update took of it.
        updated_ns: ``time.perf_counter_ns()`` then, which is the same clock in all processes.
        lrs: that were used.
    """

    updated_cpu_ns: int
    computing_cpu_ns: int
    updated_ns: int
    lrs: tuple[float, ...]


class NotesReader:
    """Reads what another process notes, while it does."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @classmethod
    def when_there(cls, path: Path) -> Self | None:
        """A reader, as soon as the file has its length."""
        return cls(path) if path.exists() and path.stat().st_size > _COUNT.size else None

    @property
    def n_updates(self) -> int:
        """How many updates were made."""
        return int(_COUNT.unpack_from(self._map)[0])

    def steps(self) -> list[Step]:
        """The rows so far."""
        found = []
        for index in range(self.n_updates):
            forward, backward, update, updated, wall, *lrs = _ROW.unpack_from(
                self._map, _COUNT.size + index * _ROW.size
            )
            found.append(Step(updated, (backward - forward) + (updated - update), wall, tuple(lrs)))
        return found

"""The truth: what a training used, by its own account, step by step."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

GROUPS = ("first", "second", "third", "fourth")

_STEP = struct.Struct(f"<q{len(GROUPS)}d")


def pack_step(step: int, lrs: Sequence[float]) -> bytes:
    """One step and the lr that each group used in it, for the file."""
    return _STEP.pack(step, *lrs)


def steps_in(path: Path) -> int:
    """How many steps are in the file."""
    return path.stat().st_size // _STEP.size if path.exists() else 0


@dataclass(frozen=True)
class Truth:
    """What a training used.

    Attributes:
        lrs: for each key of a metric, the lr of every step, from step 0 on.
        one_more: whether the training may have taken one more step than it could note.
    """

    lrs: dict[str, list[float]]
    one_more: bool = False

    @classmethod
    def load(cls, path: Path, one_more: bool = False) -> Self:
        """Read what a training has written."""
        data = path.read_bytes()
        rows = [_STEP.unpack_from(data, index * _STEP.size) for index in range(len(data) // _STEP.size)]
        assert [row[0] for row in rows] == list(range(len(rows)))
        return cls({f"lr/{name}": [row[1 + index] for row in rows] for index, name in enumerate(GROUPS)}, one_more)

    @property
    def n_steps(self) -> int:
        """How many steps were taken, as far as they were noted."""
        return max(map(len, self.lrs.values()), default=0)

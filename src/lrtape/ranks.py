"""Which process of a training this is, and the notes that such processes leave for each other.

``torchrun`` starts several processes that train one model together, each with a *rank*, counted from 0. lrtape never
makes one wait for another: it issues no collective, which would hang where not every rank takes part.
"""

import datetime
import os
import sys
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # torch 2.13

NOTE_TIMEOUT_S = 5.0
"""For the store to answer at all; it takes 0.1 ms."""


class Ranks(NamedTuple):
    """Which process this is.

    Attributes:
        rank: of this process, from 0.
        n_ranks: how many processes train together.
    """

    rank: int
    n_ranks: int

    @property
    def records(self) -> bool:
        """Whether this process is the one that opens the run, records and prints."""
        return self.rank == 0


ALONE = Ranks(0, 1)


def these_ranks() -> Ranks:
    """Of the default process group where there is one, else what ``torchrun`` has put into the environment.

    Imports nothing: a process that has not imported torch has no process group.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    try:
        ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    except (KeyError, ValueError):
        return ALONE
    return ranks if 0 <= ranks.rank < ranks.n_ranks else ALONE


class Board:
    """Where the processes of a training leave notes for each other: the key-value store of the default process group.

    Every method asks the store, which takes 0.1 ms on one machine, and raises whatever the store raises. None waits for
    a note that is not there.

    Args:
        store: of the process group. A connection of its own is made to it, where torch can (2.7 and later).
        topic: notes of different topics do not meet.
    """

    def __init__(self, store: "Store", topic: str) -> None:
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # torch 2.13

        if hasattr(store, "clone"):
            store = store.clone()
            store.set_timeout(datetime.timedelta(seconds=NOTE_TIMEOUT_S))
        self._store = PrefixStore(f"lrtape/{topic}", store)

    @classmethod
    def find(cls, topic: str) -> Self | None:
        """The board of this training; ``None`` as long as there is no process group."""
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return None
        from torch.distributed.distributed_c10d import _get_default_store  # the only way there (torch 2.13)

        return cls(_get_default_store(), topic)

    def put(self, key: str, note: bytes) -> None:
        """Leave a note, in the place of an older one. Does not wait for the store: takes 2 us."""
        self._store.set(key, note)  # type: ignore[arg-type]  # bytes are as good as text (torch 2.13)

    def read(self, key: str) -> bytes | None:
        """The note, if there is one."""
        return bytes(self._store.get(key)) if self._store.check([key]) else None

    def count(self, key: str, one_more: bool = False) -> int:
        """Add 1 if `one_more`; returns the total over all ranks."""
        return int(self._store.add(key, int(one_more)))

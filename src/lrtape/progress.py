"""The folder of a spool: who works on it, and how far its shipper has come."""

import contextlib
import dataclasses
import fcntl
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SPOOL = "spool"
PROGRESS = "progress.json"
LOG = "shipper.log"
LOCK = "shipper.lock"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the store has acknowledged; kept beside the spool, replaced in one piece after every batch.

    Attributes:
        offset: bytes of the spool whose points are all stored.
        points: how many that are.
        error: why nothing more was sent, if something is wrong; credentials masked.
        refused: whether the store refused for good, so that there is no use in trying again as things are.
    """

    offset: int = 0
    points: int = 0
    error: str = ""
    refused: bool = False

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the progress of a spool's folder; none where nothing was sent yet."""
        try:
            return cls(**json.loads((folder / PROGRESS).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()  # Sending again is harmless; believing a damaged file is not.

    def save(self, folder: Path) -> None:
        """Write it; a reader sees the old or the new one, never half of it."""
        new = folder / f"{PROGRESS}.new"
        try:
            new.write_text(json.dumps(dataclasses.asdict(self)))
            new.replace(folder / PROGRESS)
        except OSError as error:
            _log.warning("cannot save the progress, so more than needed may be sent again: %s", error)


@contextlib.contextmanager
def only_shipper(folder: Path) -> Iterator[None]:
    """Be the only process that ships this folder; the claim ends with the block, or with the process.

    Raises:
        BlockingIOError: another process ships it now.
    """
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_recording(folder: Path) -> bool:
    """Whether the writer of the spool in this folder still lives; it holds a lock on the spool as long as it does."""
    with (folder / SPOOL).open("rb") as spool:
        try:
            fcntl.flock(spool, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

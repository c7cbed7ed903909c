"""The folder of a spool, and how far its shipper has come."""

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SPOOL = "spool"
PROGRESS = "progress.json"
LOG = "shipper.log"

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

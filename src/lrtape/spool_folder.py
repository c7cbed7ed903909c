"""The folder of one spool: the spool, how far it is shipped, and who works on it."""

import contextlib
import dataclasses
import fcntl
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the store has acknowledged; replaced in one piece after every batch.

    Attributes:
        offset: bytes of the spool whose points are all stored.
        points: number of points up to `offset`.
        error: why nothing more could be sent, credentials masked; empty while all is well.
        refused: whether the store has refused for good.
    """

    offset: int = 0
    points: int = 0
    error: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class SpoolFolder:
    """One folder in ``.lrtape``: made by the training process, shared with its shipper, removed when all is stored."""

    path: Path

    @classmethod
    def create(cls, root: Path, run_id: str) -> Self:
        """Make a new folder for a tape of this run.

        Raises:
            OSError: it cannot be made.
        """
        path = (root / f"{run_id}-{uuid.uuid4().hex[:8]}").absolute()
        path.mkdir(parents=True)
        return cls(path)

    @classmethod
    def find(cls, root: Path) -> list[Self]:
        """Every spool folder in `root`, in order of their names; or `root` itself, if it is one."""
        if cls(root).spool.exists():
            return [cls(root)]
        return [cls(spool.parent) for spool in sorted(root.glob("*/spool"))]

    @property
    def spool(self) -> Path:
        """What was recorded; see ``spool.py``."""
        return self.path / "spool"

    @property
    def log(self) -> Path:
        """What the shipper process had to say."""
        return self.path / "shipper.log"

    @property
    def progress_file(self) -> Path:
        """The `Progress`, as JSON."""
        return self.path / "progress.json"

    def load_progress(self) -> Progress:
        """Read the progress; none where nothing was sent yet."""
        try:
            return Progress(**json.loads(self.progress_file.read_text()))
        except (OSError, ValueError, TypeError):
            return Progress()  # Sending again is harmless; believing a damaged file is not.

    def save_progress(self, progress: Progress) -> None:
        """Write the progress; a reader sees the old or the new one, never half of it. Does not raise."""
        new = self.progress_file.with_suffix(".new")
        try:
            new.write_text(json.dumps(dataclasses.asdict(progress)))
            new.replace(self.progress_file)
        except OSError as error:
            _log.warning("cannot save the progress, so more than needed may be sent again: %s", error)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Claim this folder for shipping; the claim ends with the block, or with the process.

        Raises:
            BlockingIOError: another process ships it now.
        """
        with (self.path / "shipper.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def is_recording(self) -> bool:
        """Whether the writer of the spool is alive; it holds a lock on the spool as long as it is."""
        with self.spool.open("rb") as spool:
            try:
                fcntl.flock(spool, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def abandon(self) -> None:
        """Say that nobody waits for this folder any more: whoever ships the last of it removes it. Does not raise."""
        with contextlib.suppress(OSError):
            (self.path / "abandoned").touch()

    def is_abandoned(self) -> bool:
        """Whether `abandon` was called."""
        return (self.path / "abandoned").exists()

    def remove(self) -> None:
        """Remove the folder with all that is in it. Does not raise: what remains does no harm."""
        shutil.rmtree(self.path, ignore_errors=True)

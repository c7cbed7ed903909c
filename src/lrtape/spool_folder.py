"""The folder of one spool: the spool, how far it is shipped, and who works on it."""

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import msgspec

from lrtape.errors import ConfigError
from lrtape.tape import Status

_log = logging.getLogger(__name__)

_TRAINING = "training.lock"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the store has acknowledged; replaced in one piece after every batch.

    Attributes:
        offset: bytes of the spool whose points are all stored, but for those of `refused_keys`.
        points: number of stored points up to `offset`.
        error: why not everything could be stored, credentials masked; empty while all is well.
        refused: whether the store refuses for good, and a person must mend something.
        refused_keys: the keys whose values alone the store refuses.
        compared: whether what is stored was compared with the spool.
        rest_sent: whether the last steps of a recording that ended without a word are stored, too; see
            `lrtape.selection.Selection.rest`.
        complete: whether everything is stored and was compared; the spool is there only because it shall be kept.
        run_id: of a run that the spool does not know, as it was created later.
    """

    offset: int = 0
    points: int = 0
    error: str = ""
    refused: bool = False
    refused_keys: tuple[str, ...] = ()
    compared: bool = False
    rest_sent: bool = False
    complete: bool = False
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class SpoolFolder:
    """One folder in ``.lrtape``: made by the training process, shared with its shipper, removed when all is stored."""

    path: Path

    @classmethod
    def create(cls, root: Path, name: str) -> Self:
        """Make a new folder for one recording, called `name` and a `recording_id`.

        Raises:
            ConfigError: it cannot be made.
        """
        path = (root / f"{name}-{uuid.uuid4().hex[:8]}").absolute()
        try:
            path.mkdir(parents=True)
            cls(path)._lock.touch()
        except OSError as error:
            raise ConfigError(f"`folder` must be a place where lrtape can write, but is not ({error}).") from error
        return cls(path)

    def renamed(self, name: str) -> Self:
        """The same folder, called `name` and its `recording_id` from now on, if that can be; before it is claimed."""
        path = self.path.with_name(f"{name}-{self.recording_id}")
        try:
            self.path.rename(path)
        except OSError:
            return self
        return type(self)(path)

    @property
    def recording_id(self) -> str:
        """Eight hex digits; of a new folder only, for anybody may rename it later."""
        return self.path.name.rpartition("-")[2]

    @classmethod
    def find(cls, root: Path) -> list[Self]:
        """Every spool folder in `root`, in order of their names; or `root` itself, if it is one."""
        if cls(root).spool.exists():
            return [cls(root)]
        return [cls(spool.parent) for spool in sorted(root.glob("*/spool"))]

    @classmethod
    def find_unrecorded(cls, root: Path) -> list[Self]:
        """As `find`, those that were made for a run and have no spool: nothing was recorded, or not yet."""
        if cls(root).spool.exists():
            return []
        locks = [cls(root)._training_lock] if cls(root)._training_lock.exists() else sorted(root.glob(f"*/{_TRAINING}"))
        folders = [cls(lock.parent) for lock in locks]
        return [folder for folder in folders if folder.run_spec.exists() and not folder.spool.exists()]

    @property
    def rescue_command(self) -> str:
        """What a person runs to have it shipped."""
        return f"lrtape recover {shlex.quote(str(self.path))}"

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

    @property
    def run_spec(self) -> Path:
        """What the run is to be created with, as JSON; see ``tracking/run_spec.py``."""
        return self.path / "run.json"

    @property
    def artifacts(self) -> Path:
        """The folder of artifacts that are still to be uploaded."""
        return self.path / "artifacts"

    def save_tags(self, tags: Mapping[str, str]) -> None:
        """Keep the tags that the run is to get before it ends; a reader sees the old or the new ones.

        Raises:
            OSError: the disk is full, say.
        """
        new = self._tags.with_suffix(".new")
        self.path.mkdir(parents=True, exist_ok=True)  # Somebody may have deleted it.
        new.write_bytes(msgspec.json.encode(tags))
        new.replace(self._tags)

    def load_tags(self) -> dict[str, str]:
        """Those that `save_tags` has kept; none where there are none, or where they cannot be read."""
        try:
            return msgspec.json.decode(self._tags.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}

    @property
    def environment(self) -> Path:
        """What the training runs on, as JSON."""
        return self.path / "environment.json"

    @property
    def model(self) -> Path:
        """The folder of the run's model, if it is to have one; see ``tracking/saved_model.py``."""
        return self.path / "model"

    @contextlib.contextmanager
    def model_is_due(self) -> Iterator[None]:
        """While the training makes that model, after its last step: its shipper waits for it before it ends the run.

        Where the block is left by an exception, that tells how the training has ended.
        """
        with contextlib.suppress(OSError):  # a full disk, or a folder that was deleted: then nobody waits
            self._model_due.touch()
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._model_due.write_text(Status.after(error))
            raise
        with contextlib.suppress(OSError):
            self._model_due.unlink()

    def model_due(self) -> str | None:
        """``None`` where no model is to come, empty while it is made, else how the training ended instead."""
        try:
            return self._model_due.read_text()
        except OSError:
            return None

    def load_progress(self) -> Progress:
        """Read the progress; none where nothing was sent yet."""
        try:
            return msgspec.json.decode(self.progress_file.read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError):
            return Progress()  # Sending again is harmless; believing a damaged file is not.

    def save_progress(self, progress: Progress) -> None:
        """Write the progress; a reader sees the old or the new one, never half of it. Does not raise."""
        new = self.progress_file.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(progress))
            new.replace(self.progress_file)
        except OSError as error:
            _log.warning("cannot save the progress, so more than needed may be sent again: %s", error)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Claim this folder for shipping; the claim ends with the block, or with the process.

        Raises:
            BlockingIOError: another process ships it now.
        """
        try:
            lock = os.open(
                self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )  # NFS locks nothing that is only read
        except PermissionError:
            lock = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(lock)

    def is_claimed(self) -> bool:
        """Whether a process ships it now. To be asked only where the training is over, when no process begins to."""
        with contextlib.suppress(FileNotFoundError):
            return _is_locked(self._lock)
        return False

    def hold(self) -> IO[bytes]:
        """Show that the training that is to record into this folder is alive, until the file that comes back is closed.

        Raises:
            OSError: the disk is full, say.
        """
        held = self._training_lock.open("wb")
        fcntl.flock(held, fcntl.LOCK_EX)
        return held

    def nudge(self) -> None:
        """Ask the process that has claimed this folder to try once more at once, or to let it go. Does not raise."""
        with contextlib.suppress(OSError):
            self._nudge.touch()

    def was_nudged(self) -> bool:
        """Whether `nudge` was called since the last time this was asked."""
        try:
            self._nudge.unlink()
        except OSError:
            return False
        return True

    @property
    def _tags(self) -> Path:
        return self.path / "tags.json"

    @property
    def _model_due(self) -> Path:
        return self.path / "model.due"

    @property
    def _lock(self) -> Path:
        return self.path / "shipper.lock"

    @property
    def _training_lock(self) -> Path:
        return self.path / _TRAINING

    @property
    def _nudge(self) -> Path:
        return self.path / "nudge"

    def is_recording(self) -> bool:
        """Whether the writer of the spool is alive, which holds a lock on it; where there is none yet, see `hold`.

        Raises:
            FileNotFoundError: there is neither.
        """
        with contextlib.suppress(FileNotFoundError):
            is_held = _is_locked(self._training_lock)  # first: the spool may be begun meanwhile
            if not (self.spool.exists() and self.spool.stat().st_size):
                return is_held
        return _is_locked(self.spool)

    def remove(self) -> None:
        """Remove the folder with all that is in it. Does not raise: what remains does no harm.

        The spool goes almost last: as long as anything is left, somebody can see whose it is, and finish this.
        """
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path not in (self.spool, self.run_spec):
                    path.unlink()
            self.spool.unlink(missing_ok=True)
            self.run_spec.unlink(missing_ok=True)  # without it, the spool would be nobody's
            self.path.rmdir()


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

"""Where the newest checkpoint of an experiment is: what ``trainer.resume=last`` looks up."""

import hashlib
import os
import re
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lrtape.errors import ConfigError

FOLDER = "last"
_MAX_NAME_CHARACTERS = 100
_HASH_CHARACTERS = 8


class _Entry(msgspec.Struct):
    checkpoint: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A small file in the tracking folder, ``.lrtape/last/<experiment>.json``; a newer training replaces it.

    Attributes:
        folder: the tracking folder, absolute.
        experiment: its name.
    """

    folder: Path
    experiment: str

    @property
    def path(self) -> Path:
        """Of the file: the experiment's name, with a hash where that is no name for a file."""
        name = re.sub(r"[^\w.\-]", "_", self.experiment).lstrip(".")[:_MAX_NAME_CHARACTERS]
        if name != self.experiment:
            name += f"-{hashlib.sha256(self.experiment.encode()).hexdigest()[:_HASH_CHARACTERS]}"
        return self.folder / FOLDER / f"{name}.json"

    def put(self, checkpoint: Path, run_id: str) -> None:
        """Note the newest checkpoint; a reader sees the old or the new one. A failure is warned about."""
        new = self.path.with_suffix(f".{socket.gethostname()}-{os.getpid()}.new")  # trials of a sweep put at once
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(msgspec.json.encode(_Entry(str(checkpoint), run_id)))
            new.replace(self.path)
        except OSError as error:
            warnings.warn(
                f"lrtape could not note in {self.path} where the last checkpoint is ({error}): trainer.resume=last "
                f"cannot find it, but trainer.resume={checkpoint} can.",
                stacklevel=2,
            )

    def find(self) -> Path:
        """The newest checkpoint.

        Raises:
            ConfigError: none was noted, the note cannot be read, or the checkpoint is gone.
        """
        how = "Give the path of a checkpoint, trainer.resume=outputs/.../checkpoints/last.pt."
        try:
            entry = msgspec.json.decode(self.path.read_bytes(), type=_Entry)
        except FileNotFoundError:
            raise ConfigError(
                f"`trainer.resume=last` needs a training of the experiment {self.experiment!r} that has written a "
                f"checkpoint, but there is no {self.path}. Start where that training was started, with its "
                f"tracking.experiment and tracking.folder. {how}"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"`trainer.resume=last` must find its note, but cannot read {self.path} ({error}). {how}"
            ) from error
        if not Path(entry.checkpoint).is_file():
            raise ConfigError(
                f"`trainer.resume=last` must find the checkpoint of the last training of {self.experiment!r}, but "
                f"{entry.checkpoint} is gone. {how}"
            )
        return Path(entry.checkpoint)

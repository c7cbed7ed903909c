"""What the tracking folder keeps of a sweep: how it was begun, so that it can be gone on with."""

from pathlib import Path
from typing import Self

import msgspec

from lrtape.errors import ConfigError
from lrtape.tracking.uri import mask_credentials
from lrtape.trials import SWEEPS, folder_of_sweep

_FILE = "sweep.json"


class SweepRecord(msgspec.Struct, frozen=True):
    """One file, ``.lrtape/sweeps/<id>/sweep.json``.

    Attributes:
        id: of the sweep.
        run_id: of its run.
        title: of its run.
        arguments: of the command that began it or went on with it last.
        cwd: where that was typed.
    """

    id: str
    run_id: str
    title: str
    arguments: list[str]
    cwd: str

    def save(self, folder: Path) -> Path:
        """Write it, into a folder of its own in the tracking folder; returns that folder."""
        own = folder_of_sweep(folder, self.id)
        own.mkdir(parents=True, exist_ok=True)
        (own / _FILE).write_text(mask_credentials(msgspec.json.format(msgspec.json.encode(self).decode())))
        return own

    @classmethod
    def find(cls, name: str, folder: Path) -> Self:
        """The record of a sweep.

        Args:
            name: its id, the id of its run, or its title.
            folder: the tracking folder.

        Raises:
            ConfigError: there is none, there are several, or its command was typed elsewhere.
        """
        records = [
            msgspec.json.decode(path.read_bytes(), type=cls) for path in sorted((folder / SWEEPS).glob(f"*/{_FILE}"))
        ]
        found = [record for record in records if name in {record.id, record.run_id, record.title}]
        if len(found) != 1:
            listed = "\n".join(f"  {record.id}  {record.title}" for record in (found or records))
            raise ConfigError(
                f"a sweep must be named by its id, or by that of its run, but {folder / SWEEPS} has "
                f"{len(found) or 'none'} called {name!r}. " + (f"There are:\n{listed}" if listed else "There are none.")
            )
        if Path(found[0].cwd) != Path.cwd():
            raise ConfigError(f"a sweep must go on where it was begun, in {found[0].cwd}, but this is {Path.cwd()}.")
        return found[0]

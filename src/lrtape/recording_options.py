"""How a recording is kept, and which of it the tracking store gets."""

from dataclasses import dataclass
from pathlib import Path

from lrtape.errors import ConfigError

FOLDER = ".lrtape"
EVERY_STEP = "every_step"
CHANGES = "changes"
RECORDS = (EVERY_STEP, CHANGES)
"""What the tracking store gets of the learning rates; see `lrtape.selection`."""


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """See `lrtape.attach` for each of them. Wrong ones are refused when this is made.

    Attributes:
        folder: where the spools are.
        keep_spool: whether the spool stays when everything is stored.
        fsync_every_s: how often it is forced to the disk, in seconds; ``None`` leaves that to the operating system.
        record: ``every_step``, or ``changes``.
        lr_log10: whether the logarithm of each lr is stored, too.

    Raises:
        ConfigError: `fsync_every_s` is not above 0, `record` is neither of the two, or `lr_log10` is no bool.
    """

    folder: str | Path = FOLDER
    keep_spool: bool = False
    fsync_every_s: float | None = None
    record: str = EVERY_STEP
    lr_log10: bool = False

    def __post_init__(self) -> None:
        if self.fsync_every_s is not None and not self.fsync_every_s > 0:
            raise ConfigError(
                f"`fsync_every_s` must be above 0, but is {self.fsync_every_s} instead. `None` is for never."
            )
        if self.record not in RECORDS:
            raise ConfigError(
                f"`record` must be one of {', '.join(RECORDS)}, but is {self.record!r} instead. With changes, MLflow "
                "gets both sides of every change of an lr; the tape has every step in any case."
            )
        if not isinstance(self.lr_log10, bool):
            raise ConfigError(f"`lr_log10` must be True or False, but is {self.lr_log10!r} instead.")

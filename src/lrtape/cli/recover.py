"""``lrtape recover``."""

from pathlib import Path

from lrtape.errors import ConfigError
from lrtape.recover import recover as recover_all
from lrtape.tracking.uri import REFUSED_CREDENTIALS, has_password

EXIT_INCOMPLETE = 1


def recover(folder: Path, tracking_uri: str | None) -> int:
    """Ship what is left in `folder`, and say what became of each spool.

    Raises:
        ConfigError: there is no such folder, or the URI carries a password.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"`folder` must be a folder of spools, but there is no {folder}. Name the one that was printed."
        )
    if tracking_uri is not None and has_password(tracking_uri):
        raise ConfigError(REFUSED_CREDENTIALS)
    results = []
    for result in recover_all(folder, tracking_uri):
        results.append(result)
        if not result.is_complete:
            fate = f"still on disk: {result.problem}"
        else:
            fate = f"recovered, but {result.problem}" if result.problem else "recovered"
        print(f"{result.folder}: {result.points} values stored, {fate}")
    if not results:
        print(f"{folder}: nothing is left behind")
    return 0 if all(result.is_complete for result in results) else EXIT_INCOMPLETE

"""``lrtape show``."""

import csv
import shutil
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from lrtape.cli.stored import open_history, tapes_of
from lrtape.errors import ConfigError
from lrtape.spool import read_spool
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Tape
from lrtape.tape_file import read_tape
from lrtape.terminal import plot, table

MAX_WIDTH = 120
"""Columns."""

_PARQUET_MAGIC = b"PAR1"


def show(source: str, tracking_uri: str | None, pattern: str | None, as_csv: bool) -> int:
    """Print a tape: curves and a table, or every row.

    Args:
        source: a spool folder, a spool or a tape file; else the id of a run.
        tracking_uri: where the run is; see `open_history`.
        pattern: of the keys to print, as a shell would match it; by default all, and the learning rates are drawn.
        as_csv: whether to print every row instead.

    Raises:
        ConfigError: there is no such source, or it has no such key; or the URI is wrong.
        SpoolError: the file cannot be read.
        TrackingError: there is no such run, or the store does not answer.
    """
    path = Path(source)
    tape = _read(path) if path.exists() else _read_run(source, tracking_uri)
    chosen = Tape.of({key: series for key, series in tape.items() if fnmatchcase(key, pattern or "*")})
    if not chosen and pattern is not None:
        raise ConfigError(f"`--key` must match a key of {source}, but {pattern!r} matches none of {', '.join(tape)}.")
    if as_csv:
        _print_csv(chosen)
    elif not chosen:
        print(f"{source}: nothing is recorded yet")
    else:
        drawn = chosen if pattern is not None else chosen.lr
        if drawn:
            width = min(shutil.get_terminal_size((MAX_WIDTH, 0)).columns, MAX_WIDTH)
            y_label = "lr" if len(drawn.lr) == len(drawn) else "value"
            print(plot(drawn, width, color=sys.stdout.isatty(), y_label=y_label), end="\n\n")
        print(table(chosen))
    return 0


def _read(path: Path) -> Tape:
    if path.is_dir():
        folders = SpoolFolder.find(path)
        if len(folders) != 1:
            names = ", ".join(str(folder.path) for folder in folders) or "none"
            raise ConfigError(
                f"SPOOL must be the folder of one spool, but in {path} there are {len(folders)}: {names}."
            )
        return read_spool(folders[0].spool)
    with path.open("rb") as file:
        is_tape = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    return read_tape(path) if is_tape else read_spool(path)


def _read_run(run_id: str, tracking_uri: str | None) -> Tape:
    if not run_id.isalnum():
        raise ConfigError(
            f"SPOOL|RUN must be a spool folder, a spool, a tape file or the id of a run, but there is no {run_id}."
        )
    history = open_history(run_id, tracking_uri)
    tapes = tapes_of(history)
    if tapes:
        return Tape.union(tapes.values())
    keys = history.keys()
    return Tape(point for key in keys for point in history.points(key))


def _print_csv(tape: Tape) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("key", "step", "time_ms", "value"))
    writer.writerows((key, step, time_ms, repr(value)) for key, step, time_ms, value in tape.points())

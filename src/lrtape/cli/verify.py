"""``lrtape verify``."""

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from lrtape.cli.stored import downloaded, open_history
from lrtape.compare import Comparison, allow, compare
from lrtape.errors import ConfigError
from lrtape.recording_options import EVERY_STEP
from lrtape.selection import Selection, may_have, must_have
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Tape
from lrtape.tape_file import read_notes, read_tape

EXIT_DIFFERENT = 1


def verify(run_id: str, tracking_uri: str | None, folder: Path) -> int:
    """Compare every row that MLflow has of the recorded keys of a run with what was recorded, and say what differs.

    Args:
        run_id: of a run.
        tracking_uri: see `open_history`.
        folder: of spools; those that belong to the run are compared with, too.

    Returns:
        The exit code: 0 if all is equal.

    Raises:
        ConfigError: nothing is there to compare with, or the URI is wrong.
        SpoolError: a tape or a spool cannot be read.
        TrackingError: there is no such run, or the store does not answer.
    """
    history = open_history(run_id, tracking_uri)
    with downloaded(history) as paths:
        recordings = [_of_tape(path) for path in paths]
        spools = [spool for spool in SpoolFolder.find(folder) if _belongs_to(spool, run_id, paths)]
    recordings += [_of_spool(spool) for spool in spools]
    if not recordings:
        raise ConfigError(
            f"a run must have a tape to be compared with, but run {run_id} has none among its artifacts, and no spool "
            f"in {folder}. Name the folder of its spool with --folder."
        )
    required = Tape.union(recording.required for recording in recordings)
    total = Comparison()
    n_different = 0
    for key, series in tqdm(required.items(), desc="lrtape: comparing", unit="key", delay=1.0, disable=None):
        comparison = compare(key, series, history.points(key))
        if comparison.foreign or comparison.unrecorded:
            comparison = allow(comparison, Tape.union(_only(recording.allowed, key) for recording in recordings))
        if not comparison.is_equal:
            n_different += 1
            print("; ".join(comparison.differences()))
        total += comparison
    for remark in total.remarks():
        print(f"note: {remark}")
    for spool in spools:
        if not spool.load_progress().complete:
            print(f"note: {spool.path} is not stored to its end yet; see lrtape status {spool.path}")
    if n_different:
        print(f"run {run_id}: {n_different} of {len(required)} keys are not stored as they were recorded")
        return EXIT_DIFFERENT
    print(f"run {run_id}: all {total.n_recorded:,} rows of {len(required)} keys are stored as they were recorded")
    return 0


class _Recording(NamedTuple):
    """What the store must have of a recording, and what it may have."""

    required: Tape
    allowed: Tape


def _of_tape(path: Path) -> _Recording:
    tape, notes = read_tape(path), read_notes(path)
    has_log10 = notes.get("lr_log10", False)
    return _Recording(must_have(tape, notes.get("record", EVERY_STEP), has_log10), may_have(tape, has_log10))


def _of_spool(folder: SpoolFolder) -> _Recording:
    is_over = not folder.is_recording()
    with SpoolReader(folder.spool) as required, SpoolReader(folder.spool) as allowed:
        return _Recording(
            Tape(Selection(required).points(is_over)), Tape(Selection(allowed, EVERY_STEP).points(is_over))
        )


def _only(tape: Tape, key: str) -> Tape:
    return Tape.of({key: tape[key]} if key in tape else {})


def _belongs_to(folder: SpoolFolder, run_id: str, paths: list[Path]) -> bool:
    with SpoolReader(folder.spool) as reader:
        header = reader.header
    # A run that was planned when its store was away is not in the header.
    return header.run_id == run_id or f"tape-{header.recording_id}.parquet" in [path.name for path in paths]

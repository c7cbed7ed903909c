"""``lrtape verify``."""

from pathlib import Path

from tqdm import tqdm

from lrtape.cli.stored import open_history, tapes_of
from lrtape.compare import Comparison, compare
from lrtape.errors import ConfigError
from lrtape.spool import SpoolReader, read_spool
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Tape

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
    tapes = tapes_of(history)
    spools = [spool for spool in SpoolFolder.find(folder) if _belongs_to(spool, run_id, tapes)]
    if not tapes and not spools:
        raise ConfigError(
            f"a run must have a tape to be compared with, but run {run_id} has none among its artifacts, and no spool "
            f"in {folder}. Name the folder of its spool with --folder."
        )
    recorded = Tape.union([*tapes.values(), *(read_spool(spool.spool) for spool in spools)])
    total = Comparison()
    n_different = 0
    for key, series in tqdm(recorded.items(), desc="lrtape: comparing", unit="key", delay=1.0, disable=None):
        comparison = compare(key, series, history.points(key))
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
        print(f"run {run_id}: {n_different} of {len(recorded)} keys are not stored as they were recorded")
        return EXIT_DIFFERENT
    print(f"run {run_id}: all {total.n_recorded:,} rows of {len(recorded)} keys are stored as they were recorded")
    return 0


def _belongs_to(folder: SpoolFolder, run_id: str, tapes: dict[str, Tape]) -> bool:
    with SpoolReader(folder.spool) as reader:
        header = reader.header
    # A run that was planned when its store was away is not in the header.
    return header.run_id == run_id or f"tape-{header.recording_id}.parquet" in tapes

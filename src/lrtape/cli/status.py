"""``lrtape status``: what becomes of each recording. Imports no mlflow, asks no store, and disturbs nobody."""

from pathlib import Path

from lrtape.errors import ConfigError, SpoolError
from lrtape.recording_options import CHANGES
from lrtape.selection import Selection
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import now_ms


def status(root: Path) -> int:
    """Print one line for each spool in `root`.

    Raises:
        ConfigError: there is no such folder.
    """
    if not root.is_dir() and root != Path(".lrtape"):
        raise ConfigError(
            f"`folder` must be a folder of spools, but there is no {root}. Name the one that was printed."
        )
    lines = 0
    for folder in SpoolFolder.find(root) + SpoolFolder.find_unrecorded(root):
        try:
            print(f"{folder.path}: {_state(folder)}")
        except FileNotFoundError:
            continue  # All of it was stored meanwhile.
        except (SpoolError, OSError) as error:
            print(f"{folder.path}: cannot be read: {error}")
        lines += 1
    if not lines:
        print(f"{root}: nothing is recorded now, and nothing is left behind")
    return 0


def _state(folder: SpoolFolder) -> str:
    # First what is stored and then what is recorded, so that no more can be stored than is recorded.
    progress = folder.load_progress()
    is_recording = folder.is_recording()
    if not folder.spool.exists():
        if is_recording:
            return "its training prepares itself"
        return f"its training has died before its first step; run: {folder.rescue_command}"
    n_recorded = n_due = 0
    oldest_ms: int | None = None
    with SpoolReader(folder.spool) as reader:
        selection = Selection(reader)
        for frame in reader.frames():
            n_recorded += len(reader.points_of(frame))
            points = selection.of(frame)
            n_due += len(points)
            if points and oldest_ms is None and reader.offset > progress.offset:
                oldest_ms = points[0].time_ms
        header, end = reader.header, reader.end
        n_due += len(selection.rest()) if not is_recording else 0
    n_left = n_due - progress.points
    due = f", {n_due:,} to be stored" if header.record == CHANGES or header.lr_log10 else ""
    is_left_behind = not is_recording and not progress.complete and not folder.is_claimed()
    if progress.complete:
        doing = "kept and complete"
    elif is_recording:
        doing = "recording"
    else:
        fate = f"its training ended as {end.status}" if end is not None else "its training is dead"
        doing = f"{fate}, {'waiting' if is_left_behind else 'being stored'}"
    run = header.run_id or progress.run_id or "still to be created"
    text = f"run {run}, {doing}, {n_recorded:,} values recorded{due}, {progress.points:,} stored, {n_left:,} not yet"
    if oldest_ms is not None:
        text += f", the oldest for {_duration((now_ms() - oldest_ms) / 1000)}"
    if end is not None and end.lost:
        text += f"; {end.lost:,} records could not be written and are lost"
    if progress.error:
        text += f"; problem: {progress.error}"
    if is_left_behind:
        text += f"; {'mend that, then run' if progress.refused else 'run'}: {folder.rescue_command}"
    return text


def _duration(seconds: float) -> str:
    for unit_s, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"

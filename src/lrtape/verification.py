"""Whether the tracking store has what was shipped. Runs outside the training process."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from lrtape.compare import Comparison, allow, compare
from lrtape.errors import TrackingError
from lrtape.keys import LR, LR_LOG10
from lrtape.recording_options import CHANGES, EVERY_STEP
from lrtape.selection import Selection
from lrtape.shipper import Shipped, send_by_key
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Tape
from lrtape.tracking.history import History
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.sink import Sink

MAX_COMPARED_POINTS = 200_000
"""Reading a row back takes about 40 us. What was acknowledged of a longer tape is believed; see ``lrtape verify``."""
COMPARED_AT_ONCE = 5_000
"""Points: about 10 MB."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` has found.

    Attributes:
        points: how many values the store has.
        problem: what is wrong, in sentences; mostly nothing.
        can_be_mended: whether another delivery may set it right.
        refused_keys: whose values the store refuses.
    """

    points: int
    problem: str
    can_be_mended: bool
    refused_keys: tuple[str, ...]


def verify(folder: SpoolFolder, run: MlflowRun, sink: Sink, shipped: Shipped) -> Verification:
    """Compare every row, and send what is missing once more; of a long tape, only what the store has refused before.

    Args:
        folder: holds the spool.
        run: that has the rows.
        sink: of that run.
        shipped: how much was shipped, and what was refused.

    Raises:
        TrackingError: it is still missing, although nothing was refused; what answers may not be the store at all.
    """
    tape = _compared(folder, shipped)
    comparison = _compare(tape, folder, run)
    refused: Mapping[str, tuple[int, str]] = {}
    n_missing = len(comparison.missing)
    if comparison.missing:
        refused = send_by_key(comparison.missing, sink)
        comparison = _compare(tape, folder, run)
        if not refused and comparison.missing:
            raise TrackingError(
                f"the store has acknowledged values that it does not have: {'; '.join(comparison.differences())}"
            )
    texts = [f"The store refuses the values of {key}: {text}" for key, (_, text) in refused.items()]
    lost = shipped.end.lost if shipped.end is not None else 0
    if lost:
        texts.append(
            f"{lost} records could not be written to {folder.path} and are lost: its disk was full. Choose a `folder` "
            "on a disk with room."
        )
    texts += [f"{text}." for text in comparison.differences()]
    is_whole = shipped.points <= MAX_COMPARED_POINTS
    points = (comparison.n_recorded if is_whole else shipped.points + n_missing) - len(comparison.missing)
    return Verification(points, " ".join(texts), bool(refused or comparison.missing), tuple(refused))


def _compared(folder: SpoolFolder, shipped: Shipped) -> Tape:
    """What is to be compared with the store."""
    refused = {*folder.load_progress().refused_keys, *shipped.refused}
    with SpoolReader(folder.spool) as reader:
        points = Selection(reader).points(is_over=True)
        is_whole = shipped.points <= MAX_COMPARED_POINTS
        return Tape(point for point in points if is_whole or point.key in refused)


def _compare(tape: Tape, folder: SpoolFolder, run: MlflowRun) -> Comparison:
    history = History(run.run_id, run.tracking_uri)
    comparison = sum(
        (compare(key, series, history.each_point(key, COMPARED_AT_ONCE)) for key, series in tape.items()), Comparison()
    )
    with SpoolReader(folder.spool) as reader:
        header = reader.header
        if header.record == CHANGES and (surplus := [*comparison.foreign, *comparison.unrecorded]):
            wanted = {(point.key, point.step) for point in surplus}
            recorded = Selection(reader, EVERY_STEP).points(is_over=True)
            comparison = allow(comparison, Tape(point for point in recorded if (point.key, point.step) in wanted))
    # Of a key that is not lrtape's own, another recording of the run, or anybody, may log what it likes.
    own = (LR, LR_LOG10) if header.lr_log10 else (LR,)
    foreign = [point for point in comparison.foreign if point.key.startswith(own)]
    return dataclasses.replace(comparison, foreign=foreign)

"""`deliver`: from a spool to a run that has everything and says how it ended. Runs outside the training process."""

import contextlib
import dataclasses
import logging
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrtape.errors import TrackingError
from lrtape.run_page.run_page import RunPage
from lrtape.shipper import Patience, Shipped, Writer, ship
from lrtape.spool import Header, SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Finding, GroupLayout, Point, Record, Status
from lrtape.tape_file import write_tape
from lrtape.tracking.artifacts import TAPE_FOLDER, TAPE_NAME
from lrtape.tracking.dashboard import SeedingSink, seed_dashboard, views_of
from lrtape.tracking.kept import note_datasets, upload_artifacts
from lrtape.tracking.logged_model import put_model
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink
from lrtape.tracking.realize import realize
from lrtape.tracking.refusals import explain
from lrtape.tracking.sink import RefusedError
from lrtape.tracking.store import asking
from lrtape.tracking.tags import ERROR
from lrtape.tracking.uri import mask_credentials
from lrtape.verification import verify

UPLOAD_ATTEMPTS = 3
UPLOAD_PAUSE_S = 2.0
LOOK_S = 0.01

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What `deliver` has done.

    Attributes:
        points: how many values the store has.
        is_complete: whether nothing is left to be done, and the spool is not needed any more.
        problem: what a person must know, credentials masked; mostly nothing.
        views: of the experiment, where the run was started for this recording; see `views_of`.
    """

    points: int
    is_complete: bool
    problem: str = ""
    views: Collection[str] = field(default=(), compare=False)


def deliver(folder: SpoolFolder, tracking_uri: str, writer: Writer, give_up_s: float) -> Delivery:
    """Ship a spool to its end, compare what is stored with it, upload the tape, end the run, and make its page.

    The folder is then removed, unless it shall be kept or something is left to be done. The caller has claimed it.

    Args:
        folder: holds the spool.
        tracking_uri: absolute, with credentials where they are needed.
        writer: of the spool.
        give_up_s: how long to go on trying after the recording has ended, in seconds.

    Raises:
        SpoolError: there is no readable spool in `folder`.
    """
    with SpoolReader(folder.spool) as reader:
        header = reader.header

    def failing(error: Exception) -> None:
        why, refused = mask_credentials(str(error)), isinstance(error, RefusedError)
        folder.save_progress(dataclasses.replace(folder.load_progress(), error=why, refused=refused))

    patience = Patience(folder, writer, give_up_s)
    try:
        run = patience.until_done(lambda: _open(folder, header, tracking_uri), failing)
        _note_data(folder, header, run)
        try:
            upload_artifacts(folder, run)
        except Exception as error:  # noqa: BLE001 - a store of artifacts may raise anything; it is tried again
            _log.warning("cannot upload what is known now: %s", explain(tracking_uri, error))
        sink = SeedingSink(MlflowSink(tracking_uri, run.run_id), run)
        page = RunPage(folder, run)
        shipped = ship(folder, sink, writer, give_up_s, page.refresh_if_due)
        if shipped.error:
            with contextlib.suppress(TrackingError):
                _note(run, header, shipped, shipped.error)
                _settle(folder, run, header, shipped)
            return Delivery(shipped.points, False, shipped.error)
        verdict = patience.until_done(lambda: verify(folder, run, sink, shipped), failing)
        not_uploaded = _upload(folder, header, run)
        patience.until_done(lambda: _note(run, header, shipped, verdict.problem), failing)
        is_shown = folder.model_due() is not None
        if is_shown:  # There is time before the run ends.
            _show(run, page, shipped)
            ended = _await_model(folder, writer, shipped)
            is_shown = ended == shipped
            shipped = ended
        not_noted, data_are_refused = _note_data(folder, header, run)
        patience.until_done(lambda: _settle(folder, run, header, shipped), failing)
    except TrackingError as error:
        return Delivery(folder.load_progress().points, False, str(error))
    # The run is right now, whatever becomes of the rest.
    if not is_shown:
        _show(run, page, shipped)
    no_model, model_is_refused = _put_model(folder, header, run)  # it says the verdict, too
    problem = " ".join(filter(None, [verdict.problem, not_uploaded, not_noted, no_model]))
    is_owed = (
        not_uploaded
        or verdict.can_be_mended
        or (not_noted and not data_are_refused)
        or (no_model and not model_is_refused)
    )
    views = views_of(run) if header.owns_run else ()
    delivery = Delivery(verdict.points, not is_owed, problem, views)
    if delivery.is_complete and not header.keep:
        folder.remove()
    else:
        progress = folder.load_progress()
        folder.save_progress(
            dataclasses.replace(
                progress,
                points=verdict.points,
                error=problem,
                refused_keys=verdict.refused_keys,
                compared=True,
                complete=delivery.is_complete,
            )
        )
    return delivery


def _show(run: MlflowRun, page: RunPage, shipped: Shipped) -> None:
    page.finish(shipped.end.status if shipped.end is not None else Status.KILLED)
    seed_dashboard(run)


def _await_model(folder: SpoolFolder, writer: Writer, shipped: Shipped) -> Shipped:
    """What was shipped, with how the training has ended after its last step, while it made its model."""
    while folder.model_due() == "" and writer.is_alive():
        time.sleep(LOOK_S)
    ended = folder.model_due()
    if ended is None or shipped.end is None:
        return shipped
    if not ended:  # Its process has died.
        return dataclasses.replace(shipped, end=None)
    return dataclasses.replace(shipped, end=dataclasses.replace(shipped.end, status=Status(ended)))


def _open(folder: SpoolFolder, header: Header, tracking_uri: str) -> MlflowRun:
    """The run; it is created if it was only planned, and its recording begun if that was left to the shipper."""
    run_id = header.run_id or folder.load_progress().run_id
    run = MlflowRun.join(run_id, tracking_uri) if run_id else realize(folder, tracking_uri)
    if not run_id:
        folder.save_progress(dataclasses.replace(folder.load_progress(), run_id=run.run_id))
    if folder.run_spec.exists():
        run.begin_recording(header.recording_id, header.record)
    return run


def _note_data(folder: SpoolFolder, header: Header, run: MlflowRun) -> tuple[str, bool]:
    """Note what the training trains on, unless that was done; returns what is wrong, and whether that is for good."""
    try:
        note_datasets(folder, run)
    except TrackingError as error:
        _log.warning("cannot note what the data are: %s", error)
        return f"What the data are could not be noted ({error}).", isinstance(error, RefusedError)
    if header.run_id:  # Else the spool would be nobody's.
        folder.run_spec.unlink(missing_ok=True)
    return "", False


def _upload(folder: SpoolFolder, header: Header, run: MlflowRun) -> str:
    """Upload the tape, and the artifacts that are kept; returns what is wrong."""
    for attempt in range(UPLOAD_ATTEMPTS):
        try:
            # In the spool's folder nothing is left behind when this process is killed; but it may be full.
            with tempfile.TemporaryDirectory(dir=folder.path if attempt == 0 else None) as temporary:
                tape = Path(temporary, TAPE_NAME.format(header.recording_id))
                notes = _notes(folder, header)
                with SpoolReader(folder.spool) as reader:
                    write_tape(tape, _points(reader), notes)
                run.upload(tape, TAPE_FOLDER)
            upload_artifacts(folder, run)
        except Exception as error:  # noqa: BLE001 - a store of artifacts may raise anything
            why = explain(run.tracking_uri, error)
            _log.warning("cannot upload the tape (attempt %d): %s", attempt + 1, why)
            time.sleep(UPLOAD_PAUSE_S)
        else:
            return ""
    return f"The tape could not be uploaded to the run's artifacts ({why})."


def _put_model(folder: SpoolFolder, header: Header, run: MlflowRun) -> tuple[str, bool]:
    """Store the run's model, if it is to have one; returns what is wrong, and whether that is for good."""
    if not folder.model.exists():
        return "", False
    try:
        with asking(run.tracking_uri):
            put_model(folder.model, run, header.recording_id, lambda step: _rows_of(folder, step))
    except Exception as error:  # noqa: BLE001 - a store of artifacts may raise anything
        return f"The model could not be stored ({mask_credentials(str(error))}).", isinstance(error, RefusedError)
    return "", False


def _rows_of(folder: SpoolFolder, step: int) -> Iterator[Point]:
    """Takes 2 microseconds for each step of the spool."""
    with SpoolReader(folder.spool) as reader:
        for frame in reader.frames():
            if isinstance(frame, Record | Point) and frame.step == step:
                yield from reader.points_of(frame)


def _points(reader: SpoolReader) -> Iterator[Point]:
    for frame in reader.frames():
        yield from reader.points_of(frame)


def _notes(folder: SpoolFolder, header: Header) -> dict[str, Any]:
    """What a tape says beside its values."""
    with SpoolReader(folder.spool) as reader:
        frames = [frame for frame in reader.frames() if isinstance(frame, GroupLayout | Finding)]
        end = reader.end
    return {
        "recording_id": header.recording_id,
        "created_ms": header.created_ms,
        "record": header.record,
        "lr_log10": header.lr_log10,
        "layouts": [dataclasses.asdict(frame) for frame in frames if isinstance(frame, GroupLayout)],
        "findings": [dataclasses.asdict(frame) for frame in frames if isinstance(frame, Finding)],
        "end": None if end is None else dataclasses.asdict(end),
    }


def _note(run: MlflowRun, header: Header, shipped: Shipped, missing: str) -> None:
    run.end_recording(header.recording_id, missing, shipped.end.us_per_step if shipped.end is not None else None)


def _settle(folder: SpoolFolder, run: MlflowRun, header: Header, shipped: Shipped) -> None:
    """Give the run its true status, and what its training has said of it, and of its end.

    A run that the recording had only joined, and whose recording was ended in good order, is somebody else's to end.
    """
    tags = folder.load_tags()
    if shipped.end is None:
        run.settle(Status.KILLED, header.recording_id, tags)
    elif header.owns_run:
        error = {ERROR: shipped.end.error} if shipped.end.error else {}
        run.settle(shipped.end.status, header.recording_id, {**tags, **error})

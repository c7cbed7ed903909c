"""The page of a run: made by the shipper, when a recording is over and, rarely, while it goes on."""

import contextlib
import csv
import itertools
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from lrtape.curve_page import curve_page
from lrtape.curve_svg import MAX_CURVES, draw_svg
from lrtape.keys import LR
from lrtape.run_page.description import CURVE, About, describe, with_description
from lrtape.run_page.summary import Summary
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import GroupLayout
from lrtape.tape_file import read_notes
from lrtape.tracking.artifacts import TAPE_FOLDER, TAPE_NAME
from lrtape.tracking.history import History
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.tags import MAX_TAG_CHARACTERS, NOTE, RUN_NAME, STEPS, VERDICT
from lrtape.tracking.uri import mask_credentials

FIRST_REFRESH_S = 15.0
"""After the start: a short training has its page at its end."""
REFRESH_CAP_S = 600.0
"""Each pause is twice as long as the one before it, up to this."""
_PAUSE_PER_WORK = 20
"""At least: refreshing shall cost next to nothing."""

ATTEMPTS, PAUSE_S = 3, 2.0
_LOOKED_AT = 200
"""Frames at the beginning of a spool, among which are the groups of every optimizer."""

PAGE, CHANGES, FINDINGS, ENVIRONMENT = "curve.html", "changes.csv", "findings.json", "environment.json"
"""Files beside `CURVE`; the last one lies beside the config."""
CONFIG_FOLDER = "config"

_log = logging.getLogger(__name__)


class RunPage:
    """Describes a run, and draws its learning rates. Used by the shipper alone; its failures are logged.

    Args:
        folder: holds the spool of the recording.
        run: the run; other recordings of it that are over are told of, too.
    """

    def __init__(self, folder: SpoolFolder, run: MlflowRun) -> None:
        self._folder = folder
        self._run = run
        self._summary = Summary()
        self._offset = 0
        self._read_tapes: set[str] = set()
        self._knows_others = False
        self._title = ""
        self._n_planned: int | None = None
        self._pause_s = FIRST_REFRESH_S
        self._due_s = time.monotonic() + FIRST_REFRESH_S

    def refresh_if_due(self) -> None:
        """Show how far the training is, if that was not done for long. Never raises."""
        began_s = time.monotonic()
        if began_s < self._due_s:
            return
        try:
            with self._reading() as reader:
                self._summary.read_spool(reader)
            if self._summary.moving:
                with tempfile.TemporaryDirectory() as temporary:
                    picture = Path(temporary) / CURVE
                    picture.write_text(self._draw(), encoding="utf-8")
                    self._run.upload(picture, TAPE_FOLDER)
                self._put("", "")
        except Exception as error:  # noqa: BLE001 - it is a service
            _log.info("cannot refresh the page of the run: %s", _masked(error))
        self._pause_s = min(2 * self._pause_s, REFRESH_CAP_S)
        now_s = time.monotonic()
        self._due_s = now_s + max(self._pause_s, _PAUSE_PER_WORK * (now_s - began_s))

    def finish(self, status: str) -> None:
        """Make the whole page of a recording that is over, and whose tape is uploaded. Never raises.

        Args:
            status: how the training ended.
        """
        for attempt in range(ATTEMPTS):
            try:
                self._finish(status)
            except Exception as error:  # noqa: BLE001 - strange values, a full disk, a store that is away again
                _log.warning("cannot make the page of the run (attempt %d): %s", attempt + 1, _masked(error))
                time.sleep(PAUSE_S)
            else:
                return

    def _finish(self, status: str) -> None:
        knew_others = self._knows_others
        with self._reading() as reader:
            if knew_others:  # Another one may have ended meanwhile; of two that end together, the later one sees both.
                self._read_others()
            self._summary.read_spool(reader)
            verdict = self._summary.judge(self._n_planned, reader.header.lr_log10)
        with tempfile.TemporaryDirectory() as temporary:
            self._write(Path(temporary), verdict)
            self._run.upload(Path(temporary))
        if self._summary.moving:
            self._put(verdict, status)

    def _write(self, target: Path, verdict: str) -> None:
        """Write the files, in the folders that they have among the artifacts."""
        lr, config = target / TAPE_FOLDER, target / CONFIG_FOLDER
        if self._folder.environment.exists():
            config.mkdir()
            shutil.copy(self._folder.environment, config / ENVIRONMENT)
        if not self._summary.moving:
            return
        lr.mkdir()
        (lr / CURVE).write_text(self._draw(), encoding="utf-8")
        (lr / PAGE).write_text(curve_page(self._summary.curves(), self._title), encoding="utf-8")
        self._write_changes(lr / CHANGES)
        if verdict:
            report = {"verdict": verdict, "findings": [asdict(finding) for finding in self._summary.findings]}
            (lr / FINDINGS).write_text(json.dumps(report, indent=2), encoding="utf-8")

    def _put(self, verdict: str, status: str) -> None:
        keys = [f"{LR}{group.name}" for group in self._summary.moving[:MAX_CURVES]]
        links = [("All groups in one chart", self._run.links.curves(keys))]
        if status:
            for text, name in (("Look closer", PAGE), ("Every change", CHANGES)):
                links.append((text, self._run.links.artifact(f"{TAPE_FOLDER}/{name}")))
        about = About(self._run.run_id, self._n_planned, status, links, TAPE_FOLDER)
        section = describe(self._summary, about, verdict)
        before = self._run.tags().get(NOTE, "")
        tags = {NOTE: with_description(section, before, MAX_TAG_CHARACTERS)}
        if verdict:
            tags[VERDICT] = verdict
        self._run.put_tags(tags)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[SpoolReader]:
        """The spool, where reading it goes on; before, the first time, what is known of the run besides."""
        if not self._knows_others:
            tags = self._run.tags()
            steps = tags.get(STEPS, "")
            self._n_planned = int(steps) if steps.isdecimal() else None
            self._title = f"{tags.get(RUN_NAME, self._run.run_id)}: the learning rate that each step used"
            self._read_others()
            self._knows_others = True
        with SpoolReader(self._folder.spool) as reader:
            frames = reader.frames()
            while reader.offset < self._offset and next(frames, None) is not None:
                pass  # the names of the groups are among them
            yield reader
            self._offset = reader.offset

    def _read_others(self) -> None:
        with SpoolReader(self._folder.spool) as reader:
            self._read_tapes.add(TAPE_NAME.format(reader.header.recording_id))
            first = itertools.islice(reader.frames(), _LOOKED_AT)
            own_keys = [group.key for frame in first if isinstance(frame, GroupLayout) for group in frame.groups]
        with tempfile.TemporaryDirectory() as temporary:
            tapes = History(self._run.run_id, self._run.tracking_uri).tapes(Path(temporary), without=self._read_tapes)
            for path in sorted(tapes, key=lambda path: int(read_notes(path).get("created_ms", 0))):
                self._summary.read_tape(path, own_keys)
                self._read_tapes.add(path.name)

    def _draw(self) -> str:
        return draw_svg(self._summary.curves(), self._title)

    def _write_changes(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("group", "first_step", "last_step", "lr_before", "lr_after"))
            for group in self._summary.moving:
                for change in group.changes.all():
                    steps, lrs = (change.first_step, change.last_step), (repr(change.before), repr(change.after))
                    writer.writerow((group.name, *steps, *lrs))


def _masked(error: Exception) -> str:
    return mask_credentials(f"{type(error).__name__}: {error}")

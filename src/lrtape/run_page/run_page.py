"""The page of a run: made by the shipper, when a recording is over and, rarely, while it goes on."""

import csv
import json
import logging
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from lrtape.curve_page import curve_page
from lrtape.curve_svg import draw_svg
from lrtape.keys import LR
from lrtape.run_page.description import CURVE, About, describe, with_description
from lrtape.run_page.environment import environment
from lrtape.run_page.summary import Summary
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import GroupLayout
from lrtape.tape_file import read_notes
from lrtape.tracking.history import STEPS, TAPE_FOLDER, TAPE_NAME, History
from lrtape.tracking.mlflow_run import NOTE, RUN_NAME, VERDICT, MlflowRun
from lrtape.tracking.uri import mask_credentials

FIRST_REFRESH_S = 15.0
"""After the start: a short training has its page at its end."""
REFRESH_CAP_S = 600.0
"""Each pause is twice as long as the one before it, up to this."""
_PAUSE_PER_WORK = 20
"""At least: refreshing shall cost next to nothing."""

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
        self._reader: SpoolReader | None = None
        self._verdict = ""
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
            self._read()
            if self._summary.moving:
                with tempfile.TemporaryDirectory() as temporary:
                    picture = Path(temporary) / CURVE
                    picture.write_text(self._draw(), encoding="utf-8")
                    self._run.upload(picture, TAPE_FOLDER)
                self._put("", "")
        except Exception as error:  # noqa: BLE001 - it is a service
            _log.info("cannot refresh the page of the run: %s", mask_credentials(repr(error)))
        self._pause_s = min(2 * self._pause_s, REFRESH_CAP_S)
        now_s = time.monotonic()
        self._due_s = now_s + max(self._pause_s, _PAUSE_PER_WORK * (now_s - began_s))

    def write(self, target: Path) -> None:
        """Write the files of a recording that is over, in the folders that they have among the artifacts.

        Args:
            target: an existing folder.

        Raises:
            Exception: whatever comes of a disk, a store or strange values.
        """
        self._verdict = self._summary.judge(self._n_planned, self._read().header.lr_log10)
        lr, config = target / TAPE_FOLDER, target / CONFIG_FOLDER
        lr.mkdir(exist_ok=True)
        config.mkdir(exist_ok=True)
        (config / ENVIRONMENT).write_text(json.dumps(environment(), indent=2), encoding="utf-8")
        if not self._summary.moving:
            return
        (lr / CURVE).write_text(self._draw(), encoding="utf-8")
        (lr / PAGE).write_text(curve_page(self._summary.curves(), self._title), encoding="utf-8")
        self._write_changes(lr / CHANGES)
        if self._verdict:
            report = {"verdict": self._verdict, "findings": [asdict(finding) for finding in self._summary.findings]}
            (lr / FINDINGS).write_text(json.dumps(report, indent=2), encoding="utf-8")

    def describe(self, status: str) -> None:
        """Put the verdict and the description into the run, after `write`.

        Args:
            status: how the training ended.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        if self._summary.moving:
            self._put(self._verdict, status)

    def _put(self, verdict: str, status: str) -> None:
        keys = [f"{LR}{group.name}" for group in self._summary.moving]
        links = [("All groups in one chart", self._run.curves_link(keys))]
        if status:
            for text, name in (("Look closer", PAGE), ("Every change", CHANGES)):
                links.append((text, self._run.artifact_link(f"{TAPE_FOLDER}/{name}")))
        about = About(self._run.run_id, self._n_planned, status, links, TAPE_FOLDER)
        section = describe(self._summary, about, verdict)
        before = self._run.tags().get(NOTE, "")
        tags = {NOTE: with_description(section, before)}
        if verdict:
            tags[VERDICT] = verdict
        self._run.put_tags(tags)

    def _read(self) -> SpoolReader:
        """Read on in the spool; the first time what the run has besides."""
        if self._reader is None:
            tags = self._run.tags()
            steps = tags.get(STEPS, "")
            self._n_planned = int(steps) if steps.isdecimal() else None
            self._title = f"{tags.get(RUN_NAME, self._run.run_id)}: the learning rate that each step used"
            self._read_others()
            self._reader = SpoolReader(self._folder.spool)
        self._summary.read_spool(self._reader)
        return self._reader

    def _read_others(self) -> None:
        with SpoolReader(self._folder.spool) as reader:
            own_name = TAPE_NAME.format(reader.header.recording_id)
            layouts = (frame for frame in reader.frames() if isinstance(frame, GroupLayout))
            own_keys = [group.key for group in next(layouts, GroupLayout(0, ())).groups]
        with tempfile.TemporaryDirectory() as temporary:
            tapes = History(self._run.run_id, self._run.tracking_uri).tapes(Path(temporary))
            others = [path for path in tapes if path.name != own_name]
            for path in sorted(others, key=lambda path: int(read_notes(path).get("created_ms", 0))):
                self._summary.read_tape(path, own_keys)

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

    def close(self) -> None:
        """Close what it reads."""
        if self._reader is not None:
            self._reader.close()

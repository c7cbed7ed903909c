"""The outbox: where a session puts what it records, and which sees that it arrives."""

from typing import Protocol

from tqdm import tqdm

from lrtape.columns import Columns
from lrtape.errors import ConfigError
from lrtape.forks import call_in_forked_children
from lrtape.lines import LinePrinter
from lrtape.recording_options import EVERY_STEP, RecordingOptions
from lrtape.selection import Selection
from lrtape.shipper_process import ShipperProcess
from lrtape.spool import Frame, Header, SpoolReader, SpoolWriter
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Status, now_ms
from lrtape.tracking.planned_run import PlannedRun
from lrtape.tracking.uri import mask_credentials


class Outbox(Protocol):
    """Takes the frames of one session. Used by the training thread alone."""

    def write(self, frame: Frame) -> bool:
        """Keep one frame and say whether it is safe. Called within every step: never raises, never waits."""

    def tend(self) -> None:
        """See that things go on. Called every now and then within a step: never raises, never waits."""

    def end(self, status: Status, us_per_step: float | None = None, error: str = "") -> None:
        """Nothing more comes; called once. Does not wait.

        Args:
            status: how the training ended.
            us_per_step: what recording one step took, in microseconds.
            error: see `End`.
        """

    def wait(self, timeout_s: float, show_progress: bool) -> str:
        """Wait until everything has arrived.

        Args:
            timeout_s: how long, in seconds.
            show_progress: a bar on stderr, where that is a terminal and it takes more than a second.

        Returns:
            What is missing and what to do, or an empty text.
        """


class NoOutbox:
    """For sessions without a run: keeps nothing."""

    def write(self, frame: Frame) -> bool:  # noqa: ARG002
        """See `Outbox.write`."""
        return True

    def tend(self) -> None:
        """See `Outbox.tend`."""

    def end(self, status: Status, us_per_step: float | None = None, error: str = "") -> None:
        """See `Outbox.end`."""

    def wait(self, timeout_s: float, show_progress: bool) -> str:  # noqa: ARG002
        """See `Outbox.wait`."""
        return ""


class PrintingOutbox:
    """Prints the learning rates on their way into another outbox.

    Args:
        outbox: where everything goes.
        every_n_steps: see `LinePrinter`.
    """

    def __init__(self, outbox: Outbox, every_n_steps: int) -> None:
        self._printer = LinePrinter(every_n_steps)
        self._outbox = outbox
        self.tend = outbox.tend
        self.end = outbox.end
        self.wait = outbox.wait

    def write(self, frame: Frame) -> bool:
        """See `Outbox.write`."""
        self._printer.write(frame)
        return self._outbox.write(frame)


class KeepingOutbox:
    """Keeps in memory what goes into another outbox.

    Args:
        outbox: where everything goes.
        columns: where it is kept.
    """

    def __init__(self, outbox: Outbox, columns: Columns) -> None:
        self._columns = columns
        self._outbox = outbox
        self.tend = outbox.tend
        self.end = outbox.end
        self.wait = outbox.wait

    def write(self, frame: Frame) -> bool:
        """See `Outbox.write`."""
        self._columns.write(frame)
        return self._outbox.write(frame)


class SpoolOutbox:
    """A spool, and the shipper process beside it.

    Args:
        folder: a new one, for this recording alone.
        run_id: the MLflow run to ship to; empty where it is still to be created.
        owns_run: whether the run ends with the session.
        tracking_uri: absolute; reaches the shipper through a pipe, and the spool without credentials.
        options: how it is kept, and what of it is stored.
        planned: the run, where it was planned in the folder.

    Raises:
        ConfigError: the spool cannot be written there.
    """

    def __init__(
        self,
        folder: SpoolFolder,
        run_id: str,
        owns_run: bool,
        tracking_uri: str,
        options: RecordingOptions,
        planned: PlannedRun | None = None,
    ) -> None:
        self._planned = planned
        self._tracking_uri = mask_credentials(tracking_uri)
        self._folder = folder
        header = Header(
            *(run_id, owns_run, self._tracking_uri, now_ms(), folder.recording_id),
            *(options.keep_spool, options.record, options.lr_log10),
        )
        try:
            self._spool = SpoolWriter(folder.spool, header)
        except OSError as error:
            raise ConfigError(
                f"`folder` must be a place where lrtape can write its spool, but {folder.path.parent} is not "
                f"({error}). Choose another, on a disk with room that outlives the job."
            ) from error
        call_in_forked_children(self._spool.close)  # one that steps the optimizer must not write into this spool
        self.write = self._spool.write  # without a call in between: this runs in every step
        self._shipper = ShipperProcess(folder, tracking_uri, options.fsync_every_s)
        self.tend = self._shipper.tend
        self._restoring_failed: OSError | None = None

    def end(self, status: Status, us_per_step: float | None = None, error: str = "") -> None:
        """See `Outbox.end`. In a forked child it does nothing: the spool is its parent's."""
        if self._spool.is_closed:
            return
        is_there = self._spool.is_there()  # before its end: then the shipper may remove it
        end = self._spool.end(status, us_per_step, error)
        if not is_there:
            if self._planned is not None:
                self._planned.restore()
            try:
                self._spool.restore()
            except OSError as error:
                self._restoring_failed = error
        self._spool.close()
        self._shipper.end(end)

    def wait(self, timeout_s: float, show_progress: bool) -> str:
        """Wait for the shipper. See `Outbox.wait`."""
        bar = tqdm(
            total=self._spool.size,
            desc="lrtape: storing",
            unit="B",
            unit_scale=True,
            delay=1.0,
            leave=False,
            disable=None if show_progress else True,  # None: where stderr is no terminal
        )
        with bar:
            said = self._shipper.wait(timeout_s, lambda: bar.update(self._folder.load_progress().offset - bar.n))
        if said is not None:
            if self._planned is not None:
                self._planned.see_views(said.views)
            return said.problem
        problems = []
        if self._spool.lost:
            problems.append(
                f"{self._spool.lost} records could not be written to {self._folder.path} ({self._spool.error}) and are "
                "lost. Choose a `folder` on a disk with room."
            )
        # Nobody but a shipper that is done removes the spool: it may have been killed before it could say so.
        if self._restoring_failed is not None or self._folder.spool.exists():
            problems.append(self._missing())
        return " ".join(problems)

    def _missing(self) -> str:
        if self._restoring_failed is not None:
            return (
                f"{self._folder.path} was deleted while the training ran, and cannot be written anew "
                f"({self._restoring_failed}): what had not arrived at {self._tracking_uri} by then is lost."
            )
        progress = self._folder.load_progress()
        with SpoolReader(self._folder.spool) as reader:
            is_whole = reader.header.record == EVERY_STEP and not reader.header.lr_log10
            due = sum(1 for _ in Selection(reader).points(is_over=True))
        values = "recorded values" if is_whole else "values to be stored"
        why = f" ({progress.error})" if progress.error else ""
        refuses = progress.refused or progress.refused_keys
        when = "The store refuses them: mend that, then run" if refuses else "When the store is back, run"
        if progress.points < due:
            what = f"{due - progress.points} of {due} {values} have not arrived at"
        elif progress.compared:
            what = f"all {due} {values} are stored, but not everything else, at"
        else:
            what = f"all {due} {values} were sent, but could not yet be compared with what is at"
        return (
            f"{what} {self._tracking_uri}{why}. They are safe in {self._folder.path}. "
            f"{when}: {self._folder.rescue_command}"
        )

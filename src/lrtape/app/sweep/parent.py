"""The run of a sweep, of which its trials are the children."""

import fcntl
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from lrtape.app.config import Settings
from lrtape.app.resumed_run import reopen_run
from lrtape.app.sweep.liveness import is_sweep_alive, whereabouts
from lrtape.app.sweep.planning import SweepPlan
from lrtape.app.sweep.record import SweepRecord
from lrtape.app.sweep.slurm_submission import Backlog
from lrtape.errors import ConfigError
from lrtape.recording_options import RecordingOptions
from lrtape.session import Session, open_session
from lrtape.tape import Status
from lrtape.tracking.find_sweep import PLANNED
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.run_colors import NO_CURVE
from lrtape.tracking.sweep_runs import SweepRuns
from lrtape.tracking.tags import COMMAND, DIRECTION, OBJECTIVE, REFUSED, RUN_COLOR, SAME, SWEEP, TRIALS
from lrtape.tracking.uri import mask_credentials
from lrtape.trials import TrialRun, folder_of_sweep, latest_runs

LOCK = "lock"
"""In the folder of a sweep: held by its driver."""


class Parent:
    """The run of a sweep. Used by the driver alone; a context manager that ends it.

    It has a recording of its own, without an optimizer: should the driver be killed, the recording's shipper sets the
    run to KILLED.

    Args:
        run: of the sweep.
        store: where it is.
        session: records into it.
        folder: where spools are.
        sweep_folder: what belongs to this sweep.
        lock: keeps other drivers from it, until it is closed.
    """

    def __init__(
        self,
        run: MlflowRun,
        store: SweepRuns,
        session: Session,
        folder: Path,
        sweep_folder: Path,
        lock: IO[bytes],
    ) -> None:
        self.run_id = run.run_id
        self.tracking_uri = run.tracking_uri
        self.store = store
        self.folder = folder
        self.sweep_folder = sweep_folder
        self._run = run
        self._session = session
        self._lock = lock

    @classmethod
    def open(
        cls, plan: SweepPlan, settings: Settings, command: str, has_more: Callable[[str], bool] = lambda _: False
    ) -> Self:
        """Go on with the run of a sweep that was not finished, or start one.

        Args:
            plan: of the sweep.
            settings: where it is tracked.
            command: what a person has typed.
            has_more: whether there is more to do in a run that is FINISHED, by its id.

        Raises:
            ConfigError: it goes on already, compares something else, or cannot be kept in the tracking folder; or
                ``sweep.resume`` names another sweep.
            TrackingError: the store does not answer, or refuses.
        """
        tracking = settings.tracking
        uri, folder = str(tracking.uri), Path(tracking.folder)
        sweep_folder = folder_of_sweep(folder, plan.id)
        lock = _lock(sweep_folder, plan.title)
        try:
            store = SweepRuns(uri, tracking.experiment)
            found = store.find_parent(plan.id)
            _check(found, plan, settings)
            if found is not None and is_sweep_alive(found, folder, store, Backlog(sweep_folder)):
                raise ConfigError(_goes_on(plan.title, f"run {found.run_id}"))
            if found is not None and _is_unfinished(found, store, plan, settings, has_more):
                print(f"Going on with {plan.title!r}, run {found.run_id}.", flush=True)  # noqa: T201 - a command
                run = reopen_run(tracking, found.run_id)
            else:
                tags = {SWEEP: plan.id, "lrtape.version": version("lrtape"), **trial_tags(plan)}
                tags[RUN_COLOR] = NO_CURVE
                run = MlflowRun.create(uri, tracking.experiment, plan.title, _params(plan, settings), tags)
            try:
                run.set_tags({**trial_tags(plan), **whereabouts(folder), COMMAND: mask_credentials(command)})
                if plan.trials:  # of a search, only its tags tell
                    run.log_text(_list_of(plan), PLANNED)
                SweepRecord(plan.id, run.run_id, plan.title, sys.argv[1:], str(Path.cwd())).save(folder)
                session = open_session(
                    run, None, RecordingOptions(folder), tracking.close_timeout_s, shows_progress=False
                )
            except BaseException as error:  # Ctrl-C, too, shall leave no run that is RUNNING for ever
                run.finish(Status.after(error))
                raise
        except BaseException:
            lock.close()
            raise
        return cls(run, store, session, folder, sweep_folder, lock)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run. A failure is warned about."""
        self._run.set_tags(tags)

    def how_to_look(self) -> str:
        """Lines for people; the page of the run is its report."""
        return self._run.how_to_look()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._session.close(Status.after(error))
        finally:
            self._lock.close()


def _lock(sweep_folder: Path, title: str) -> IO[bytes]:
    """Make the folder of a sweep, and keep other drivers from it.

    Raises:
        ConfigError: one is at it, or the folder cannot be made.
    """
    try:
        sweep_folder.mkdir(parents=True, exist_ok=True)
        lock = (sweep_folder / LOCK).open("ab")
    except OSError as error:
        raise ConfigError(f"`tracking.folder` must be a place where lrtape can write, but is not ({error}).") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(_goes_on(title, str(sweep_folder))) from None
    return lock


def _goes_on(title: str, where: str) -> str:
    return (
        f"a sweep must be over before it is begun again, but {title!r} ({where}) still goes on. Wait for it, or stop "
        "it first."
    )


def _check(found: TrialRun | None, plan: SweepPlan, settings: Settings) -> None:
    """See that a sweep that was found is the one that is meant.

    Raises:
        ConfigError: ``sweep.resume`` names another one; or one of this name compares something else.
    """
    resume = settings.sweep.resume
    if resume is not None and resume not in {plan.id, found.run_id if found else None}:
        raise ConfigError(
            f"`sweep.resume` must name the sweep of this command, {plan.id}, but is {resume!r} instead: its grid or "
            "its config is another one. Give the command that began it."
        )
    if found is None:
        return
    compared = found.tags.get(DIRECTION), found.tags.get(OBJECTIVE)
    if compared != (plan.direction, plan.objective):
        raise ConfigError(
            f"a sweep must compare the same metric whenever it goes on, but {plan.title!r} (run {found.run_id}) "
            f"compares the {' of '.join(map(str, compared))}, and not the {plan.direction} of {plan.objective}. Give "
            "it another `sweep.name`."
        )


def _is_unfinished(
    found: TrialRun, store: SweepRuns, plan: SweepPlan, settings: Settings, has_more: Callable[[str], bool]
) -> bool:
    if found.status != Status.FINISHED or settings.sweep.resume is not None:
        return True
    runs = latest_runs(store.children(found.run_id))  # of a name that was given more values, some have none
    return any(trial.is_trained and trial.id not in runs for trial in plan.trials) or has_more(found.run_id)


def _list_of(plan: SweepPlan) -> str:
    """Every trial, as JSON; its name and its values hold no credentials, but its overrides may."""
    trials = [replace(trial, overrides=tuple(map(mask_credentials, trial.overrides))) for trial in plan.trials]
    return msgspec.json.encode(trials).decode()


def _params(plan: SweepPlan, settings: Settings) -> Mapping[str, str]:
    return {
        "sweep.objective": plan.objective,
        "sweep.direction": plan.direction,
        "sweep.seeds": str(settings.sweep.seeds),
        **{f"sweep.{key.lstrip('+')}": ", ".join(texts) for key, texts in plan.swept.items()},
    }


def trial_tags(plan: SweepPlan) -> dict[str, str]:
    """What a sweep's run says of its trials."""
    refused = {trial.name: trial.refusal for trial in plan.trials if trial.refusal}
    # A search may suggest the same point twice: that is no other one.
    same = {trial.name: trial.same_as for trial in plan.trials if trial.same_as not in {"", trial.id}}
    return {
        OBJECTIVE: plan.objective,
        DIRECTION: plan.direction,
        TRIALS: str(len(plan.trials)),
        **({REFUSED: json.dumps(refused)} if refused else {}),
        **({SAME: json.dumps(same)} if same else {}),
    }

"""The run of a sweep, of which its trials are the children."""

import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from lrtape.app.config import Settings
from lrtape.app.resumed_run import reopen_run
from lrtape.app.sweep.liveness import is_recording
from lrtape.app.sweep.planning import SweepPlan
from lrtape.app.sweep.record import SweepRecord
from lrtape.errors import ConfigError
from lrtape.session import Session, open_session
from lrtape.tape import Status
from lrtape.tracking import sweep_runs
from lrtape.tracking.find_sweep import PLANNED
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.sweep_runs import SweepRuns
from lrtape.tracking.uri import mask_credentials
from lrtape.trials import RUNNING


class Parent:
    """The run of a sweep. Used by the driver alone; a context manager that ends it.

    It has a recording of its own, without an optimizer: should the driver be killed, the recording's shipper sets the
    run to Status.KILLED.

    Args:
        run: of the sweep.
        store: where it is.
        session: records into it.
        folder: where spools are.
        sweep_folder: what belongs to this sweep.
    """

    def __init__(self, run: MlflowRun, store: SweepRuns, session: Session, folder: Path, sweep_folder: Path) -> None:
        self.run_id = run.run_id
        self.tracking_uri = run.tracking_uri
        self.store = store
        self.folder = folder
        self.sweep_folder = sweep_folder
        self._run = run
        self._session = session

    @classmethod
    def open(
        cls, plan: SweepPlan, settings: Settings, command: str, has_more: Callable[[str], bool] = lambda _: False
    ) -> Self:
        """Go on with the run of a sweep that was not finished, or start one.

        Args:
            plan: of the sweep.
            settings: where it is tracked.
            command: what a person has typed.
            has_more: whether there is more to do in a run that is Status.FINISHED, by its id.

        Raises:
            ConfigError: it goes on already; or ``sweep.resume`` names another sweep.
            TrackingError: the store does not answer, or refuses.
        """
        tracking = settings.tracking
        uri, folder = str(tracking.uri), Path(tracking.folder)
        store = SweepRuns(uri, tracking.experiment)
        found = store.find_parent(plan.id)
        resume = settings.sweep.resume
        if resume is not None and resume not in {plan.id, found[0] if found else None}:
            raise ConfigError(
                f"`sweep.resume` must name the sweep of this command, {plan.id}, but is {resume!r} instead: its grid "
                "or its config is another one. Give the command that began it."
            )
        if found is not None and found[1] == RUNNING and is_recording(found[0], folder):
            raise ConfigError(
                f"a sweep must be over before it is begun again, but {plan.title!r} (run {found[0]}) still goes on. "
                "Wait for it, or stop it first."
            )
        if found is not None and (found[1] != Status.FINISHED or resume is not None or has_more(found[0])):
            print(f"Going on with {plan.title!r}, run {found[0]}.", flush=True)  # noqa: T201 - a command
            run = reopen_run(tracking, found[0])
        else:
            tags = {sweep_runs.SWEEP: plan.id, "lrtape.version": version("lrtape")}
            run = MlflowRun.create(uri, tracking.experiment, plan.title, _params(plan, settings), tags)
        run.set_tags({**trial_tags(plan), sweep_runs.COMMAND: mask_credentials(command)})
        if plan.trials:  # of a search, only its tags tell
            run.log_text(mask_credentials(msgspec.json.encode(plan.trials).decode()), PLANNED)
        sweep_folder = SweepRecord(plan.id, run.run_id, plan.title, sys.argv[1:], str(Path.cwd())).save(folder)
        session = open_session(run, None, folder, False, None, tracking.close_timeout_s, shows_progress=False)
        return cls(run, store, session, folder, sweep_folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run. A failure is warned about."""
        self._run.set_tags(tags)

    def how_to_look(self) -> str:
        """Lines for people."""
        return self._run.how_to_look()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close(Status.after(error))


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
        sweep_runs.OBJECTIVE: plan.objective,
        sweep_runs.DIRECTION: plan.direction,
        sweep_runs.TRIALS: str(len(plan.trials)),
        **({sweep_runs.REFUSED: json.dumps(refused)} if refused else {}),
        **({sweep_runs.SAME: json.dumps(same)} if same else {}),
    }

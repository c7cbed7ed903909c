"""The loop of a sweep: who is done, who is still at it, who is next."""

import time
from collections.abc import Collection, Sequence

from hydra.core.utils import JobReturn, JobStatus

from lrtape.app.sweep.child import Child
from lrtape.app.sweep.jobs import Launch
from lrtape.app.sweep.liveness import DIED, LOOK_S, STARTING_S, bury, is_alive, is_left_behind
from lrtape.app.sweep.parent import Parent
from lrtape.app.sweep.planning import SweepPlan
from lrtape.app.sweep.slurm_submission import Backlog
from lrtape.app.sweep.summary import summarize
from lrtape.errors import LRTapeError, TrackingError
from lrtape.tape import Status
from lrtape.tracking.sink import RefusedError
from lrtape.tracking.tags import SLURM_JOB
from lrtape.trials import RUNNING, Trial, TrialRun, latest_runs

DIED_BEFORE = f"{DIED} before it had a run"
WIND_UP_S = STARTING_S + 5.0
"""How long the shippers of dead trainings have, to end their runs by themselves."""
LOOK_AT_END_S = 0.5
"""Between two looks whether they have."""
PATIENCE_S = 600.0
"""How long the store may be away."""


class Rounds:
    """Launches the trials of a sweep, until each one is finished or has failed once. What counts is in the store.

    Args:
        plan: of the sweep.
        parent: its run.
        launch: trains some trials.
        max_batch_size: how many it is given at a time; ``None`` for all.
        stops_on_failure: whether no more is launched when one has failed.
    """

    def __init__(
        self, plan: SweepPlan, parent: Parent, launch: Launch, max_batch_size: int | None, stops_on_failure: bool
    ) -> None:
        self._plan = plan
        self._trials = {trial.id: trial for trial in plan.trials if trial.is_trained}
        self._parent = parent
        self._launch = launch
        self._max_batch_size = max_batch_size
        self._stops_on_failure = stops_on_failure
        self._backlog = Backlog(parent.sweep_folder)
        self._tried: set[str] = set()
        """Launched here, and begun."""
        self._alone: set[str] = set()
        """Cut off when a process died that may have been another trial's: to be launched once more, by itself."""
        self._lost: dict[str, str] = {}
        """Launched here and never begun: why."""

    def run(self) -> None:
        """Train what is not trained yet; what another process trains meanwhile is waited for.

        Raises:
            TrackingError: the store does not answer.
        """
        self._report_finished()
        while True:
            jobs = self._backlog.jobs()
            runs = self._look()
            alive = {run.trial_id for run in runs.values() if self._is_alive(run)}
            alive |= {trial_id for trial_id, job in jobs.items() if not _is_through(runs.get(trial_id), job)}
            due = [
                trial
                for trial in self._trials.values()
                if trial.id not in alive | self._tried | self._lost.keys()
                and not (trial.id in runs and runs[trial.id].is_finished)
            ]
            if due:
                dead = [runs[t.id] for t in due if t.id in runs and runs[t.id].status == RUNNING]
                for run in dead:
                    self._bury(run)
                if dead:
                    continue  # Some were trained to the end, and only not shipped.
                together = [trial for trial in due if trial.id not in self._alone]
                self._launch_batch(together[: self._max_batch_size] or due[:1])
            elif alive:
                time.sleep(LOOK_S)
            else:
                return
            if self._stops_on_failure and self._has_failed():
                return

    def wind_up(self) -> dict[str, TrialRun]:
        """See that nobody is RUNNING any more; returns the runs that count, by trial.

        Raises:
            TrackingError: the store does not answer.
        """
        deadline = time.monotonic() + WIND_UP_S
        while running := [run for run in self._children() if run.status == RUNNING]:
            is_late = time.monotonic() > deadline
            for run in running:
                if is_left_behind(run, self._parent.folder) or (is_late and not self._is_alive(run)):
                    self._bury(run)
            if is_late:
                break
            time.sleep(LOOK_AT_END_S)
        runs = self._look()
        for trial_id in self._tried | self._lost.keys():
            if trial_id not in runs:
                trial = self._trials[trial_id]
                error = self._lost.get(trial_id, DIED_BEFORE)
                self._parent.store.put_failed(
                    self._parent.run_id, trial.name, Child(self._parent.run_id, trial).tags(self._parent.folder), error
                )
        return self._look()

    def summary(self) -> tuple[str, str]:
        """See `summarize`.

        Raises:
            TrackingError: the store does not answer.
        """
        return summarize(self._plan, self._look())

    def _launch_batch(self, trials: Sequence[Trial]) -> None:
        before = {run.run_id for run in self._children()}
        problem = ""
        returns: Sequence[JobReturn] = ()
        try:
            returns = self._launch(trials)
        except LRTapeError:
            raise
        except Exception as error:  # noqa: BLE001 - a worker was killed, say; the others go on
            problem = f"{type(error).__name__}: {error}"
        begun = {run.trial_id for run in self._children() if run.run_id not in before}
        self._tried |= begun
        if problem and len(trials) > 1:
            # joblib ends all its workers when one dies, and nobody knows which one that was.
            runs = self._look()
            cut = {key for key in begun if not runs[key].is_finished and runs[key].status != Status.FAILED}
            self._alone |= cut
            self._tried -= cut
        self._lost |= _lost_of(trials, begun, returns, problem)

    def _has_failed(self) -> bool:
        runs = self._look()
        return bool(self._lost) or any(
            trial_id in runs and not runs[trial_id].is_finished and not self._is_alive(runs[trial_id])
            for trial_id in self._tried
        )

    def _report_finished(self) -> None:
        runs = self._look()
        n_finished = sum(trial_id in runs and runs[trial_id].is_finished for trial_id in self._trials)
        if n_finished:
            print(f"{n_finished} of {len(self._trials)} trials are finished already.", flush=True)  # noqa: T201

    def _children(self) -> list[TrialRun]:
        """Of the sweep's run. A store that is away for a while ends no sweep, whose trainings go on without it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._parent.store.children(self._parent.run_id)
            except RefusedError:
                raise
            except TrackingError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_S)

    def _look(self) -> dict[str, TrialRun]:
        return latest_runs(self._children())

    def _is_alive(self, run: TrialRun) -> bool:
        return is_alive(run, self._parent.folder, self._parent.store, self._backlog)

    def _bury(self, run: TrialRun) -> None:
        bury(run, self._parent.folder, self._parent.store)


def _lost_of(
    trials: Sequence[Trial], begun: Collection[str], returns: Sequence[JobReturn], problem: str
) -> dict[str, str]:
    """Which trials of a batch were not begun, and will not be: why, by their ids. The others are launched once more.

    The launchers tell of a process that has died each in its own way:

    - Hydra's own, one at a time, trains in this process. Whatever it returns was begun, or has failed before.
    - joblib ends all workers when one dies, and raises. Whatever was not begun by then has done nothing wrong.
    - Slurm returns UNKNOWN for what a job did not come to before it died, and FAILED for what somebody has cancelled.
    - Ray has a process for each trial, and returns FAILED for one that has died.

    Args:
        trials: of the batch.
        begun: the ids of those that have a run.
        returns: of each trial; nothing where the launcher has raised.
        problem: what it has raised; empty for nothing.
    """
    missing = [trial.id for trial in trials if trial.id not in begun]
    if problem:
        waiting = set(missing)
    else:
        waiting = {t.id for t, job in zip(trials, returns, strict=False) if job.status == JobStatus.UNKNOWN}
    if not begun and (problem or len(waiting) == len(trials)):
        waiting = set()  # nothing came of it, and to launch them once more would change nothing
    failed = [(t, job) for t, job in zip(trials, returns, strict=False) if job.status == JobStatus.FAILED]
    errors = {trial.id: str(job._return_value) for trial, job in failed}
    return {trial_id: problem or errors.get(trial_id) or DIED_BEFORE for trial_id in missing if trial_id not in waiting}


def _is_through(run: TrialRun | None, job: str) -> bool:
    """Whether the latest run of a trial says that a job of Slurm, which may go on with other trials, has done it.

    A training that is FINISHED has its objective a moment later.
    """
    if run is None or run.is_finished:
        return run is not None
    has_ended = run.status not in {RUNNING, Status.FINISHED} or run.objective is not None
    return has_ended and run.tags.get(SLURM_JOB) == job

"""Drives a search: asks a study what to train, gives that to a launcher, and tells the study what came of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from optuna.trial import TrialState

from lrtape.app.config import STOP, Settings, sentence
from lrtape.app.interrupts import Interrupts
from lrtape.app.program import typed_command
from lrtape.app.sweep.callback import SweepCallback
from lrtape.app.sweep.conduct import conduct
from lrtape.app.sweep.jobs import JobLauncher, Launch, check_sweep, choice_of, composing
from lrtape.app.sweep.launchers import n_jobs_of, on_interrupt_of
from lrtape.app.sweep.liveness import DIED, LOOK_S
from lrtape.app.sweep.optuna_settings import OptunaSettings
from lrtape.app.sweep.parent import Parent, trial_tags
from lrtape.app.sweep.planning import Planner, SweepPlan
from lrtape.app.sweep.rounds import Rounds
from lrtape.app.sweep.search_plan import describe, plan_search
from lrtape.app.sweep.space import Space
from lrtape.app.sweep.study import JOURNAL, Study, Suggestion, build_pruner, count_results, sampler_of
from lrtape.app.sweep.study_link import StudyLink
from lrtape.app.sweep.summary import summarize
from lrtape.errors import ConfigError
from lrtape.tracking.tags import TRIALS
from lrtape.trials import RUNNING, Trial, TrialRun, folder_of_sweep, latest_runs

REMEDY = "The same command trains others in their place."


def drive_search(
    config: DictConfig,
    context: HydraContext,
    task_function: TaskFunction,
    arguments: Sequence[str],
    options: OptunaSettings,
) -> None:
    """Train what a study suggests, as the children of one run, until enough trials have a result.

    What concerns every trial is refused before anything is started. The same command goes on with a search that was cut
    off, or that has too few results by now.

    Args:
        config: of the search, as Hydra composed it, with Hydra's own node.
        context: Hydra's.
        task_function: trains one trial.
        arguments: the overrides of the command line.
        options: of the search.

    Raises:
        ConfigError: something is wrong with the search, or it goes on already.
        TrackingError: the tracking store cannot be reached.
        SweepFailedError: a trial has failed; the others were trained.
        Interrupted: by a signal; nobody trains any more.
    """
    options.check()
    settings = check_sweep(config)
    if not settings.tracking.enabled:
        raise ConfigError(
            "`tracking.enabled` must be true for hydra/sweeper=lrtape_optuna, which reads from the store what a trial "
            "came to, but is false."
        )
    planner = Planner(settings, composing(config, context))
    plan, spaces = plan_search(settings, arguments, planner, choice_of(config))
    n_jobs = options.n_jobs or min(n_jobs_of(config), options.n_trials)
    sampler = sampler_of(options.sampler, is_parallel=n_jobs > 1)
    build_pruner(options.pruner, planner.n_epochs)
    if settings.sweep.dry_run:
        print(describe(plan, spaces, options))  # noqa: T201 - a command
        return
    launch = JobLauncher.of(config, context, task_function, settings, n_jobs)
    journal = folder_of_sweep(Path(settings.tracking.folder), plan.id) / JOURNAL
    callback = SweepCallback.of(context)

    def has_more(run_id: str) -> bool:
        return 0 < count_results(journal, run_id) < options.n_trials

    with Interrupts(), Parent.open(plan, settings, typed_command(), has_more) as parent:
        callback.join(parent.run_id, settings.tracking.experiment, parent.tracking_uri, parent.sweep_folder)
        callback.study = StudyLink(str(journal), parent.run_id, options.pruner, planner.n_epochs)
        study = Study.open(callback.study, plan.direction, sampler, options.seed)

        def train(trials: Sequence[Trial]) -> Sequence[JobReturn]:
            callback.trials = {trial.overrides: trial for trial in trials}
            return launch(trials)

        max_failed = 0 if settings.sweep.on_failure == STOP else options.max_failed
        search = Search(plan, study, spaces, planner, parent, train, settings, options.n_trials, n_jobs, max_failed)
        conduct(search, parent, on_interrupt_of(config))


class Search:
    """Asks, trains and tells, until enough trials have a result.

    A trial that fails takes a place of this command, and none of the next one's.

    Args:
        plan: of the search, without trials.
        study: suggests.
        spaces: where from.
        planner: makes trials of suggestions.
        parent: the run of the search.
        train: trains some trials, and returns when they are done.
        settings: of the search.
        n_trials: how many shall have a result.
        n_jobs: how many are trained at a time.
        max_failed: how many may fail before no more are begun; ``None`` for any number.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: Study,
        spaces: Sequence[Space],
        planner: Planner,
        parent: Parent,
        train: Launch,
        settings: Settings,
        n_trials: int,
        n_jobs: int,
        max_failed: int | None,
    ) -> None:
        self._plan = plan
        self._study = study
        self._spaces = spaces
        self._planner = planner
        self._parent = parent
        self._train = train
        self._seed = settings.seed
        self._n_trials = n_trials
        self._n_jobs = n_jobs
        self._max_failed = max_failed
        self._first = 0
        """The number of the first suggestion of this command."""

    def run(self) -> None:
        """Train until enough trials have a result; what another process trains meanwhile is waited for.

        Raises:
            TrackingError: the store does not answer.
        """
        self.wind_up()
        while any(suggestion.state == TrialState.RUNNING for suggestion in self._study.suggestions()):
            time.sleep(LOOK_S)
            self.wind_up()
        self._first = len(self._study.suggestions())
        n_results = sum(suggestion.has_result for suggestion in self._study.suggestions())
        if n_results:
            print(f"{n_results} of {self._n_trials} trials have a result already.", flush=True)  # noqa: T201
        self._note()
        while batch := self._ask_for_some():
            rounds = self._rounds(batch)
            rounds.run()
            self._settle(rounds.wind_up())
        self._note()

    def wind_up(self) -> None:
        """See that nobody is RUNNING whose process is dead, and tell the study of all that are over.

        Raises:
            TrackingError: the store does not answer.
        """
        if any(suggestion.state == TrialState.RUNNING for suggestion in self._study.suggestions()):
            self._settle(self._rounds([]).wind_up())

    def summary(self) -> tuple[str, str]:
        """What came of the trials that have a result, or failed in this command; and a sentence on the latter.

        Raises:
            TrackingError: the store does not answer.
        """
        shown = [
            suggestion
            for suggestion in self._study.suggestions()
            if suggestion.has_result or suggestion.number >= self._first
        ]
        plan = replace(self._plan, trials=_distinct(shown))
        return summarize(plan, latest_runs(self._parent.store.children(self._parent.run_id)), REMEDY)

    def _rounds(self, trials: Sequence[Trial]) -> Rounds:
        return Rounds(replace(self._plan, trials=tuple(trials)), self._parent, self._train, None, False)

    def _ask_for_some(self) -> list[Trial]:
        """As many trials as are trained at a time, if so many are left; what need not be trained is told at once."""
        batch: list[Trial] = []
        while len(batch) < self._n_jobs and self._has_more():
            trial = self._ask()
            if trial.is_trained:
                batch.append(trial)
        return batch

    def _has_more(self) -> bool:
        suggestions = self._study.suggestions()
        failed = [one for one in suggestions[self._first :] if one.state == TrialState.FAIL]
        if self._max_failed is not None and len(failed) > self._max_failed:
            return False
        n_running = sum(suggestion.state == TrialState.RUNNING for suggestion in suggestions)
        n_results = sum(suggestion.has_result for suggestion in suggestions)
        return n_results + n_running + len(failed) < self._n_trials

    def _ask(self) -> Trial:
        earlier = self._study.suggestions()
        number, point = self._study.ask(self._spaces)
        try:
            trial, shared = self._planner.plan(point, point.overrides, self._seed)
        except Exception as error:  # noqa: BLE001 - whatever a user's own classes raise
            trial, shared = Trial("", point.name, point.overrides, point.values, refusal=sentence(error)), ()
        trial = replace(trial, number=number)
        twin = "/".join(shared)
        # What has failed in an earlier command is trained once more.
        known = [
            one
            for one in earlier
            if one.same_as is None and (one.number >= self._first or one.state != TrialState.FAIL)
        ]
        same = next((one for one in known if one.trial and _is_same(one, trial, twin)), None)
        if trial.refusal or same is None or same.trial is None:
            self._study.note(number, trial, twin)
            if trial.refusal:
                self._fail(number, trial, trial.refusal)
            return trial
        trial = replace(trial, same_as=same.trial.id)
        self._study.note(number, trial, twin, same.number)
        self._follow(number, trial, same)
        return trial

    def _follow(self, number: int, trial: Trial, same: Suggestion) -> None:
        """Tell of a suggestion what came of the one that it is equal to, if that is over."""
        if same.state == TrialState.COMPLETE and same.value is not None:
            self._study.tell(number, same.value)
        elif same.state == TrialState.PRUNED:
            self._study.tell_pruned(number)
        elif same.state == TrialState.FAIL:
            self._fail(number, trial, same.error)

    def _fail(self, number: int, trial: Trial, error: str) -> None:
        self._study.tell_failed(number, error)
        print(f"{trial.name} has no result: {error}", flush=True)  # noqa: T201 - a command

    def _settle(self, runs: Mapping[str, TrialRun]) -> None:
        for one in self._study.suggestions():
            if one.state != TrialState.RUNNING or one.same_as is not None:
                continue
            run = runs.get(one.trial.id) if one.trial is not None else None
            if run is not None and run.is_finished and run.objective is not None:
                self._study.tell(one.number, run.objective)
            elif run is not None and run.is_pruned:
                self._study.tell_pruned(one.number)
            elif run is None or run.status != RUNNING:
                self._study.tell_failed(one.number, DIED if run is None else run.error or run.status)
        suggestions = self._study.suggestions()
        for one in suggestions:
            if one.state == TrialState.RUNNING and one.same_as is not None and one.trial is not None:
                self._follow(one.number, one.trial, suggestions[one.same_as])
        self._note()

    def _note(self) -> None:
        """Say on the parent which suggestions are not trained, and why."""
        plan = replace(self._plan, trials=tuple(one.trial for one in self._study.suggestions() if one.trial))
        self._parent.set_tags({**trial_tags(plan), TRIALS: str(self._n_trials)})


def _is_same(one: Suggestion, trial: Trial, twin: str) -> bool:
    """Whether a trial would train alike; nobody knows of two that are not equal and have no twin."""
    return one.trial is not None and (one.trial.id == trial.id or (twin != "" and one.twin == twin))


def _distinct(suggestions: Sequence[Suggestion]) -> tuple[Trial, ...]:
    """Their trials, without those that are equal to others."""
    trials = [one.trial for one in suggestions if one.trial is not None and one.same_as is None]
    return tuple({trial.overrides: trial for trial in trials}.values())

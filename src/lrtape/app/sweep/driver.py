"""Drives a sweep over a grid: plans its trials, and gives them to a launcher."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrtape.app.config import STOP, Settings
from lrtape.app.interrupts import Interrupts
from lrtape.app.program import typed_command
from lrtape.app.sweep.callback import SweepCallback
from lrtape.app.sweep.conduct import conduct
from lrtape.app.sweep.jobs import JobLauncher, Launch, check_sweep, choice_of, composing
from lrtape.app.sweep.launchers import n_jobs_of, on_interrupt_of
from lrtape.app.sweep.parent import Parent
from lrtape.app.sweep.planning import SweepPlan, plan_sweep
from lrtape.app.sweep.rounds import Rounds
from lrtape.app.sweep.summary import list_trials, summarize_returns
from lrtape.errors import ConfigError, SweepFailedError


def drive(
    config: DictConfig,
    context: HydraContext,
    task_function: TaskFunction,
    arguments: Sequence[str],
    max_batch_size: int | None,
) -> None:
    """Train every trial of a sweep that is not trained yet, as the children of one run.

    Everything that can be refused is refused before anything is started. The same command goes on with a sweep that was
    cut off.

    Args:
        config: of the sweep, as Hydra composed it, with Hydra's own node.
        context: Hydra's.
        task_function: trains one trial.
        arguments: the overrides of the command line.
        max_batch_size: how many trials the launcher is given at a time; ``None`` for all.

    Raises:
        ConfigError: something is wrong with the sweep, or it goes on already.
        TrackingError: the tracking store cannot be reached.
        SweepFailedError: a trial has failed; all others were trained, unless ``sweep.on_failure`` says stop.
        Interrupted: by a signal; nobody trains any more.
    """
    settings = check_sweep(config)
    if max_batch_size is not None and max_batch_size < 1:
        raise ConfigError(
            f"`hydra.sweeper.max_batch_size` must be at least 1, or null, but is {max_batch_size} instead."
        )
    plan = plan_sweep(settings, arguments, composing(config, context), choice_of(config))
    if settings.sweep.dry_run:
        print(list_trials(plan))  # noqa: T201 - a command
        return
    if not any(trial.is_trained for trial in plan.trials):
        raise ConfigError(
            f"a trial must have a schedule that `checks=strict` takes, but none has:\n{list_trials(plan)}"
        )
    n_trained = sum(trial.is_trained for trial in plan.trials)
    if settings.sweep.on_failure == STOP:
        max_batch_size = max_batch_size or n_jobs_of(config)
    launch = JobLauncher.of(config, context, task_function, settings, min(n_trained, max_batch_size or n_trained))
    callback = SweepCallback.of(context)
    callback.trials = {trial.overrides: trial for trial in plan.trials}
    if settings.tracking.enabled:
        _drive_tracked(plan, settings, callback, launch, max_batch_size, on_interrupt_of(config))
    else:
        _drive_untracked(plan, settings, launch, max_batch_size)


def _drive_tracked(
    plan: SweepPlan,
    settings: Settings,
    callback: SweepCallback,
    launch: Launch,
    max_batch_size: int | None,
    on_interrupt: str,
) -> None:
    with Interrupts(), Parent.open(plan, settings, typed_command()) as parent:
        callback.join(parent.run_id, settings.tracking.experiment, parent.tracking_uri, parent.sweep_folder)
        rounds = Rounds(plan, parent, launch, max_batch_size, settings.sweep.on_failure == STOP)
        conduct(rounds, parent, on_interrupt)


def _drive_untracked(plan: SweepPlan, settings: Settings, launch: Launch, max_batch_size: int | None) -> None:
    trials = [trial for trial in plan.trials if trial.is_trained]
    size = max_batch_size or len(trials)
    returns: list[JobReturn] = []
    for start in range(0, len(trials), size):
        batch = launch(trials[start : start + size])
        returns += batch
        if settings.sweep.on_failure == STOP and any(job.status != JobStatus.COMPLETED for job in batch):
            break
    text, failed = summarize_returns(plan, trials, returns)
    print(f"\n{text}")  # noqa: T201 - a command
    if failed:
        raise SweepFailedError(failed)

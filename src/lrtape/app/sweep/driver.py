"""Drives a sweep: plans its trials, gives them to a launcher, and says how it ended."""

import copy
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from lrtape.app.config import STOP, Settings, check
from lrtape.app.interrupts import Detached, Interrupts
from lrtape.app.program import typed_command
from lrtape.app.sweep.callback import SweepCallback
from lrtape.app.sweep.grid import quote
from lrtape.app.sweep.launchers import gpus_to_share, n_jobs_of, on_interrupt_of, prepare_launcher
from lrtape.app.sweep.parent import Parent
from lrtape.app.sweep.planning import Compose, SweepPlan, plan_sweep
from lrtape.app.sweep.reporting import companion_of, farewell, report_of
from lrtape.app.sweep.rounds import Rounds
from lrtape.app.sweep.summary import list_trials, summarize, summarize_returns
from lrtape.app.sweep.trial import Trial
from lrtape.errors import ConfigError, SweepFailedError

Launch = Callable[[Sequence[Trial]], Sequence[JobReturn]]

_MAX_FOLDER_CHARACTERS = 100


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
        try:
            with companion_of(parent):
                rounds.run()
        except Detached:
            raise
        except KeyboardInterrupt as interruption:
            rounds.interrupted(interruption, on_interrupt)
            rounds.wind_up()
            print(farewell(parent), file=sys.stderr, flush=True)  # noqa: T201 - a command
            raise
        runs = rounds.wind_up()
        text, failed = summarize(plan, runs)
        print(f"\n{report_of(parent) or text}\n{parent.how_to_look()}", flush=True)  # noqa: T201 - a command
        if failed:
            raise SweepFailedError(failed)


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


def check_sweep(config: DictConfig) -> Settings:
    """The settings of a sweep, as Hydra composed it, with Hydra's own node; raises what `check` does."""
    return check(_of_the_task(config), Path(config.hydra.runtime.cwd))


def choice_of(config: DictConfig) -> str:
    """Which config of the group ``sweep`` was chosen, for people; empty for none."""
    choice = config.hydra.runtime.choices.get("sweep")
    return "" if choice in {None, "default"} else str(choice)


def composing(config: DictConfig, context: HydraContext) -> Compose:
    """What makes the config of a trial from its overrides."""

    def compose(overrides: Sequence[str]) -> DictConfig:
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        HydraConfig.instance().set_config(composed)
        return _of_the_task(composed)

    return compose


class JobLauncher:
    """Gives trials to a launcher of Hydra's, with folders that are named after what is trained in them."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._n_launched = 0

    @classmethod
    def of(
        cls,
        config: DictConfig,
        context: HydraContext,
        task_function: TaskFunction,
        settings: Settings,
        n_trials: int,
    ) -> "JobLauncher":
        """The one that the config asks for, fit to this machine; raises what `prepare_launcher` does."""
        prepare_launcher(config, settings.tracking.uri if settings.tracking.enabled else None, n_trials)
        SweepCallback.of(context).gpus = gpus_to_share(config)
        return cls(
            Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task_function, config=config)
        )

    def __call__(self, trials: Sequence[Trial]) -> Sequence[JobReturn]:
        """Train these, and return when they are done."""
        jobs = [[*trial.overrides, f"hydra.sweep.subdir={quote(_folder(trial))}"] for trial in trials]
        returns = self._launcher.launch(jobs, initial_job_idx=self._n_launched)
        self._n_launched += len(trials)
        return returns


def _folder(trial: Trial) -> str:
    name = re.sub(r"[^\w.=,+-]+", "_", trial.name)[:_MAX_FOLDER_CHARACTERS].strip("._")
    return f"{name}-{trial.id[:4]}"


def _of_the_task(config: DictConfig) -> DictConfig:
    """A copy without Hydra's own node."""
    task = copy.deepcopy(config)
    with read_write(task):
        task._set_flag("struct", False)
        del task["hydra"]
        task._set_flag("struct", True)
    return task

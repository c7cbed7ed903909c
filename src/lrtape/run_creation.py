"""A planned run is created by a companion, which has imported mlflow already, while the training process has not."""

from lrtape.companion_words import EXIT_AGAIN, RunRefused
from lrtape.errors import ConfigError, TrackingError
from lrtape.idle_companions import IDLE_COMPANIONS
from lrtape.tracking.planned_run import PlannedRun
from lrtape.tracking.sink import RefusedError

_ERRORS = {kind.__name__: kind for kind in (ConfigError, TrackingError, RefusedError)}


def create_run(run: PlannedRun) -> None:
    """Create the run that is planned; where no companion can, this process does.

    Waits as long as the store takes. Called by the training thread, before the training.

    Raises:
        ConfigError: see `MlflowRun.create`.
        TrackingError: see there.
    """
    if not _is_created_by_companion(run):
        from lrtape.tracking.realize import create  # late: mlflow takes a second to import

        try:
            made = create(run.folder, run.tracking_uri, is_second_try=True)
        except KeyboardInterrupt:
            run.discard()
            raise
        run.created(made.run_id, made.experiment_id)


def _is_created_by_companion(run: PlannedRun) -> bool:
    try:
        companion = IDLE_COMPANIONS.take(run.tracking_uri)
    except OSError:
        return False
    try:
        answer = companion.create_run(run.folder.path, run.tracking_uri)
    except BaseException:  # Ctrl-C, too, shall leave no run that is RUNNING for ever: the companion ends it.
        companion.forget()
        raise
    if answer is None:
        wants_another = companion.exit_code == EXIT_AGAIN  # It had been idle for long.
        companion.kill()
        return wants_another and _is_created_by_companion(run)
    IDLE_COMPANIONS.give_back(companion, run.tracking_uri)
    if not isinstance(answer, RunRefused):
        run.created(answer.run_id, answer.experiment_id)
    elif answer.kind in _ERRORS:
        raise _ERRORS[answer.kind](answer.text)
    return run.is_created

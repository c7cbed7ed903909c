"""Ends a trial that is not worth its remaining epochs. Runs in the process that trains it."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lrtape.app.sweep.child import current_child
from lrtape.app.trainer import AfterEpoch, Trainer
from lrtape.errors import PrunedError, StoppedOnFindingError, TrainingDivergedError
from lrtape.tracking.tags import PRUNED

if TYPE_CHECKING:
    from lrtape.app.train import Run


def report_epochs(watch: Callable[[], None], trainer: Trainer, run: "Run", objective: str) -> AfterEpoch:
    """What is to be called after each epoch: `watch`, and in a search the report of the objective to the study.

    A report takes some milliseconds, and writes a line or two to the study's journal.

    Args:
        watch: looks at what was recorded.
        trainer: knows which epoch it was.
        run: is tagged when it is pruned, at once: its end may come from another process.
        objective: the metric that is reported, under the number of epochs made; an epoch without it is not.

    Returns:
        A function that raises, in a search:
            PrunedError: the study's pruner says so, but not after the last epoch; or `watch` has found what
                ``trainer.stop_on`` names.
            TrainingDivergedError: the objective is not finite, which no pruner can compare.
    """
    child = current_child.get()
    if child is None or child.study is None or child.trial.number is None:
        return lambda _: watch()

    from lrtape.app.sweep.study import EpochReporter  # late: optuna is an extra

    reporter = EpochReporter(child.study, child.trial.number)

    def prune(reason: str) -> PrunedError:
        reason = f"epoch {trainer.place.epoch}: {reason}"
        run.set_tags({PRUNED: reason})
        print(f"Pruned after {reason}", flush=True)  # noqa: T201 - a command
        return PrunedError(reason)

    def after_epoch(metrics: Mapping[str, float]) -> None:
        try:
            watch()
        except StoppedOnFindingError as error:
            raise prune(str(error)) from error
        value = metrics.get(objective)
        if value is None:
            return
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"{objective} must be a finite number after each epoch of a search, but is {value} after epoch "
                f"{trainer.place.epoch}."
            )
        try:
            is_poor = reporter.report(trainer.place.epoch, value)
        except Exception as error:  # noqa: BLE001 - a full disk, say, shall not fail the training
            warnings.warn(f"lrtape could not report epoch {trainer.place.epoch} to the study: {error!r}", stacklevel=2)
            return
        if is_poor and trainer.has_more():
            raise prune(f"{objective} {value:.6g} is not among the best")

    return after_epoch

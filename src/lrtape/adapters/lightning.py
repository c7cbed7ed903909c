"""`LRTape`: the learning rates of a Lightning training, in the run of its MLFlowLogger."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from torch.optim import LBFGS, Optimizer

from lrtape import Session, attach
from lrtape.attaching import AttachOptions, check_options
from lrtape.tape import Status
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.uri import resolve_tracking_uri

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the older of its two names
    from pytorch_lightning import Callback, LightningModule, Trainer


class LRTape(Callback):
    """Records the lr that every optimizer step of ``Trainer.fit`` used, for every param group.

    ::

        Trainer(logger=MLFlowLogger(tracking_uri="sqlite:///mlflow.db"), callbacks=[LRTape()])

    Goes into the run of the MLFlowLogger; without one, into the active MLflow run or a new one, as `lrtape.attach`
    does. A row has the step number that Lightning gives to the loss of the same batch: how many batches before it ended
    in a step. An optimizer that makes several steps within one batch counts them by itself.

    One optimizer has the keys ``lr/<group>``. Several have ``lr/<optimizer>/<group>``, where the module keeps them as
    attributes (``self.opt_g = ...``), else the names that `lrtape.attach` gives them.

    All methods are called by Lightning, in the training thread; what it does there in a
    step takes less than a microsecond, beside `lrtape.attach`, and beside what Lightning takes to call it.

    Args:
        options: those of `lrtape.attach` that are in `lrtape.attaching.AttachOptions`: ``names``, ``also``,
            ``print_every_n_steps`` and the like.

    Raises:
        ConfigError: there is no such option.
    """

    def __init__(self, **options: Unpack[AttachOptions]) -> None:
        check_options(options)
        self._options = options
        self._session: Session | None = None
        self._saved_steps: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to record; a fit that makes no step does not come here, and one with ``fast_dev_run`` is not recorded.

        Raises:
            ConfigError: an argument is wrong, or two param groups would share a metric.
            TrackingError: the tracking store cannot be reached.
        """
        self._session = None
        # Where configure_optimizers() returns None, Lightning puts in one that has no lr and no other default.
        optimizers = [optimizer for optimizer in trainer.optimizers if optimizer.defaults]
        if not optimizers or trainer.fast_dev_run:  # in which Lightning logs nothing either
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        saved = self._saved_steps if len(self._saved_steps) == len(optimizers) else [step] * len(optimizers)
        self._saved_steps = []
        self._session = attach(
            *optimizers,
            model=pl_module,
            run=_run_of(trainer.loggers) if trainer.is_global_zero else None,  # its loggers have a run on rank 0 alone
            **self._options,
            first_step=[max(step, next_step) for next_step in saved],
        )

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:  # noqa: ARG002
        """Count as Lightning's loggers do: a step that a GradScaler skipped has a number there."""
        if self._session is not None:
            self._session.align(trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Read the lrs once more: the closure that has run within the step, with training_step(), may have set them."""
        if self._session is not None and not isinstance(optimizer, LBFGS):  # which reads its lr before the closure
            self._session.reread()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Wait until everything is stored. Lightning ends the run of its logger afterwards."""
        self._close(Status.FINISHED)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Store what was recorded, with the true status; Lightning raises the exception again."""
        self._close(Status.after(exception))

    def _close(self, status: Status) -> None:
        if self._session is not None:
            self._session.close(status)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the index of the next step of each optimizer."""
        return {"next_steps": [] if self._session is None else self._session.next_steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on counting where the checkpoint was written."""
        self._saved_steps = list(state_dict["next_steps"])


def _run_of(loggers: Sequence[Any]) -> MlflowRun | str:
    for logger in loggers:
        # By name: Lightning has two packages, and each of them a class of its own.
        if any(base.__name__ == "MLFlowLogger" for base in type(logger).__mro__):
            return MlflowRun.join(logger.run_id, resolve_tracking_uri(logger.experiment.tracking_uri))
    return "active"

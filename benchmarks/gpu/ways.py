"""Ways to log the lr of every group at every step, into one store."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import torch
from mlflow import MlflowClient

from gpu.training import N_GROUPS, N_WARM, NAMES, Clock, Cost, Log, Training
from lrtape.attaching import attach
from lrtape.tracking.mlflow_run import MlflowRun


class Stored(NamedTuple):
    """What is in the store, of the values that were used."""

    n_rows: int
    n_expected: int
    n_wrong: int


class Way:
    """A way to log the lr of every group at every step, into one store.

    Args:
        uri: of the store.
        folder: for spools.
        training: whose lrs are logged.
    """

    keys = [f"lr/{name}" for name in NAMES]

    def __init__(self, uri: str, folder: Path, training: Training) -> None:
        self.uri, self.folder, self.training = uri, folder, training
        self.run_ids: list[str] = []

    @contextmanager
    def opened(self) -> Iterator[Log | None]:
        """Opens a run, and closes it when everything is stored."""
        raise NotImplementedError

    def bare(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """The loop that logs nothing."""
        return self.training.loop(n_steps, clock=clock)

    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """The same loop, with a run of its own."""
        with self.opened() as log:
            return self.training.loop(n_steps, log, clock)

    def n_waits(self, loop: Callable[[int, Clock | None], Cost], n_steps: int) -> float:
        """How often one of these loops waits for the GPU, in a step."""
        clock = Clock(self.training.device, n_steps, traces=True)
        loop(n_steps, clock)
        if not clock.n_waits:
            raise RuntimeError("the trace is empty: it lacks the wait at the end of the loop")
        return (clock.n_waits - 1) / n_steps

    def stored(self, n_steps: int) -> Stored:
        """Of the last run."""
        client, rows, wrong = MlflowClient(tracking_uri=self.uri), 0, 0
        n_logged = N_WARM + n_steps
        for key, used in zip(self.keys, self.training.used(n_steps), strict=True):
            history = client.get_metric_history(self.run_ids[-1], key)
            rows += len(history)
            wrong += sum(not 0 <= row.step < n_logged or row.value != used[row.step] for row in history)
        return Stored(rows, N_GROUPS * n_logged, wrong)


class Lrtape(Way):
    """``attach(optimizer)``, with its shipper process."""

    @contextmanager
    def opened(self) -> Iterator[Log | None]:
        """See `Way.opened`."""
        with MlflowRun.create(self.uri) as run:
            self.run_ids.append(run.run_id)
            with attach(self.training.optimizer, run=run, folder=self.folder):
                yield None


class LogMetrics(Way):
    """``mlflow.log_metrics`` before every step; what lies on the GPU has to be read for it."""

    synchronous = True

    @contextmanager
    def opened(self) -> Iterator[Log | None]:
        """See `Way.opened`."""
        mlflow.set_tracking_uri(self.uri)
        groups = self.training.optimizer.param_groups
        with mlflow.start_run() as run:
            self.run_ids.append(run.info.run_id)
            yield lambda step: mlflow.log_metrics(
                {key: float(group["lr"]) for key, group in zip(self.keys, groups, strict=True)},
                step=step,
                synchronous=self.synchronous,
            )
            if not self.synchronous:
                mlflow.flush_async_logging()


class LogMetricsAsync(LogMetrics):
    """``log_metrics(synchronous=False)``."""

    synchronous = False


class Lightning(Way):
    """Lightning's ``LearningRateMonitor`` with its ``MLFlowLogger``, against Lightning without both."""

    keys = [f"lr-AdamW/{name}" for name in NAMES]

    def bare(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.bare`."""
        return self._fit(n_steps, clock, logger=False)

    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.logging`."""
        lightning: Any = importlib.import_module("lightning.pytorch")
        loggers: Any = importlib.import_module("lightning.pytorch.loggers")
        logger = loggers.MLFlowLogger(tracking_uri=self.uri)
        monitor = lightning.callbacks.LearningRateMonitor(logging_interval="step")
        cost = self._fit(n_steps, clock, logger=logger, callbacks=[monitor])
        self.run_ids.append(logger.run_id)
        return cost

    def _fit(self, n_steps: int, given: Clock | None, **options: Any) -> Cost:
        lightning: Any = importlib.import_module("lightning.pytorch")
        training, costs = self.training, []
        clock = given or Clock(training.device, n_steps, traces=False)
        training.begin_again()

        class Module(lightning.LightningModule):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.net = training.model

            def configure_optimizers(self) -> Any:
                # The monitor wants a scheduler; this one is stepped when everything is over.
                idle = torch.optim.lr_scheduler.StepLR(training.optimizer, 1)
                return [training.optimizer], [{"scheduler": idle, "interval": "epoch"}]

            def training_step(self, batch: Any, index: int) -> Any:  # noqa: ARG002
                return self.net(training.batch).square().mean()

            def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:  # noqa: ARG002
                training.schedule()
                clock.step(index)
                if index == N_WARM + n_steps - 1:
                    costs.append(clock.end())

        trainer = lightning.Trainer(
            accelerator="gpu" if training.device == "cuda" else "cpu",
            devices=1,
            max_steps=N_WARM + n_steps,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(torch.zeros(N_WARM + n_steps, 1)))  # type: ignore[arg-type]
        return costs[0]

"""Ways to log the lr of every group at every step, into one store."""

import abc
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import mlflow
import torch
from mlflow import MlflowClient

from gpu.training import N_WARM, NAMES, Clock, Cost, Training
from lrtape.attaching import attach
from lrtape.tape import Status
from lrtape.tracking.mlflow_run import MlflowRun


class Stored(NamedTuple):
    """What is in the store, of the values that were used."""

    n_rows: int
    n_expected: int
    n_wrong: int


class Way(abc.ABC):
    """A way to log the lr of every group at every step, into one store. A context manager: open while it is measured.

    Args:
        uri: of the store.
        folder: for spools.
        training: whose lrs are logged.
    """

    keys = [f"lr/{name}" for name in NAMES]

    def __init__(self, uri: str, folder: Path, training: Training) -> None:
        self.uri, self.folder, self.training = uri, folder, training
        self.logged: dict[str, list[int]] = {}
        """By the id of a run, how many steps its loops have made, one after the other."""

    def __enter__(self) -> Self:
        return self

    @abc.abstractmethod
    def __exit__(self, *_: object) -> None:
        """Everything is stored."""

    def bare(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """The loop that logs nothing."""
        return self.training.loop(n_steps, clock=clock)

    @abc.abstractmethod
    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """The same loop, which logs."""

    def n_waits(self, loop: Callable[[int, Clock | None], Cost], n_steps: int) -> float:
        """How often one of these loops waits for the GPU, in a step."""
        clock = Clock(self.training.device, n_steps, traces=True)
        loop(n_steps, clock)
        if not clock.n_waits:
            raise RuntimeError("the trace is empty: it lacks the wait at the end of the loop")
        return (clock.n_waits - 1) / n_steps

    def stored(self) -> Stored:
        """What all loops together have stored."""
        client, rows, expected, wrong = MlflowClient(tracking_uri=self.uri), 0, 0, 0
        for run_id, loops in self.logged.items():
            used: list[list[float]] = [[] for _ in NAMES]
            for n_steps in loops:
                for whole, part in zip(used, self.training.used(n_steps), strict=True):
                    whole += part
            for key, lrs in zip(self.keys, used, strict=True):
                history = client.get_metric_history(run_id, key)
                rows += len(history)
                expected += len(lrs)
                wrong += sum(not 0 <= row.step < len(lrs) or row.value != lrs[row.step] for row in history)
        return Stored(rows, expected, wrong)


class Lrtape(Way):
    """``attach(optimizer)``, with its shipper process, which runs beside the bare loop, too."""

    def __enter__(self) -> Self:
        self._run = MlflowRun.create(self.uri)
        self.logged[self._run.run_id] = []
        self._session = attach(self.training.optimizer, run=self._run, folder=self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._run.finish(Status.FINISHED)

    def bare(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.bare`."""
        self._session.leave_out(self.training.optimizer)
        return self.training.loop(n_steps, clock=clock)

    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.logging`."""
        self._session.add(self.training.optimizer)
        self.logged[self._run.run_id].append(n_steps)
        return self.training.loop(n_steps, clock=clock)

    @property
    def us_per_step(self) -> float | None:
        """What recording a step takes, by lrtape's own clock."""
        return self._session.us_per_step


class LogMetrics(Way):
    """``mlflow.log_metrics`` before every step; what lies on the GPU has to be read for it."""

    synchronous = True

    def __enter__(self) -> Self:
        mlflow.set_tracking_uri(self.uri)
        self._run_id = mlflow.start_run().info.run_id
        self.logged[self._run_id] = []
        return self

    def __exit__(self, *_: object) -> None:
        if not self.synchronous:
            mlflow.flush_async_logging()
        mlflow.end_run()

    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.logging`."""
        loops, groups = self.logged[self._run_id], self.training.optimizer.param_groups
        first = sum(N_WARM + n_before for n_before in loops)
        loops.append(n_steps)

        def log(step: int) -> None:
            lrs = {key: float(group["lr"]) for key, group in zip(self.keys, groups, strict=True)}
            mlflow.log_metrics(lrs, step=first + step, synchronous=self.synchronous)

        return self.training.loop(n_steps, log, clock)


class LogMetricsAsync(LogMetrics):
    """``log_metrics(synchronous=False)``."""

    synchronous = False


class Lightning(Way):
    """Lightning's ``LearningRateMonitor`` with its ``MLFlowLogger``, against Lightning without both."""

    keys = [f"lr-AdamW/{name}" for name in NAMES]

    def __exit__(self, *_: object) -> None:
        """Its logger has stored everything within each loop."""

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
        self.logged[logger.run_id] = [n_steps]
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

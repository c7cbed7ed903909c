"""Ways to log the lr of every group at every step, into one store."""

import abc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import mlflow
from mlflow import MlflowClient

import lrtape
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
    """Metrics of the groups, in their order; fewer where it logs fewer."""
    first_step = 0
    """The number that a loop's first step has in the store."""

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
            expected += sum(map(len, used))
            for key, lrs in zip(self.keys, used, strict=False):
                history = client.get_metric_history(run_id, key)
                rows += len(history)
                by_step = dict(enumerate(lrs, self.first_step))
                wrong += sum(by_step.get(row.step) != row.value for row in history)
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


class Autolog(Way):
    """``lrtape.autolog()`` within ``with mlflow.start_run()``: each loop has a run and a shipper of its own."""

    def __enter__(self) -> Self:
        mlflow.set_tracking_uri(self.uri)
        return self

    def __exit__(self, *_: object) -> None:
        """Every run is over."""

    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.logging`."""
        with mlflow.start_run() as run:
            self.logged[run.info.run_id] = [n_steps]
            lrtape.autolog()
            try:
                return self.training.loop(n_steps, clock=clock)
            finally:
                lrtape.autolog(disable=True)


class LogMetrics(Way):
    """``mlflow.log_metrics`` before every step; what lies on the GPU has to be read for it."""

    def __enter__(self) -> Self:
        mlflow.set_tracking_uri(self.uri)
        self._run_id = mlflow.start_run().info.run_id
        self.logged[self._run_id] = []
        return self

    def __exit__(self, *_: object) -> None:
        mlflow.flush_async_logging()
        mlflow.end_run()

    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.logging`."""
        loops, groups = self.logged[self._run_id], self.training.optimizer.param_groups
        first = sum(N_WARM + n_before for n_before in loops)
        loops.append(n_steps)

        def log(step: int) -> None:
            lrs = {key: float(group["lr"]) for key, group in zip(self.keys, groups, strict=True)}
            self.log(lrs, first + step)

        return self.training.loop(n_steps, log, clock)

    def log(self, lrs: dict[str, float], step: int) -> None:
        """Of one step."""
        mlflow.log_metrics(lrs, step=step, synchronous=True)


class LogMetricsAsync(LogMetrics):
    """``log_metrics(synchronous=False)``."""

    def log(self, lrs: dict[str, float], step: int) -> None:
        """See `LogMetrics.log`."""
        mlflow.log_metrics(lrs, step=step, synchronous=False)


class LogMetric(LogMetrics):
    """``mlflow.log_metric``, four times."""

    def log(self, lrs: dict[str, float], step: int) -> None:
        """See `LogMetrics.log`."""
        for key, lr in lrs.items():
            mlflow.log_metric(key, lr, step=step)

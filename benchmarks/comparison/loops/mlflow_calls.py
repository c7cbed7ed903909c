"""MLflow's own calls, in the bare loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import mlflow
from torch.optim import Optimizer

from loops.bare import AfterStep, BareLoop


@contextmanager
def _one_by_one(optimizer: Optimizer) -> Iterator[AfterStep]:
    def log(step: int) -> None:
        for group in optimizer.param_groups:
            mlflow.log_metric(f"lr/{group['name']}", group["lr"], step=step)

    with mlflow.start_run():
        yield log


@contextmanager
def _together(optimizer: Optimizer, synchronous: bool) -> Iterator[AfterStep]:
    def log(step: int) -> None:
        lrs = {f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups}
        mlflow.log_metrics(lrs, step=step, synchronous=synchronous)

    with mlflow.start_run():
        yield log


def log_metric() -> BareLoop:
    """One call for each group."""
    return BareLoop(_one_by_one)


def log_metrics() -> BareLoop:
    """One call a step."""
    return BareLoop(partial(_together, synchronous=True))


def log_metrics_async() -> BareLoop:
    """One call a step, which MLflow queues."""
    return BareLoop(partial(_together, synchronous=False))

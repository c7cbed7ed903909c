"""lrtape's one line, in the bare loop."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from torch.optim import Optimizer

import lrtape
from loops.bare import AfterStep, BareLoop, nothing_after


@contextmanager
def _attached(optimizer: Optimizer) -> Iterator[AfterStep]:
    with mlflow.start_run(), lrtape.attach(optimizer):
        yield nothing_after


@contextmanager
def _autologged(_: Optimizer) -> Iterator[AfterStep]:
    with mlflow.start_run():
        lrtape.autolog()
        try:
            yield nothing_after
        finally:
            lrtape.autolog(disable=True)


def attach() -> BareLoop:
    """This optimizer."""
    return BareLoop(_attached)


def autolog() -> BareLoop:
    """Every optimizer of the process."""
    return BareLoop(_autologged)

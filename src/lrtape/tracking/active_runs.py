"""The runs that are active in this process, by ``mlflow.start_run()``: a stack of nested runs for each thread."""

import contextlib
import logging
import os
import random
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import mlflow
from mlflow import ActiveRun, MlflowClient
from mlflow.tracking import fluent
from mlflow.tracking.context.registry import resolve_tags

from lrtape.errors import ConfigError
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.run_colors import next_color
from lrtape.tracking.store import opening
from lrtape.tracking.uri import resolve_tracking_uri, sqlite_path

RUN_ID = "MLFLOW_RUN_ID"
"""In the environment: the run that ``mlflow run`` has made for this process."""
_CHATTY = ("alembic", "git", "mlflow", "sqlalchemy", "urllib3")
"""Loggers that have something to say when a store is opened, on stderr by default."""


def active_runs(thread: int) -> Sequence[ActiveRun]:
    """The active runs of a thread, the innermost last.

    Args:
        thread: its ``threading.get_ident()``.
    """
    runs: Sequence[ActiveRun]
    try:
        stacks: Any = fluent._active_run_stack  # mlflow 3.17 tells nowhere else what is around the innermost run
        is_mine = thread == threading.get_ident()
        runs = stacks.get() if is_mine else stacks.get_all_thread_values().get(thread, [])
    except AttributeError:
        run = mlflow.active_run()
        return [] if run is None else [run]
    return runs


def innermost_run() -> ActiveRun | None:
    """The innermost run that is active in this thread. Takes 0.2 us, for it is asked in every step."""
    try:
        # Of a ThreadLocalVariable (mlflow 3.7 to 3.17), whose get() takes four times as long.
        runs, _ = fluent._active_run_stack.thread_local.value
        return runs[-1] if runs else None
    except Exception:  # noqa: BLE001 - nobody has asked in this thread yet, or it is another version
        runs = active_runs(threading.get_ident())
        return runs[-1] if runs else None


def active_run_id() -> str | None:
    """The id of the innermost run that is active in this thread."""
    run = mlflow.active_run()
    return None if run is None else str(run.info.run_id)


def join_or_start(thread: int) -> MlflowRun:
    """Join the run that is active in this thread, or in `thread`, or start one, which is active until it is finished.

    Args:
        thread: the ``threading.get_ident()`` of another thread, in which the run may be active.

    Raises:
        ConfigError: the store cannot be one.
        TrackingError: the store does not answer, or refuses.
    """
    uri = resolve_tracking_uri(mlflow.get_tracking_uri())
    with opening(uri):
        for runs in (active_runs(threading.get_ident()), active_runs(thread)):
            if runs:
                return MlflowRun(uri, runs[-1].info.run_id)
        experiment = str(fluent._get_experiment_id())  # mlflow 3.17 says it nowhere else
        # Where ``mlflow run`` has made a run for this process, it has a colour.
        tags = {} if os.environ.get(RUN_ID) else next_color(MlflowClient(tracking_uri=uri), experiment)
        return MlflowRun(uri, mlflow.start_run(tags=tags).info.run_id, is_owned=True)


def start_aside() -> MlflowRun:
    """Start a run where ``mlflow.start_run()`` would, but leave it to that to make a run active: it goes on as ever.

    Where ``mlflow run`` has made a run for this process, it is that one, which is not ended here.

    Raises:
        ConfigError: the store cannot be one.
        TrackingError: the store does not answer, or refuses.
    """
    uri = resolve_tracking_uri(mlflow.get_tracking_uri())
    with opening(uri):
        if run_id := os.environ.get(RUN_ID):
            return MlflowRun(uri, run_id)
        client, experiment = MlflowClient(tracking_uri=uri), str(fluent._get_experiment_id())
        run = client.create_run(experiment, tags=resolve_tags({}) | next_color(client, experiment))
        return MlflowRun(uri, run.info.run_id, is_owned=True)


def require_store() -> None:
    """Refuse a store that cannot be used, without making one: somebody may still choose another.

    Raises:
        ConfigError: it cannot be one, or lies where nothing can be written.
        TrackingError: it does not answer, or refuses.
    """
    uri = resolve_tracking_uri(mlflow.get_tracking_uri())
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        if not os.access(path.parent, os.W_OK):
            raise ConfigError(f"the tracking store must lie where it can be written, but {path.parent} cannot be.")
        return
    with opening(uri):
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Around what MLflow does for lrtape within somebody's script: no message, and no random number less for that.

    MLflow (3.17) draws the name of a run from Python's global generator, and says on stderr that it makes a database.
    """
    state = random.getstate()
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            random.setstate(state)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)

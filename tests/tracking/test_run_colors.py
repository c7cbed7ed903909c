import sqlite3
import threading

import mlflow
from mlflow import MlflowClient

from lrtape.colors import RUNS
from lrtape.tracking.active_runs import join_or_start, start_aside
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.run_colors import color_at, next_color
from lrtape.tracking.tags import RUN_COLOR


def color_of(run: MlflowRun) -> str | None:
    tags: dict[str, str] = MlflowClient(tracking_uri=run.tracking_uri).get_run(run.run_id).data.tags
    return tags.get(RUN_COLOR)


def test_a_run_has_another_color_than_the_one_before(store: str) -> None:
    """One after the other takes the next of the palette, however it was started; a given one is kept."""
    mlflow.set_tracking_uri(store)
    runs = [
        MlflowRun.create(store, "Default"),
        start_aside(),
        join_or_start(threading.get_ident()),
        MlflowRun.create(store, "Default", tags={RUN_COLOR: RUNS[-1]}),
        MlflowRun.create(store, "Default"),
    ]
    assert [color_of(run) for run in runs] == [RUNS[0], RUNS[1], RUNS[2], RUNS[-1], RUNS[0]]


def test_somebody_elses_run_keeps_its_color(store: str) -> None:
    """Where lrtape only joins a run, it paints nothing."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run():
        assert color_of(join_or_start(threading.get_ident())) is None


def test_a_store_that_fails_gives_no_color_and_no_error(store: str) -> None:
    """MLflow has colours of its own."""
    client = MlflowClient(tracking_uri=store)
    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:
        database.execute("ALTER TABLE runs RENAME TO gone")
    assert next_color(client, "0") == {}


def test_neighbours_in_a_sweep_differ() -> None:
    """The palette begins anew when it is used up."""
    assert [color_at(position) for position in range(7)] == [*RUNS, RUNS[0]]
    assert len(set(RUNS)) == len(RUNS)

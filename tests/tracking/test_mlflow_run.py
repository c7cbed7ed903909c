import contextlib
import multiprocessing
import threading
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from lrtape.errors import ConfigError, TrackingError
from lrtape.tape import Point, Status
from lrtape.tracking.active_runs import join_or_start
from lrtape.tracking.history import read_run
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink
from lrtape.tracking.sink import RefusedError, RefusedPointsError


def status(run: MlflowRun) -> str:
    return str(MlflowClient(tracking_uri=run.tracking_uri).get_run(run.run_id).info.status)


def test_a_run_knows_where_it_comes_from(store: str) -> None:
    """Params and tags are logged, MLflow's own tags too, and an experiment is made when there is none."""
    params = {f"p{i}": i for i in range(150)} | {"long": "x" * 7000}
    run = MlflowRun.create(store, "mine", "steplr", params, {"lrtape.overrides": "a=1"})
    data = MlflowClient(tracking_uri=store).get_run(run.run_id)

    assert data.info.run_name == "steplr"
    assert data.data.params["p149"] == "149"
    assert len(data.data.params["long"]) == 6000
    assert data.data.tags["lrtape.overrides"] == "a=1"
    assert "mlflow.source.name" in data.data.tags
    assert data.info.artifact_uri.startswith(
        str(Path(store.removeprefix("sqlite:///")).parent / "mlartifacts" / "mine")
    )


@pytest.mark.parametrize(
    ("error", "expected"), [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_the_status_tells_how_it_ended(store: str, error: type[BaseException] | None, expected: str) -> None:
    """FINISHED, FAILED after an exception, KILLED after Ctrl-C."""
    run = MlflowRun.create(store)
    with contextlib.suppress(BaseException), run:
        if error is not None:
            raise error
    assert status(run) == expected


def test_the_active_run_is_joined_and_left_running(store: str) -> None:
    """A run that somebody else started is not ended here."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as active:
        joined = join_or_start(threading.get_ident())
        joined.finish(Status.FAILED)
        assert joined.run_id == active.info.run_id
        assert status(joined) == "RUNNING"


def test_a_run_is_started_when_none_is_active(store: str) -> None:
    """Then it is the active one, so that what the user logs goes there too, and it is ended here."""
    mlflow.set_tracking_uri(store)
    run = join_or_start(threading.get_ident())
    active = mlflow.active_run()
    assert active is not None
    assert active.info.run_id == run.run_id
    run.finish(Status.FINISHED)

    assert mlflow.active_run() is None
    assert status(run) == "FINISHED"


def test_a_deleted_experiment_is_refused(store: str) -> None:
    """MLflow would fail later and less clearly."""
    client = MlflowClient(tracking_uri=store)
    client.delete_experiment(client.create_experiment("gone"))

    with pytest.raises(ConfigError, match=r"'gone' is\. Restore it"):
        MlflowRun.create(store, "gone")


def test_a_server_that_is_not_there_is_said_within_seconds() -> None:
    """No four minutes of retries before the training."""
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 does not answer"):
        MlflowRun.create("http://127.0.0.1:9")


def test_a_store_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    """A folder that cannot be written, a file that is no database, a driver that is missing: one of our errors."""
    with pytest.raises(ConfigError, match="where it can be written"):
        MlflowRun.create("sqlite:////proc/mlflow.db")
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(TrackingError, match="refuses"):
        MlflowRun.create(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(TrackingError, match="needs a Python package that is not installed"):
        MlflowRun.create("mysql+pymysql://127.0.0.1:9/mlflow")


def test_an_unknown_run_is_refused(store: str) -> None:
    """The id and the store are named."""
    with pytest.raises(TrackingError, match="nonsense"):
        MlflowRun.join("nonsense", store)


def _create(uri: str) -> str:
    return MlflowRun.create(uri).run_id


def test_a_fresh_store_stands_several_first_runs(tmp_path: Path) -> None:
    """Processes that create one SQLite store at once all get their run; by MLflow alone most of them die."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        ids = pool.map(_create, [f"sqlite:///{tmp_path}/mlflow.db"] * 4)

    assert len(set(ids)) == 4


def test_points_arrive_and_arrive_once(store: str) -> None:
    """Any number of points, NaN and infinity among them, comes back equal; sending it all again changes nothing."""
    run = MlflowRun.create(store)
    points = [Point("lr/a", step, 10**12 + step, 0.1 / (step + 1)) for step in range(2500)]
    points += [
        Point("train/loss", i, 1, value) for i, value in enumerate([float("nan"), float("inf"), float("-inf"), 1.0])
    ]
    sink = MlflowSink(store, run.run_id)
    sink.send(points)
    sink.send(points)
    back = read_run(run.run_id, store)

    assert [repr(point) for point in back.points() if point.key == "lr/a"] == [repr(point) for point in points[:2500]]
    assert list(map(repr, back["train/loss"].values)) == ["nan", "inf", "-inf", "1.0"]


def test_a_refusal_is_told_from_a_passing_failure(store: str) -> None:
    """A key that is illegal will never be taken, but others may; a run that is deleted takes nothing at all."""
    run = MlflowRun.create(store)
    with pytest.raises(RefusedPointsError, match="INVALID_PARAMETER_VALUE"):
        MlflowSink(store, run.run_id).send([Point("bad[key]", 0, 0, 1.0)])
    MlflowClient(tracking_uri=store).delete_run(run.run_id)
    with pytest.raises(RefusedError):
        MlflowSink(store, run.run_id).send([Point("lr/a", 0, 0, 1.0)])

import math
from pathlib import Path

import pytest

from lrtape.errors import TrackingError
from lrtape.tape import Point, Tape
from lrtape.tracking.history import History, read_run
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink

POINTS = [
    Point("lr/a", 0, 10, 0.1),
    Point("lr/a", 1, 11, 1.0000000000000002e-06),
    Point("lr/a", 1, 12, 0.2),
    Point("lr/a", 2, 13, math.nan),
    Point("train/loss", 0, 10, math.inf),
    Point("train/loss", 1, 11, -math.inf),
    Point("only/nan", 7, 14, math.nan),
]


def recorded_run(store: str, points: list[Point] = POINTS) -> str:
    """The id of a run that has these points."""
    run = MlflowRun.create(store)
    MlflowSink(store, run.run_id).send(points)
    return run.run_id


def test_every_row_comes_back_as_it_was_recorded(store: str) -> None:
    """Key by key: values to the last bit, times, two values of one step, and what is not finite under its own key."""
    history = History(recorded_run(store), store)

    keys = history.keys()
    assert keys == ["lr/a", "only/nan", "train/loss"]
    for key in keys:
        assert {repr(point) for point in history.points(key)} == {repr(point) for point in POINTS if point.key == key}
    assert history.points("lr/no_such_group") == []
    assert dict(read_run(history.run_id, store)) == dict(Tape(POINTS))


def test_a_long_key_comes_back_whole(store: str) -> None:
    """More rows than MLflow returns at once, 25,000, all come, each once."""
    points = [Point("lr/a", step, step, 1.0 / (step + 1)) for step in range(30_000)]
    history = History(recorded_run(store, points), store)

    assert sorted(history.points("lr/a")) == points


def test_what_is_stored_later_is_seen(store: str) -> None:
    """Nothing is remembered between two calls."""
    history = History(recorded_run(store), store)
    MlflowSink(store, history.run_id).send([Point("lr/b", 0, 0, 1.0)])

    keys = history.keys()
    assert keys == ["lr/a", "lr/b", "only/nan", "train/loss"]
    assert history.points("lr/b") == [Point("lr/b", 0, 0, 1.0)]


def test_the_tapes_of_a_run_are_downloaded(store: str, tmp_path: Path) -> None:
    """Every `lr/tape-*.parquet`, in the order of the names, and no other artifact; none where there are none."""
    run = MlflowRun.create(store)
    history = History(run.run_id, store)
    target = tmp_path / "target"
    target.mkdir()
    assert history.tapes(target) == []
    for name in ("tape-b.parquet", "tape-a.parquet", "tape-a.json", "other.parquet"):
        (tmp_path / name).write_text(name)
        run.log_artifact(tmp_path / name, "lr")
    run.log_artifact(tmp_path / "tape-a.parquet", "elsewhere")
    run.log_artifact(tmp_path / "tape-a.parquet", "lr/tape-folder.parquet")
    tapes = history.tapes(target)

    assert [tape.name for tape in tapes] == ["tape-a.parquet", "tape-b.parquet"]
    assert [tape.read_text() for tape in tapes] == ["tape-a.parquet", "tape-b.parquet"]
    assert all(tape.is_relative_to(target) for tape in tapes)


def test_an_unknown_run_is_said(store: str) -> None:
    """With its id, as a `TrackingError`, before anything is read."""
    with pytest.raises(TrackingError, match="no_such_run"):
        History("no_such_run", store)


def test_a_store_that_goes_away_is_said(store: str, tmp_path: Path) -> None:
    """Keys, rows and tapes all end in a `TrackingError`, never in one of MLflow's own."""
    history = History(recorded_run(store), store)
    (tmp_path / "mlflow.db").write_bytes(b"no longer a database" * 1000)

    for ask in (history.keys, lambda: history.points("lr/a"), lambda: history.tapes(tmp_path)):
        with pytest.raises(TrackingError, match="refuses"):
            ask()


def test_the_store_is_free_while_rows_are_read(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes minutes for a long run; another training can start meanwhile, which needs the lock of the store."""
    history = History(recorded_run(store), store)
    started = []
    asked = history._client._tracking_client.store
    read = asked.get_metric_history

    def start_another(*args: object, **kwargs: object) -> object:
        started.append(MlflowRun.create(store).run_id)
        return read(*args, **kwargs)

    monkeypatch.setattr(asked, "get_metric_history", start_another)

    assert len(history.points("lr/a")) == 4
    assert len(set(started)) == 3


@pytest.mark.parametrize("page_rows", [1, 2, 3, 4, 5, 100])
def test_it_does_not_matter_how_many_rows_a_page_has(store: str, page_rows: int) -> None:
    """Every row comes once, in the same order, with what is not finite in its place behind."""
    history = History(recorded_run(store), store)
    points = history.points("lr/a")

    assert repr(list(history.each_point("lr/a", page_rows))) == repr(points)
    assert len(points) == 4

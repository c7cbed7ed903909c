import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lrtape as package
from lrtape.spool import End, Header, SpoolWriter
from lrtape.spool_folder import Progress, SpoolFolder
from lrtape.tape import Point, Status
from lrtape.tape_file import write_tape
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink

POINTS = [
    *(Point(f"lr/{name}", step, 1000 + step, 0.1 / (step + 1)) for step in range(20) for name in "ab"),
    Point("train/loss", 0, 1000, math.nan),
    Point("train/loss", 0, 1000, math.inf),
]


@pytest.fixture
def run(store: str, tmp_path: Path) -> MlflowRun:
    """A run that has `POINTS`, and a tape of them."""
    run = MlflowRun.create(store)
    MlflowSink(store, run.run_id).send(POINTS)
    upload(run, tmp_path, "tape-a.parquet", POINTS)
    return run


def upload(run: MlflowRun, folder: Path, name: str, points: list[Point]) -> None:
    write_tape(folder / name, points, {})
    run.log_artifact(folder / name, "lr")


def alter(store: str, statement: str) -> None:
    """Change the rows of a store behind MLflow's back."""
    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:
        assert database.execute(statement).rowcount > 0
    database.close()


def test_what_is_stored_as_it_was_recorded_is_equal(lrtape: Callable[..., Any], run: MlflowRun) -> None:
    """Exit code 0 and how many rows were compared; values that are not finite are among them."""
    assert lrtape("verify", run.run_id) == (
        0,
        f"run {run.run_id}: all 42 rows of 3 keys are stored as they were recorded\n",
        "",
    )


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DELETE FROM metrics WHERE key = 'lr/a' AND step IN (3, 7)", "lr/a lacks a row at step 3 (and at 1 more)"),
        ("DELETE FROM metrics WHERE key = 'health/nan/train/loss'", "train/loss lacks a row at step 0"),
        (
            "UPDATE metrics SET value = 0.5 WHERE key = 'lr/a' AND step = 4",
            "lr/a at step 4 is 0.5, but the tape has 0.02",
        ),
        (
            "UPDATE metrics SET timestamp = 999 WHERE key = 'lr/a' AND step = 4",
            "lr/a at step 4 has the time 999 (Unix ms), but the tape has 1004",
        ),
        (
            "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) "
            "SELECT key, value, timestamp + 1, step, is_nan, run_uuid FROM metrics WHERE key = 'lr/a' AND step = 4",
            "lr/a has 1 row too many at step 4",
        ),
    ],
)
def test_a_difference_is_found_and_named(
    lrtape: Callable[..., Any], run: MlflowRun, store: str, statement: str, sentence: str
) -> None:
    """A hole, a value or a time that is not the tape's, or a double: one line for the key, a verdict, exit code 1."""
    alter(store, statement)

    assert lrtape("verify", run.run_id)[:2] == (
        1,
        f"{sentence}\nrun {run.run_id}: 1 of 3 keys are not stored as they were recorded\n",
    )


def test_several_tapes_are_one_recording(
    lrtape: Callable[..., Any], run: MlflowRun, store: str, tmp_path: Path
) -> None:
    """A run that was resumed has one tape for each part; what two of them share counts once."""
    more = [Point("lr/a", step, 5000 + step, 0.1) for step in range(15, 30)]
    MlflowSink(store, run.run_id).send(more)
    code, out, _ = lrtape("verify", run.run_id)
    assert (code, out.splitlines()[0]) == (1, "lr/a has 1 row too many at step 15 (and at 4 more)")
    assert "note: lr/a has rows at 10 steps that the tape does not have, 20 to 29" in out

    upload(run, tmp_path, "tape-b.parquet", [*POINTS[:4], *more])
    assert lrtape("verify", run.run_id).out == (
        f"run {run.run_id}: all 57 rows of 3 keys are stored as they were recorded\n"
    )


def test_what_somebody_else_logged_is_left_alone(lrtape: Callable[..., Any], run: MlflowRun, store: str) -> None:
    """A key that no tape has is not compared."""
    MlflowSink(store, run.run_id).send([Point("my/metric", 0, 0, 1.0)])

    assert lrtape("verify", run.run_id).code == 0


def test_a_spool_that_is_still_here_is_compared_too(lrtape: Callable[..., Any], store: str, tmp_path: Path) -> None:
    """What it has and the store has not is a hole, and the spool is named; one of another run is left alone."""
    run = MlflowRun.create(store)
    MlflowSink(store, run.run_id).send(POINTS[:38])
    for name, run_id in (("mine", run.run_id), ("other", "another")):
        folder = SpoolFolder(tmp_path / ".lrtape" / name)
        folder.path.mkdir(parents=True)
        writer = SpoolWriter(folder.spool, Header(run_id, True, store, 1))
        for point in [*POINTS[:40], Point("lr/only_other", 0, 0, 1.0)][: 40 if name == "mine" else None]:
            writer.write(point)
        writer.write(End(Status.FINISHED))
        writer.close()

    code, out, _ = lrtape("verify", run.run_id)
    assert (code, out.splitlines()) == (
        1,
        [
            "lr/a lacks a row at step 19",
            "lr/b lacks a row at step 19",
            "note: .lrtape/mine is not stored to its end yet; see lrtape status .lrtape/mine",
            f"run {run.run_id}: 2 of 2 keys are not stored as they were recorded",
        ],
    )
    MlflowSink(store, run.run_id).send(POINTS[38:40])
    SpoolFolder(tmp_path / ".lrtape/mine").save_progress(Progress(complete=True))
    assert lrtape("verify", run.run_id).lines == [
        f"run {run.run_id}: all 40 rows of 2 keys are stored as they were recorded"
    ]
    assert lrtape("verify", run.run_id, "--folder", tmp_path / "no_spools").code == 2


def test_what_cannot_be_compared_is_said(lrtape: Callable[..., Any], store: str) -> None:
    """No tape, no such run, no store: exit code 2 and what to do."""
    run = MlflowRun.create(store)
    for arguments, said in [
        ((run.run_id,), "has none among its artifacts, and no spool in .lrtape"),
        (("no_such_run",), "no_such_run"),
        ((run.run_id, "--tracking-uri", "sqlite:///elsewhere.db"), "elsewhere.db. Name the right one"),
        ((run.run_id, "--tracking-uri", "http://127.0.0.1:9"), "does not answer"),
    ]:
        code, out, err = lrtape("verify", *arguments)
        assert (code, out, said in err) == (2, "", True)


def test_what_a_session_has_recorded_is_equal(lrtape: Callable[..., Any], store: str) -> None:
    """From `attach` to the end, with the real shipper: its tape, its spool, and MLflow have the same rows."""
    run = MlflowRun.create(store)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with package.attach(optimizer, run=run) as session:
        for step in range(50):
            optimizer.step()
            session.log("train/loss", math.nan if step == 7 else 1.0 / (step + 1), step)

    assert lrtape("verify", run.run_id).out == (
        f"run {run.run_id}: all 100 rows of 2 keys are stored as they were recorded\n"
    )

"""``record=changes`` and ``lr_log10``, from a real training to a real store."""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch.optim import SGD, lr_scheduler

import lrtape
from lrtape.cli.verify import verify
from lrtape.errors import ConfigError
from lrtape.tape import Series, Tape
from lrtape.tape_file import read_tape
from lrtape.tracking.history import History, read_run
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink

PAGE = Path(__file__).parents[1] / "docs" / "record.md"
N_STEPS, STEP_SIZE = 2000, 500
MAX_DRAWN = 320
"""Rows of a key that MLflow (3.17) draws; of more, it takes some."""

KILLED = """
import os, signal, sys, torch, lrtape
optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "head"}], lr=0.1)
session = lrtape.attach(optimizer, run=sys.argv[1], record="changes", lr_log10=True)
for step in range(100):
    optimizer.param_groups[0]["lr"] = 0.1 if step < 60 else 0.01
    optimizer.step()
os.kill(os.getpid(), signal.SIGKILL)
"""
REPLAYED = r"lr/head of step 80 was 0\.01 .* and is 0\.3 now"


def two_groups(lr: float = 0.1) -> SGD:
    rates = {"body": lr / 1e6, "head": lr}
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rates[name], "name": name} for name in rates])


def tape_of(run_id: str, store: str, folder: Path) -> Tape:
    """What was recorded, as the artifacts have it."""
    return Tape.union(read_tape(path) for path in History(run_id, store).tapes(folder))


def drawn(store: str, run_id: str, key: str) -> list[tuple[int, float]]:
    """The corners of the line that MLflow's page draws, by the same request."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    sql: Any = SqlAlchemyStore(store, "artifacts")  # type: ignore[no-untyped-call]  # mlflow 3.17
    rows = sql.get_metric_history_bulk_interval([run_id], key, MAX_DRAWN, None, None)
    return sorted((row.step, row.value) for row in rows)


def on_the_line(corners: list[tuple[int, float]], series: Series) -> bool:
    """Whether every recorded lr lies on the line, exactly."""
    heights: dict[int, float] = dict(corners)
    for (begin, was), (end, now) in pairwise(corners):
        heights |= {step: was + (now - was) * (step - begin) / (end - begin) for step in range(begin + 1, end)}
    return heights == dict(zip(series.steps, series.values, strict=True))


@pytest.fixture(scope="module")
def recorded(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database with a run of StepLR, recorded by the code of the page with both options, and its id."""
    folder = tmp_path_factory.mktemp("recorded")
    database = folder / "mlflow.db"
    database.write_bytes(fresh_store.read_bytes())
    run = MlflowRun.create(f"sqlite:///{database}")
    optimizer = two_groups()
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    names = {
        "lrtape": lrtape,
        "torch": torch,
        "model": torch.nn.Linear(1, 1),
        "optimizer": optimizer,
        "scheduler": lr_scheduler.StepLR(optimizer, STEP_SIZE, 0.1),
        "train_step": optimizer.step,
        "n_steps": N_STEPS,
    }
    mlflow.set_tracking_uri(run.tracking_uri)
    with contextlib.chdir(folder), mlflow.start_run(run_id=run.run_id):
        exec(code, names)
    return database, run.run_id


@pytest.fixture(scope="module")
def killed(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database with a run whose training was killed by SIGKILL and whose shipper is done, and its id."""
    folder = tmp_path_factory.mktemp("killed")
    database = folder / "mlflow.db"
    database.write_bytes(fresh_store.read_bytes())
    client = MlflowClient(store := f"sqlite:///{database}")
    run_id = client.create_run("0").info.run_id
    subprocess.run(
        [sys.executable, "-c", KILLED, run_id], check=False, cwd=folder, env=os.environ | {"MLFLOW_TRACKING_URI": store}
    )
    deadline = time.monotonic() + 120
    while list(folder.glob(".lrtape/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    return database, run_id


@pytest.fixture
def run(recorded: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A copy of the first database, to be changed: its URI, and the id of its run."""
    return copied(recorded, tmp_path, monkeypatch)


@pytest.fixture
def dead_run(killed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The same of the second one."""
    return copied(killed, tmp_path, monkeypatch)


def copied(original: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    database, run_id = original
    monkeypatch.chdir(folder)
    (folder / "mlflow.db").write_bytes(database.read_bytes())
    return f"sqlite:///{folder / 'mlflow.db'}", run_id


def test_few_rows_are_stored_and_the_drawn_line_is_the_tape(run: tuple[str, str], tmp_path: Path) -> None:
    """Both sides of three drops, both ends and the mark; the line through them has the lr of every step, and the tape
    among the artifacts has all steps. Of the rows of all steps, MLflow would draw too few for that.
    """
    store, run_id = run
    tape, stored = tape_of(run_id, store, tmp_path), read_run(run_id, store)

    for key in ("lr/body", "lr/head"):
        assert list(stored[key].steps) == [0, 499, 500, 700, 999, 1000, 1499, 1500, 1999]
        assert list(tape[key].steps) == list(range(N_STEPS))
        assert on_the_line(drawn(store, run_id, key), tape[key])
    assert MlflowClient(store).get_run(run_id).data.tags["lrtape.complete"] == "true"
    assert MlflowClient(store).get_run(run_id).data.tags["lrtape.record"] == "changes"
    every_step = MlflowRun.create(store)
    MlflowSink(store, every_step.run_id).send(list(Tape.of({"lr/head": tape["lr/head"]}).points()))
    assert not on_the_line(drawn(store, every_step.run_id, "lr/head"), tape["lr/head"])


def test_the_logarithm_is_stored_beside_each_row(run: tuple[str, str]) -> None:
    """Of the same steps and times; and it can be told apart where the lr itself is drawn at 0."""
    store, run_id = run
    stored = read_run(run_id, store)

    for key, exponent in (("body", -7.0), ("head", -1.0)):
        lrs, logarithms = stored[f"lr/{key}"], stored[f"lr_log10/{key}"]
        assert (logarithms.steps, logarithms.times_ms) == (lrs.steps, lrs.times_ms)
        assert sorted(set(logarithms.values)) == [exponent - drop for drop in (3, 2, 1, 0)]
    assert set(stored) == {"lr/body", "lr/head", "lr_log10/body", "lr_log10/head"}


INSERT = (
    "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) SELECT 'lr/head', {value}, timestamp, {step}, "
    "0, run_uuid FROM metrics WHERE key = 'lr/head' AND step = 499"
)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("SELECT 1", ""),
        ("DELETE FROM metrics WHERE key = 'lr/head' AND step = 700", ""),
        ("DELETE FROM metrics WHERE key = 'lr/head' AND step = 500", "lr/head lacks a row at step 500"),
        ("DELETE FROM metrics WHERE key = 'lr/body' AND step = 1999", "lr/body lacks a row at step 1999"),
        ("DELETE FROM metrics WHERE key = 'lr_log10/head' AND step = 0", "lr_log10/head lacks a row at step 0"),
        ("UPDATE metrics SET value = 0.5 WHERE key = 'lr/head' AND step = 999", "lr/head at step 999 is 0.5, but"),
        (
            "UPDATE metrics SET value = 0.5 WHERE key = 'lr/head' AND step = 700",
            "lr/head has 1 row too many at step 700",
        ),
        (
            "UPDATE metrics SET value = -9 WHERE key = 'lr_log10/body' AND step = 0",
            "lr_log10/body at step 0 is -9.0, but",
        ),
        (INSERT.format(value=0.3, step=480), "lr/head has 1 row too many at step 480"),
        (INSERT.format(value=0.1, step=5000), "note: lr/head has rows at 1 steps that the tape does not have"),
    ],
)
def test_verify_knows_what_need_not_be_there(
    run: tuple[str, str], capsys: pytest.CaptureFixture[str], statement: str, sentence: str
) -> None:
    """Rows that are not stored on purpose are no holes, and one that need not be stored may; a required one that is
    missing is a hole; and a row that was never recorded is named, also at a step that need not be stored.
    """
    store, run_id = run
    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:
        database.execute(statement)
    database.close()
    code = verify(run_id, store, Path(".lrtape"))
    out = capsys.readouterr().out

    assert sentence in out
    assert code == (1 if sentence and not sentence.startswith("note") else 0)
    if not code:
        assert "all 32 rows of 4 keys are stored as they were recorded" in out


def test_the_last_step_of_a_training_that_is_killed_is_stored(dead_run: tuple[str, str], tmp_path: Path) -> None:
    """SIGKILL: its shipper finds the end of the curve, and what is stored is verified as ever."""
    store, run_id = dead_run
    stored, tape = read_run(run_id, store), tape_of(run_id, store, tmp_path)

    assert MlflowClient(store).get_run(run_id).info.status == "KILLED"
    assert list(stored["lr/head"].steps) == list(stored["lr_log10/head"].steps) == [0, 59, 60, 99]
    assert list(tape["lr/head"].steps) == list(range(100))
    assert verify(run_id, store, Path(".lrtape")) == 0


def test_a_resumed_training_knows_the_steps_that_are_not_stored(dead_run: tuple[str, str], tmp_path: Path) -> None:
    """The tape has them: none is recorded twice, and one that differs now is found. The joined curve is whole."""
    store, run_id = dead_run
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "head"}], lr=0.01)
    session = lrtape.attach(optimizer, run=MlflowRun.join(run_id, store), record="changes", first_step=70)
    for step in range(70, 150):
        optimizer.param_groups[0]["lr"] = 0.3 if step == 80 else 0.01
        with pytest.warns(UserWarning, match=REPLAYED) if step == 80 else contextlib.nullcontext():
            optimizer.step()
    session.close()
    tape, stored = tape_of(run_id, store, tmp_path), read_run(run_id, store)

    assert list(tape["lr/head"].steps) == list(range(150))
    assert list(stored["lr/head"].steps) == [0, 59, 60, 99, 100, 149]
    assert on_the_line(drawn(store, run_id, "lr/head"), tape["lr/head"])
    assert verify(run_id, store, Path(".lrtape")) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"record": "change"}, "`record` must be one of every_step, changes, but is 'change' instead"),
        ({"lr_log10": "yes"}, "`lr_log10` must be True or False, but is 'yes' instead"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_begins(options: dict[str, Any], sentence: str) -> None:
    """By `attach` and by `autolog`."""
    with pytest.raises(ConfigError, match=sentence):
        lrtape.attach(two_groups(), run=None, **options)
    with pytest.raises(ConfigError, match=sentence):
        lrtape.autolog(**options)

import csv
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrtape.spool import Header, SpoolWriter
from lrtape.tape import Point
from lrtape.tape_file import write_tape
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink

POINTS = [
    *(Point(f"lr/{name}", step, 1000 + step, lr * 0.1 ** (step // 10)) for step in range(30)
      for name, lr in (("a", 0.1), ("b", 1e-8))),
    Point("train/loss", 0, 1000, math.nan),
    Point("train/loss", 1, 1001, 1.0000000000000002e-06),
]  # fmt: skip


@pytest.fixture
def run(store: str) -> MlflowRun:
    """A run whose metrics are `POINTS`."""
    run = MlflowRun.create(store)
    MlflowSink(store, run.run_id).send(POINTS)
    return run


def spool_of(folder: Path, points: list[Point]) -> None:
    folder.mkdir(parents=True)
    writer = SpoolWriter(folder / "spool", Header("abc", True, "sqlite:////mlflow.db", 1))
    for point in points:
        writer.write(point)
    writer.close()


def test_spool_tape_file_and_run_are_shown_alike(lrtape: Callable[..., Any], run: MlflowRun, tmp_path: Path) -> None:
    """A folder, the file in it, a tape file of any name, and the run's own history: curves and a table."""
    spool_of(tmp_path / "folder/abc-1", POINTS)
    write_tape(tmp_path / "tape", POINTS, {})
    outs = [
        lrtape("show", source)
        for source in (
            tmp_path / "folder/abc-1",
            tmp_path / "folder",
            tmp_path / "folder/abc-1/spool",
            tmp_path / "tape",
        )
    ]
    code, out, err = lrtape("show", run.run_id)

    assert {out.out for out in outs} == {out}
    assert (code, err) == (0, "")
    assert "  a  a\n  b  b\n" in out
    assert [line.split()[:2] for line in out.splitlines() if line.startswith(("lr/", "train/")) and "  " in line] == [
        ["lr/a", "30"],
        ["lr/b", "30"],
        ["train/loss", "2"],
    ]
    assert "  step 0: 1e-08  step 10: 1e-09  step 20: 1e-10  last step 29: 1e-10" in out.splitlines()
    assert "\x1b" not in out


def test_the_tapes_of_a_run_go_before_its_metrics(lrtape: Callable[..., Any], run: MlflowRun, tmp_path: Path) -> None:
    """What was recorded is shown, all recordings of the run together, whatever somebody logged beside it."""
    for name, points in (("tape-a.parquet", POINTS[:20]), ("tape-b.parquet", POINTS[10:60])):
        write_tape(tmp_path / name, points, {})
        run.log_artifact(tmp_path / name, "lr")

    assert [line.partition(",")[0] for line in lrtape("show", run.run_id, "--csv").lines] == [
        "key", *["lr/a"] * 30, *["lr/b"] * 30
    ]  # fmt: skip


def test_csv_has_every_row_to_the_last_bit(lrtape: Callable[..., Any], tmp_path: Path) -> None:
    """One line a row, key by key, that reads back exactly."""
    write_tape(tmp_path / "tape.parquet", POINTS, {})
    rows = list(csv.reader(lrtape("show", tmp_path / "tape.parquet", "--csv").lines))

    assert rows[0] == ["key", "step", "time_ms", "value"]
    assert sorted(rows[1:]) == sorted([key, str(step), str(time), repr(value)] for key, step, time, value in POINTS)
    assert [key for key, *_ in rows[1:]] == ["lr/a"] * 30 + ["lr/b"] * 30 + ["train/loss"] * 2


def test_keys_can_be_chosen(lrtape: Callable[..., Any], tmp_path: Path) -> None:
    """By a pattern, in the table, the plot and the rows; without one, only learning rates are drawn."""
    path = tmp_path / "tape.parquet"
    write_tape(path, POINTS, {})

    assert "(lr)" in lrtape("show", path).out
    loss = lrtape("show", path, "--key", "*/loss")
    assert loss.lines[0].split() == ["(value)", "^"]
    assert "lr/" not in loss.out
    assert {line.split(",")[0] for line in lrtape("show", path, "--csv", "--key", "lr/[b-z]").lines[1:]} == {"lr/b"}
    code, out, err = lrtape("show", path, "--key", "lr/c")
    assert (code, out) == (2, "")
    assert "'lr/c' matches none of lr/a, lr/b, train/loss" in err


def test_a_tape_without_learning_rates_is_a_table(lrtape: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is drawn; and where nothing is recorded at all, that is said."""
    write_tape(tmp_path / "loss.parquet", POINTS[-2:], {})
    write_tape(tmp_path / "none.parquet", [], {})

    assert lrtape("show", tmp_path / "loss.parquet").lines[0].startswith("key ")
    assert lrtape("show", tmp_path / "none.parquet") == (0, f"{tmp_path}/none.parquet: nothing is recorded yet\n", "")


def test_a_wrong_source_is_refused(
    lrtape: Callable[..., Any], store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, a run or a store that is not there, a folder of several spools, a file of something else."""
    for name in "ab":
        spool_of(tmp_path / ".lrtape" / name, POINTS)
    (tmp_path / "text").write_text("something else")

    for source, said in [
        ("no/such/folder", "there is no no/such/folder"),
        ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        (".lrtape", "in .lrtape there are 2: .lrtape/a, .lrtape/b"),
        ("text", "text must begin with"),
    ]:
        code, out, err = lrtape("show", source)
        assert (code, out, said in err) == (2, "", True)
        assert err.startswith("lrtape: ")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = lrtape("show", "0123456789abcdef0123456789abcdef")
    assert (code, "there is no " in err, list(Path().iterdir())) == (2, True, [])


def test_a_password_is_refused(lrtape: Callable[..., Any], store: str) -> None:
    """A command line is public; and the message does not repeat it."""
    for command in ("show", "verify"):
        code, out, err = lrtape(command, "abc", "--tracking-uri", "http://me:s3cret@host")
        assert (code, out) == (2, "")
        assert "must not carry a password" in err
        assert "s3cret" not in err


def test_a_reader_that_stops_is_no_error(tmp_path: Path) -> None:
    """`lrtape show ... --csv | head` ends well and prints no traceback."""
    write_tape(tmp_path / "tape", (Point("lr/a", step, step, 0.1) for step in range(100_000)), {})
    script = "from lrtape.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "show", str(tmp_path / "tape"), "--csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0

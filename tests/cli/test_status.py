import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrtape.spool import End, Header, SpoolWriter
from lrtape.spool_folder import Progress, SpoolFolder
from lrtape.tape import Group, GroupLayout, Record, Status, now_ms

N_STEPS = 10


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(folder: Path, end: End | None, age_s: float = 0.0, **options: Any) -> tuple[SpoolWriter, int]:
    """A recording of ten steps of two groups, and the offset behind its sixth; its writer lives until it is closed."""
    folder.mkdir(parents=True)
    writer = SpoolWriter(SpoolFolder(folder).spool, Header("abc", True, "sqlite:////mlflow.db", 1, **options))
    writer.write(GroupLayout(0, (Group("a", "lr/a"), Group("b", "lr/b"))))
    offset = 0
    for step in range(N_STEPS):
        writer.write(Record(0, step, now_ms() - round(1000 * age_s), [0.1, 0.2]))
        offset = writer.size if step == 5 else offset
    if end is not None:
        writer.write(end)
    return writer, offset


def test_nothing_is_said_to_be_nothing(lrtape: Callable[..., Any]) -> None:
    """Without a folder, too; but a folder that somebody names must be there."""
    assert lrtape("status") == (0, ".lrtape: nothing is recorded now, and nothing is left behind\n", "")
    code, out, err = lrtape("status", "elsewhere")
    assert (code, out) == (2, "")
    assert "there is no elsewhere" in err


def test_a_recording_says_how_far_it_is_stored(lrtape: Callable[..., Any]) -> None:
    """The run, that its training lives, the values recorded and stored, the lag in values and in time."""
    writer, offset = record(Path(".lrtape/abc-1"), None, age_s=185)
    SpoolFolder(Path(".lrtape/abc-1")).save_progress(Progress(offset, 12))

    assert lrtape("status").lines == [
        ".lrtape/abc-1: run abc, recording, 20 values recorded, 12 stored, 8 not yet, the oldest for 3 min"
    ]
    writer.close()


def test_what_is_not_to_be_stored_is_not_missed(lrtape: Callable[..., Any]) -> None:
    """With `record=changes` and `lr_log10`: how many values there are, how many go to the store, are there."""
    folder = SpoolFolder(Path(".lrtape/abc-1"))
    writer, _ = record(folder.path, None, record="changes", lr_log10=True)
    folder.save_progress(Progress(writer.size, 4))
    text = ".lrtape/abc-1: run abc, {}, 20 values recorded, {} to be stored, {} stored, {} not yet"

    assert lrtape("status").lines == [text.format("recording", 4, 4, 0)]
    writer.close()
    assert lrtape("status").lines[0].startswith(text.format("its training is dead, waiting", 8, 4, 4))
    folder.save_progress(Progress(writer.size, 8, rest_sent=True))
    assert text.format("its training is dead, waiting", 8, 8, 0) in lrtape("status").lines[0]


@pytest.mark.parametrize(
    ("end", "fate"),
    [(None, "its training is dead"), (End(Status.FAILED), "its training ended as FAILED")],
)
def test_what_is_left_behind_comes_with_what_to_do(lrtape: Callable[..., Any], end: End | None, fate: str) -> None:
    """The training is over and nobody ships: the problem and the command that rescues."""
    writer, _ = record(Path(".lrtape/abc-1"), end, age_s=7.3)
    writer.close()
    folder = SpoolFolder(Path(".lrtape/abc-1"))
    line = f".lrtape/abc-1: run abc, {fate}, waiting, 20 values recorded, 0 stored, 20 not yet, the oldest for 7 s"

    assert lrtape("status").lines == [f"{line}; run: lrtape recover .lrtape/abc-1"]
    folder.save_progress(Progress(error="http://***@host is away"))
    assert lrtape("status").lines == [f"{line}; problem: http://***@host is away; run: lrtape recover .lrtape/abc-1"]
    folder.save_progress(Progress(error="a bad key", refused=True))
    assert lrtape("status").lines[0].endswith("; problem: a bad key; mend that, then run: lrtape recover .lrtape/abc-1")


def test_what_is_being_shipped_needs_nothing(lrtape: Callable[..., Any]) -> None:
    """While another process has claimed the folder there is nothing to do, and asking does not take it away."""
    writer, _ = record(Path(".lrtape/abc-1"), End(Status.FINISHED))
    writer.close()
    folder = SpoolFolder(Path(".lrtape/abc-1"))
    with folder.claim():
        line = lrtape("status").lines[0]
        with pytest.raises(BlockingIOError), folder.claim():
            pass

    assert "its training ended as FINISHED, being stored, " in line
    assert "lrtape recover" not in line
    assert "lrtape recover" in lrtape("status").lines[0]


def test_what_is_kept_on_purpose_needs_nothing(lrtape: Callable[..., Any]) -> None:
    """Everything is stored and was compared."""
    writer, _ = record(Path(".lrtape/abc-1"), End(Status.FINISHED))
    writer.close()
    SpoolFolder(Path(".lrtape/abc-1")).save_progress(Progress(writer.size, 20, complete=True))

    assert lrtape("status").lines == [
        ".lrtape/abc-1: run abc, kept and complete, 20 values recorded, 20 stored, 0 not yet"
    ]


def test_lost_records_are_said(lrtape: Callable[..., Any]) -> None:
    """What a full disk has cost is in the line for as long as the spool is there."""
    writer, _ = record(Path(".lrtape/abc-1"), End(Status.FINISHED, lost=3))
    writer.close()

    assert "; 3 records could not be written and are lost; " in lrtape("status").out


def test_each_folder_has_its_line(lrtape: Callable[..., Any]) -> None:
    """A file that is no spool does not keep the others from being said; one folder can be named alone."""
    for name in ("a", "c"):
        record(Path(".lrtape", name), None)[0].close()
    Path(".lrtape/b").mkdir()
    Path(".lrtape/b/spool").write_text("something else")
    code, out, _ = lrtape("status")

    assert (code, [line.partition(":")[0] for line in out.splitlines()]) == (0, [".lrtape/a", ".lrtape/b", ".lrtape/c"])
    assert "cannot be read: .lrtape/b/spool must begin with" in out
    assert len(lrtape("status", ".lrtape/a").lines) == 1


def test_status_changes_nothing(lrtape: Callable[..., Any]) -> None:
    """No file appears, disappears or changes."""
    record(Path(".lrtape/a"), None)[0].close()
    before = {path: path.stat().st_mtime_ns for path in Path(".lrtape").rglob("*")}
    lrtape("status")

    assert {path: path.stat().st_mtime_ns for path in Path(".lrtape").rglob("*")} == before


def test_a_run_that_is_still_to_be_created_is_said(lrtape: Callable[..., Any]) -> None:
    """Its store was away when its training began."""
    Path(".lrtape/planned-1").mkdir(parents=True)
    header = dataclasses.replace(Header("", True, "http://host", 1), recording_id="1")
    SpoolWriter(Path(".lrtape/planned-1/spool"), header).close()

    assert lrtape("status").out.startswith(".lrtape/planned-1: run still to be created, its training is dead, ")


def test_status_is_light() -> None:
    """It loads neither torch, mlflow nor hydra, and so answers at once."""
    record(Path(".lrtape/a"), None)[0].close()
    script = (
        "import sys; sys.argv = ['lrtape', 'status']\n"
        "from lrtape.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mlflow', 'hydra', 'pyarrow', 'plotille'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert ended.stdout.splitlines()[-1] == "[]"
    assert "its training is dead" in ended.stdout

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from lrtape.overhead import Quartiles, added_cpu, reading_and_one_write
from lrtape.spool import read_spool


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_it_measures_and_leaves_nothing_behind(
    lrtape: Callable[..., Any], temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tables, with every row stored; the user's folder, store, environment and threads are as they were."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'mine.db'}")
    before = {**os.environ}, torch.get_num_threads(), mlflow.get_tracking_uri()

    ended = lrtape("bench", "--seconds", 1)

    assert ended.code == 0, ended.err
    assert "NOT ALL" not in ended.out
    groups = re.findall(
        r"^ +(\d+) param groups? +-?[\d.]+ +-?[\d.]+ +-?[\d.]+ +[\d.]+ +(\d+)$", ended.out, re.MULTILINE
    )
    assert groups == [("1", "3"), ("4", "3"), ("50", "3")]
    (n_rows,) = re.findall(r"([\d,]+) rows were recorded, and all of them are in the store", ended.out)
    assert int(n_rows.replace(",", "")) > 1000
    assert re.search(r"lrtape, median of 3 pairs \(quartiles\) +\d\.\d+", ended.out)
    assert re.search(r"mlflow\.log_metrics in every step +\d+\.\d+", ended.out)
    assert ended.err == ""
    assert [*here.iterdir()] == []
    assert [
        path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")
    ] == []  # torch's own
    after = {**os.environ}, torch.get_num_threads(), mlflow.get_tracking_uri()
    assert {name for name in {*before[0], *after[0]} if before[0].get(name) != after[0].get(name)} <= {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",  # of every command
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
        "TORCHINDUCTOR_CACHE_DIR",  # torch's own, as the folder
    }
    assert after[1:] == before[1:]


@pytest.mark.parametrize("seconds", ["0", "-1", "0.5", "nan", "inf", "1e9"])
def test_nonsense_is_refused(lrtape: Callable[..., Any], seconds: str) -> None:
    """Before anything is measured, with what was given and what is expected."""
    ended = lrtape("bench", f"--seconds={seconds}")

    assert ended.code == 2
    assert ended.out == ""
    assert "`--seconds` must be a number from 1 to 600, but is " in ended.err


def test_what_is_no_number_is_refused(lrtape: Callable[..., Any]) -> None:
    """By the parser, as of every command."""
    assert lrtape("bench", "--seconds", "ten").code == 2


def test_quartiles_are_those_of_the_values() -> None:
    """Inclusive ones, so that those of three values are not outside of them."""
    assert Quartiles.of([3.0, 1.0, 2.0]) == Quartiles(1.5, 2.0, 2.5, 3)


def test_what_is_measured_is_recording(tmp_path: Path) -> None:
    """Every recorded step is in the spool; its floor is of a place of its own."""
    added_cpu(4, tmp_path, n_pairs=5, n_steps=300)
    reading_and_one_write(4, tmp_path)

    tape = read_spool(tmp_path / "spool4")
    assert [len(series) for series in tape.values()] == [6 * 300] * 4

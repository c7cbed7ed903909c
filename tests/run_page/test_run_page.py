"""The page of a run, made by the real shipper in a real store."""

import csv
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch.optim.lr_scheduler import LRScheduler, StepLR

import lrtape
from lrtape.recording_options import FOLDER
from lrtape.recover import recover
from lrtape.run_page import run_page
from lrtape.run_page.description import BEGIN, END, About, describe, with_description
from lrtape.run_page.group_summary import GroupSummary
from lrtape.run_page.run_page import RunPage
from lrtape.run_page.summary import Summary
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Finding
from lrtape.tracking.mlflow_run import MlflowRun

NOTE = "mlflow.note.content"


def two_groups() -> torch.optim.SGD:
    params = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name} for name in ("backbone", "head")]
    return torch.optim.SGD([params[0] | {"lr": 1e-3}, params[1] | {"lr": 1e-2}])


def train(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, n_steps: int) -> None:
    for _ in range(n_steps):
        optimizer.step()
        scheduler.step()


def page_of(store: str) -> tuple[dict[str, str], dict[str, str]]:
    """The tags of the only run, and the texts of the artifacts that are texts."""
    client = MlflowClient(tracking_uri=store)
    (experiment,) = [found for found in client.search_experiments() if client.search_runs([found.experiment_id])]
    (run,) = client.search_runs([experiment.experiment_id])
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    return run.data.tags, {str(path.relative_to(folder)): path.read_text() for path in files}


def test_a_users_own_loop_gets_a_page_that_reads_itself(store: str) -> None:
    """One line of code: verdict, picture, a row for each group with its drops, links; and the files behind them."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run(run_name="mine"):
        optimizer = two_groups()
        with lrtape.attach(optimizer):
            train(optimizer, StepLR(optimizer, 10), 30)
    tags, files = page_of(store)
    note = tags[NOTE]

    assert tags["lr.verdict"] == "ok"
    assert note.splitlines()[2:5] == ["Learning rates: ok", "", "2 param groups, 30 optimizer steps."]
    assert "![learning rates](get-artifact?path=lr/curve.svg&run_uuid=" in note
    (row,) = [line for line in note.splitlines() if line.startswith("| head")]
    cells = [cell.replace("&emsp;", "").strip() for cell in row.strip("|").split("|")]
    assert cells == ["head", "0.01", "0.01", "0.0001", "2, at steps 10, 20", ""]
    assert next(csv.DictReader(files["lr/changes.csv"].splitlines())) == {
        "group": "backbone",
        "first_step": "10",
        "last_step": "10",
        "lr_before": "0.001",
        "lr_after": "0.0001",
    }
    assert "mine: the learning rate that each step used" in files["lr/curve.svg"]
    assert json.loads(files["lr/findings.json"]) == {"verdict": "ok", "findings": []}
    assert json.loads(files["config/environment.json"])["packages"]["torch"] == version("torch")


def test_a_users_own_loop_that_decays_too_fast_is_told_so(store: str) -> None:
    """StepLR that is stepped after every batch: nobody has told lrtape a plan, and the page says it all the same."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run():
        optimizer = two_groups()
        with lrtape.attach(optimizer):
            train(optimizer, StepLR(optimizer, 1), 50)
    tags, files = page_of(store)

    assert tags["lr.verdict"].startswith("warning decays-too-fast: lr/backbone falls below 1% of its peak")
    assert f"Learning rates: {tags['lr.verdict']}" in tags[NOTE].replace("\\", "")
    assert json.loads(files["lr/findings.json"])["findings"][0]["code"] == "decays-too-fast"


def test_what_a_user_has_written_stays(store: str) -> None:
    """The description of a run is kept below lrtape's part of it, however often that is renewed."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run(description="My *own* words.\n\nTwo lines.") as run:
        for name in ("first", "second"):
            optimizer = two_groups()
            with lrtape.attach(optimizer, names=[name]):
                train(optimizer, StepLR(optimizer, 10), 30)
    note = MlflowClient(tracking_uri=store).get_run(run.info.run_id).data.tags[NOTE]

    assert note.endswith(f"{END}\n\nMy *own* words.\n\nTwo lines.")
    assert note.count(BEGIN) == note.count("My *own* words.") == 1
    assert "4 param groups" in note


@pytest.mark.parametrize("own", ["", "mine", f"{END} broken {BEGIN}"])
def test_lrtapes_part_of_a_description_is_replaced(own: str) -> None:
    """Once and again; what looks like a torn one is a user's own."""
    first = with_description("one", own, 8000)
    second = with_description("two", first, 8000)

    assert second == first.replace("one", "two", 1)
    assert second.endswith(own)


def test_a_long_description_of_a_users_own_is_kept_whole() -> None:
    """Where there is no room for both, lrtape's part is one line, or none."""
    section = "Learning rates: ok\n\n" + "table\n" * 900

    for n_characters in (100, 5_000, 7_900, 7_990):
        own = "x" * (n_characters - 1) + "y"
        text = with_description(section, own, 8000)
        assert len(text) <= 8000
        assert text.endswith(own)
        assert ("Learning rates: ok" in text) == (n_characters < 7_950)


def test_a_hundred_groups_leave_room_for_what_was_found() -> None:
    """The links go first, then the table; the findings stay."""
    summary = Summary()
    for index in range(100):
        name = f"encoder.layers.{index:03d}.attention.projection"
        summary.groups[f"lr/{name}"] = GroupSummary(name, 0, 9, 10, 0.1, 0.1, 0.1)
    summary.findings.append(Finding("lr-zero", "This is wrong.", "lr/x", 0))
    links = [("All groups in one chart", "#/metric?" + "x" * 5_500)]

    text = describe(summary, About("run", None, "FINISHED", links, "lr"), "warning lr-zero: This is wrong.")

    assert "**warning lr-zero**: This is wrong." in text
    assert "84 more groups" in text
    assert "All groups in one chart" not in text


def test_two_trainings_at_once_in_one_run_have_one_page_and_the_worse_verdict(store: str) -> None:
    """The one that ends last tells of both, though the other one ended after it had begun."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run():
        one, other = two_groups(), two_groups()
        with lrtape.attach(one, names=["fine"]), lrtape.attach(other, names=["broken"]):
            for _ in range(30):
                one.step()
                other.param_groups[0]["lr"] = other.param_groups[1]["lr"] = math.inf
                other.step()
    tags, files = page_of(store)

    assert "4 param groups" in tags[NOTE]
    assert tags["lr.verdict"].startswith("error lr-not-finite: lr/broken/")
    assert {row.partition(",")[0] for row in files["lr/changes.csv"].splitlines()[1:]} == set()


KILLED = """
import os, signal, torch, mlflow, lrtape
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
with mlflow.start_run(), lrtape.attach(optimizer) as session:
    for _ in range(25):
        optimizer.step(); scheduler.step()
    print(session.run_id, flush=True)
    signal.pause()
"""


def test_a_killed_training_and_what_goes_on_with_it_have_one_page(
    store: str, start_process: Callable[..., Any], tmp_path: Path
) -> None:
    """The page of a training that was killed says so; that of the one that resumes it shows all steps of both."""
    process = start_process(sys.executable, "-c", KILLED, MLFLOW_TRACKING_URI=store)
    run_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    client = MlflowClient(tracking_uri=store)
    deadline = time.monotonic() + 60
    while client.get_run(run_id).info.status == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.2)
        list(recover(tmp_path / FOLDER, store))
    killed = client.get_run(run_id).data.tags[NOTE]
    mlflow.set_tracking_uri(store)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = StepLR(optimizer, 10)
    for _ in range(25):
        scheduler.step()
    with lrtape.attach(optimizer, run=run_id, first_step=25):
        train(optimizer, scheduler, 15)
    tags, files = page_of(store)

    assert "1 param group, 25 optimizer steps; the training was killed." in killed
    assert "2, at steps 10, 20" in killed
    assert "1 param group, 40 optimizer steps." in tags[NOTE]
    assert "3, at steps 10, 20, 30" in tags[NOTE]
    assert len(files["lr/changes.csv"].splitlines()) == 4
    assert tags["lr.verdict"] == "ok"


def test_the_page_of_a_training_that_goes_on_shows_how_far_it_is(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picture and description are there before the end, and made again only when the pause is over, which grows."""
    monkeypatch.setattr(run_page, "FIRST_REFRESH_S", 0.0)
    monkeypatch.setattr(run_page, "_PAUSE_PER_WORK", 0)
    mlflow.set_tracking_uri(store)
    client = MlflowClient(tracking_uri=store)
    with mlflow.start_run() as active:
        optimizer = two_groups()
        with lrtape.attach(optimizer) as session:
            train(optimizer, StepLR(optimizer, 10), 12)
            (folder,) = SpoolFolder.find(Path(FOLDER))
            page = RunPage(folder, MlflowRun.join(session.run_id or "", store))
            page.refresh_if_due()
            note = client.get_run(active.info.run_id).data.tags[NOTE]
            artifacts = [item.path for item in client.list_artifacts(active.info.run_id, "lr")]
            monkeypatch.setattr(page, "_due_s", time.monotonic() + 60)
            train(optimizer, StepLR(optimizer, 10), 5)
            page.refresh_if_due()
            unchanged = client.get_run(active.info.run_id).data.tags[NOTE]

    assert "Learning rates: recording, 12 steps so far" in note
    assert artifacts == ["lr/curve.svg"]
    assert unchanged == note


def test_a_page_that_cannot_be_made_costs_nothing_else(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rows, tape and status of a recovered training are all there, without a picture."""
    mlflow.set_tracking_uri(store)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "sitecustomize.py").write_text(
        "import lrtape.curve_svg\ndef fail(*_): raise ZeroDivisionError\nlrtape.curve_svg.draw_svg = fail\n"
    )
    with mlflow.start_run() as active:
        optimizer = two_groups()
        with lrtape.attach(optimizer):
            train(optimizer, StepLR(optimizer, 10), 12)
    run = MlflowClient(tracking_uri=store).get_run(active.info.run_id)
    artifacts = [item.path for item in MlflowClient(tracking_uri=store).list_artifacts(active.info.run_id, "lr")]

    assert (run.info.status, run.data.tags["lrtape.complete"]) == ("FINISHED", "true")
    assert [path.rpartition(".")[2] for path in artifacts] == ["parquet"]

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from lrtape.delivery import Delivery, deliver
from lrtape.shipper import DeadWriter
from lrtape.spool import End, Header, SpoolWriter, read_spool
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Finding, Group, GroupLayout, Point, Record, Status
from lrtape.tape_file import read_notes, read_tape
from lrtape.tracking.history import History, read_run
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink
from lrtape.tracking.sink import RefusedPointsError

RECORDING = "0badcafe"
N_STEPS = 10
ODD = Finding("odd", "Something is odd.", "lr/a", 3)


class Left:
    """What a training of ten steps left behind: a run, and a spool of which nothing is shipped."""

    def __init__(
        self,
        store: str,
        end: End | None,
        keep: bool = False,
        run: MlflowRun | None = None,
        record: str = "every_step",
        lr_log10: bool = False,
    ) -> None:
        self.store = store
        self.run = run or MlflowRun.create(store)
        self.run.begin_recording(RECORDING)
        self.folder = SpoolFolder(Path(".lrtape/x"))
        self.folder.path.mkdir(parents=True)
        header = Header(self.run.run_id, self.run.is_owned, store, 1, RECORDING, keep, record, lr_log10)
        writer = SpoolWriter(self.folder.spool, header)
        writer.write(GroupLayout(0, (Group("a", "lr/a"), Group("b", "lr/b"))))
        for step in range(N_STEPS):
            writer.write(Record(0, step, step, [0.1, 0.2]))
        writer.write(Point("train/loss", 3, 3, float("nan")))
        writer.write(ODD)
        if end is not None:
            writer.write(end)
        writer.close()
        self.tape = dict(read_spool(self.folder.spool))

    def deliver(self) -> Delivery:
        with self.folder.claim():
            return deliver(self.folder, self.store, DeadWriter(), give_up_s=0.0)

    def mlflow_run(self) -> Run:
        return MlflowClient(tracking_uri=self.store).get_run(self.run.run_id)

    def execute(self, statement: str) -> None:
        with sqlite3.connect(self.store.removeprefix("sqlite:///")) as database:
            database.execute(statement)


def test_a_delivery_is_whole(store: str, tmp_path: Path) -> None:
    """The rows, the tape as an artifact, the tags and the status are there; the spool is not any more."""
    left = Left(store, End(Status.FINISHED, us_per_step=3.25))
    delivery = left.deliver()
    run = left.mlflow_run()

    assert delivery == Delivery(2 * N_STEPS + 1, True)
    assert dict(read_run(run.info.run_id, store)) == left.tape
    assert run.info.status == "FINISHED"
    assert run.data.tags["lrtape.complete"] == "true"
    assert run.data.tags["lrtape.us_per_step"] == "3.25"
    assert [key for key in run.data.tags if key.startswith("lrtape.missing.")] == []
    assert not left.folder.path.exists()

    (file,) = History(run.info.run_id, store).tapes(tmp_path)
    assert file.name == f"tape-{RECORDING}.parquet"
    assert dict(read_tape(file)) == left.tape
    assert [Finding(**finding) for finding in read_notes(file)["findings"]] == [ODD]
    assert read_notes(file)["end"] == {"status": "FINISHED", "us_per_step": 3.25, "lost": 0, "error": ""}


def test_what_the_store_has_lost_is_sent_again(store: str) -> None:
    """Acknowledged is not stored: the comparison at the end finds the hole, and mends it."""
    left = Left(store, End(Status.FINISHED), keep=True)
    left.deliver()
    left.execute("DELETE FROM metrics WHERE key = 'lr/b' AND step > 4")
    assert len(read_run(left.run.run_id, store)["lr/b"]) == 5

    assert left.deliver() == Delivery(2 * N_STEPS + 1, True)
    assert dict(read_run(left.run.run_id, store)) == left.tape


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE metrics SET value = 0.5 WHERE key = 'lr/a' AND step = 7", "lr/a"),
        (
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
            "SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics WHERE key = 'lr/b' AND step = 2",
            "lr/b has 1 row too many at step 2",
        ),
    ],
)
def test_what_does_not_belong_there_is_said(store: str, statement: str, said: str) -> None:
    """Another value or a double cannot be mended: it is named, and the run is not called complete."""
    left = Left(store, End(Status.FINISHED), keep=True)
    left.deliver()
    left.execute(statement)
    delivery = left.deliver()
    tags = left.mlflow_run().data.tags

    assert delivery.is_complete
    assert said in delivery.problem
    assert tags["lrtape.complete"] == "false"
    assert tags[f"lrtape.missing.{RECORDING}"] == delivery.problem


def test_a_row_that_was_never_recorded_is_said_where_none_need_be(store: str) -> None:
    """With `record=changes`, too: a step that is not stored on purpose may be stored as it was recorded, and not with
    another value. A row of the logarithm that is missing is sent again.
    """
    left = Left(store, End(Status.FINISHED), keep=True, record="changes", lr_log10=True)
    n_stored = 2 * 2 * 2 + 1  # two groups, first and last, lr and logarithm; and the loss

    assert left.deliver() == Delivery(n_stored, True)
    MlflowSink(store, left.run.run_id).send([Point("lr/a", 7, 7, 0.1)])
    left.execute("DELETE FROM metrics WHERE key = 'lr_log10/b'")
    assert left.deliver() == Delivery(n_stored, True)
    assert list(read_run(left.run.run_id, store)["lr_log10/b"].steps) == [0, N_STEPS - 1]
    assert left.mlflow_run().data.tags["lrtape.complete"] == "true"

    MlflowSink(store, left.run.run_id).send([Point("lr/a", 6, 6, 0.9), Point("lr/a", 20, 6, 0.9)])
    assert left.deliver().problem == "lr/a has 1 row too many at step 6."
    assert left.mlflow_run().data.tags["lrtape.complete"] == "false"


def test_what_was_lost_before_is_said(store: str) -> None:
    """Frames that a full disk refused are nowhere; the run says so."""
    left = Left(store, End(Status.FINISHED, lost=3))
    delivery = left.deliver()

    assert delivery.is_complete
    assert delivery.problem.startswith("3 records could not be written")
    assert left.mlflow_run().data.tags["lrtape.complete"] == "false"
    assert left.mlflow_run().info.status == "FINISHED"


def test_a_spool_may_be_kept(store: str) -> None:
    """It stays where it shall, and says that nothing is left to be done."""
    left = Left(store, End(Status.FINISHED), keep=True)

    assert left.deliver().is_complete
    assert left.folder.load_progress().complete
    assert dict(read_spool(left.folder.spool)) == left.tape


def test_a_tape_that_cannot_be_uploaded_stays_on_the_disk(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are stored and the run is ended all the same; the spool is kept, and why is said."""
    monkeypatch.setattr("lrtape.delivery.UPLOAD_PAUSE_S", 0.0)
    (tmp_path / "mlartifacts").write_text("no folder")
    left = Left(store, End(Status.FINISHED))
    delivery = left.deliver()

    assert not delivery.is_complete
    assert "could not be uploaded" in delivery.problem
    assert left.folder.load_progress().error == delivery.problem
    assert (left.mlflow_run().info.status, left.mlflow_run().data.tags["lrtape.complete"]) == ("FINISHED", "true")
    (tmp_path / "mlartifacts").unlink()
    assert left.deliver() == Delivery(2 * N_STEPS + 1, True)
    assert not left.folder.path.exists()


def test_a_run_that_was_resumed_is_not_ended_by_its_first_recording(store: str) -> None:
    """The old spool arrives late, and its training is dead; the run belongs to the new one."""
    left = Left(store, None)
    MlflowRun(store, left.run.run_id, is_owned=True).begin_recording("12345678")
    delivery = left.deliver()
    run = left.mlflow_run()

    assert delivery.is_complete
    assert run.info.status == "RUNNING"
    assert run.data.tags["lrtape.complete"] == "false"
    assert run.data.tags["lrtape.missing.12345678"] == "still recording"


def test_a_run_that_is_gone_is_refused(store: str) -> None:
    """Nothing is sent and nothing removed, and the reason is told."""
    left = Left(store, End(Status.FINISHED))
    MlflowClient(tracking_uri=store).delete_run(left.run.run_id)
    delivery = left.deliver()

    assert (delivery.points, delivery.is_complete) == (0, False)
    assert "deleted" in delivery.problem
    assert left.folder.spool.exists()


def test_what_was_refused_is_never_called_complete(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a second delivery either, and not on a tape that is too long to be compared; once it is mended, it is."""
    monkeypatch.setattr("lrtape.verification.MAX_COMPARED_POINTS", 5)
    left = Left(store, End(Status.FINISHED))
    send = MlflowSink.send

    def picky(sink: MlflowSink, points: Sequence[Point]) -> None:
        if any(point.key == "lr/b" for point in points):
            raise RefusedPointsError("lr/b is no key")
        send(sink, points)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowSink, "send", picky)
        deliveries = [left.deliver(), left.deliver()]
    tags = left.mlflow_run().data.tags

    assert [(delivery.is_complete, delivery.points) for delivery in deliveries] == [(False, N_STEPS + 1)] * 2
    assert "lr/b is no key" in deliveries[1].problem
    assert tags["lrtape.complete"] == "false"
    assert left.deliver() == Delivery(2 * N_STEPS + 1, True)
    assert dict(read_run(left.run.run_id, store)) == left.tape


def test_what_others_log_under_a_key_of_theirs_is_no_mistake(store: str) -> None:
    """Two recordings of one run may both log the loss."""
    left = Left(store, End(Status.FINISHED))
    MlflowClient(tracking_uri=store).log_metric(left.run.run_id, "train/loss", 0.5, timestamp=9, step=3)

    assert left.deliver() == Delivery(2 * N_STEPS + 1, True)


def test_recordings_that_end_together_leave_a_complete_run(store: str) -> None:
    """In whatever order their requests come: the later one sees that both are done."""
    run = MlflowRun.create(store)
    for recording in ("a", "b"):
        run.begin_recording(recording)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda recording: run.end_recording(recording, "", None), ("a", "b")))
    tags = MlflowClient(tracking_uri=store).get_run(run.run_id).data.tags

    assert tags["lrtape.complete"] == "true"
    assert [key for key in tags if key.startswith("lrtape.missing.")] == []


@pytest.mark.parametrize(("then", "is_complete"), [("ends", "true"), ("begins", "false")])
def test_another_recording_between_a_look_and_what_comes_of_it(
    store: str, monkeypatch: pytest.MonkeyPatch, then: str, is_complete: str
) -> None:
    """Whether the run is complete is right in the end, whatever another one does before that is written."""
    run, other = MlflowRun.create(store), MlflowClient(tracking_uri=store)
    same = MlflowRun.join(run.run_id, store)
    run.begin_recording("a")
    if then == "ends":
        run.begin_recording("b")
    looked = run._client.get_run

    def look(run_id: str) -> Run:
        found = looked(run_id)
        if "lrtape.missing.a" not in found.data.tags and not come:
            come.append(then)
            same.end_recording("b", "", None) if then == "ends" else same.begin_recording("b")
        return found

    come: list[str] = []
    monkeypatch.setattr(run._client, "get_run", look)
    run.end_recording("a", "", None)

    assert come == [then]
    assert other.get_run(run.run_id).data.tags["lrtape.complete"] == is_complete

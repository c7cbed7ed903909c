import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from sqlalchemy import Engine, event

from lrtape.delivery import Delivery, deliver
from lrtape.shipper import DeadWriter
from lrtape.spool import End, Header, SpoolWriter
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Group, GroupLayout, Point, Record, Status
from lrtape.tracking.logged_model import put_model
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink
from lrtape.tracking.saved_model import ModelNote, save_model

MY_NET = """
import my_parts, torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = my_parts.Part()

    def forward(self, inputs):
        outputs = self.part(inputs)
        return outputs * 2 if outputs.sum().item() > 0 else outputs
"""
MY_PARTS = """
import torch

class Part(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
"""
PREDICT = """
import sys, mlflow, torch
model = mlflow.pytorch.load_model(sys.argv[1])
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2])), sys.argv[2])
"""

RECORDING = "0badcafe"
STEP = 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as the training process leaves it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    assert save_model(folder, torch.nn.Linear(2, 1).eval(), torch.ones(2, 2), ModelNote(0, STEP)) == "pt2"
    return folder


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement that reaches a database from here on."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def models_of(store: str, run: MlflowRun) -> list[Any]:
    return list(MlflowClient(tracking_uri=store).search_logged_models([run.experiment_id]))


def test_a_long_tape_makes_no_request_more(store: str, saved: Path, statements: list[str]) -> None:
    """A model of a run with a hundred times as many rows takes the same statements: no history is read."""
    taken = []
    for n_rows in (10, 1000):
        run = MlflowRun.create(store)
        points = [Point("lr/all", step, step, 0.5) for step in range(n_rows)]
        MlflowSink(store, run.run_id).send(points)
        statements.clear()
        put_model(saved, run, RECORDING, lambda step, points=points: points[step : step + 1])  # type: ignore[misc]
        taken.append(list(statements))
        put_model(saved, run, RECORDING, lambda _: [])  # once more changes nothing
        (model,) = (model for model in models_of(store, run) if model.source_run_id == run.run_id)
        assert [(metric.key, metric.step, metric.value) for metric in model.metrics] == [("lr/all", STEP, 0.5)]

    assert taken[0] == taken[1]
    assert histories(taken[1]) == []
    statements.clear()
    MlflowClient(tracking_uri=store).get_metric_history(run.run_id, "lr/all")
    assert len(histories(statements)) == 1  # it would be seen


@pytest.mark.parametrize("request_", ["log_model_artifacts", "log_outputs", "log_batch", "finalize_logged_model"])
def test_a_model_that_was_cut_off_is_finished_later(
    store: str, saved: Path, request_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever request failed, before it was made or after: the next call goes on, and there is one model."""
    run = MlflowRun.create(store)
    MlflowSink(store, run.run_id).send([Point("lr/all", STEP, 1, 0.5)])
    made = getattr(MlflowClient, request_)

    def cut_off(*args: Any, **options: Any) -> None:
        made(*args, **options)
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, request_, cut_off)
        with pytest.raises(OSError, match="cut off"):
            put_model(saved, run, RECORDING, lambda _: [Point("lr/all", STEP, 1, 0.5)])
    put_model(saved, run, RECORDING, lambda _: [Point("lr/all", STEP, 1, 0.5)])

    (model,) = models_of(store, run)
    assert model.status == "READY"
    assert [metric.key for metric in model.metrics] == ["lr/all"]


def histories(statements: list[str]) -> list[str]:
    """Those that read a metric at every step."""
    conditions = [statement.partition("WHERE")[2].partition("ORDER BY")[0] for statement in statements]
    of_metrics = ["FROM metrics" in statement for statement in statements]
    return [text for text, is_one in zip(conditions, of_metrics, strict=True) if is_one and "step" not in text]


def test_a_model_that_no_graph_can_stand_for_is_pickled_with_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh process in another folder, where the user's modules are not, loads it and predicts the same numbers."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "my_net.py").write_text(MY_NET)
    (here / "my_parts").mkdir()
    (here / "my_parts" / "__init__.py").write_text(MY_PARTS)
    (here / "my_parts" / "data.bin").write_bytes(b"large")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    net = importlib.import_module("my_net").Net().eval()
    for name in ("my_net", "my_parts"):
        monkeypatch.setitem(
            sys.modules, name, sys.modules.pop(name)
        )  # gone afterwards: other tests have such modules, too
    inputs = torch.tensor([[0.1, 0.2], [0.3, -0.4]])
    form = save_model(tmp_path / "model", net, inputs, ModelNote(0, STEP))
    torch.save(inputs, elsewhere / "numbers.pt")
    arguments = [str(tmp_path / "model" / "files"), "numbers.pt"]
    subprocess.run([sys.executable, "-I", "-c", PREDICT, *arguments], cwd=elsewhere, check=True, capture_output=True)

    assert form == "pickle"
    assert list((tmp_path / "model").rglob("data.bin")) == []
    with torch.no_grad():
        assert torch.equal(torch.load(elsewhere / "numbers.pt"), net(inputs))


def left(store: str, saved: Path) -> tuple[MlflowRun, SpoolFolder]:
    """A run, and what a training of five steps has left for it, with a model."""
    run = MlflowRun.create(store)
    run.begin_recording(RECORDING)
    folder = SpoolFolder(Path(".lrtape/x"))
    folder.path.mkdir(parents=True)
    writer = SpoolWriter(folder.spool, Header(run.run_id, True, store, 1, RECORDING, False))
    writer.write(GroupLayout(0, (Group("a", "lr/a"),)))
    for step in range(5):
        writer.write(Record(0, step, step, [0.1]))
    writer.write(Point("val/loss", STEP, STEP, float("nan")))
    writer.write(End(Status.FINISHED))
    writer.close()
    saved.rename(folder.model)
    return run, folder


def test_a_model_that_could_not_be_stored_waits_in_the_spool(store: str, saved: Path, tmp_path: Path) -> None:
    """Where the artifacts cannot be written, the run is complete, the spool stays, and says why; the next delivery
    stores the model that the first one had begun, once. A NaN is no value of it.
    """
    own = tmp_path / "own"
    shutil.copytree(saved, own)
    run, folder = left(store, own)
    in_the_way = tmp_path / "mlartifacts" / "lrtape" / "models"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("")

    first = delivery_of(folder, store)
    assert not first.is_complete
    assert first.problem.startswith("The model could not be stored (")
    assert folder.model.exists()
    assert MlflowClient(tracking_uri=store).get_run(run.run_id).data.tags["lrtape.complete"] == "true"

    in_the_way.unlink()
    assert delivery_of(folder, store) == Delivery(6, True)
    (model,) = models_of(store, run)
    assert str(model.status) == "READY"
    assert [(metric.key, metric.value) for metric in model.metrics] == [("lr/a", 0.1)]
    assert not folder.path.exists()


def delivery_of(folder: SpoolFolder, store: str) -> Delivery:
    with folder.claim():
        return deliver(folder, store, DeadWriter(), give_up_s=0.0)

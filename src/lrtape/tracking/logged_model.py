"""The model of a run: stored and linked by whoever ships the spool.

MLflow's own ``log_model`` within a run downloads the whole history of every metric of that run, to find the values of
one step (mlflow 3.17). Here the spool has them.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.logged_model import LoggedModel
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.utils.mlflow_tags import MLFLOW_USER

from lrtape.tape import Point
from lrtape.tape_file import read_tape
from lrtape.tracking.history import History
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MAX_METRICS_A_REQUEST
from lrtape.tracking.nonfinite import to_store
from lrtape.tracking.packed_model import pack_graph
from lrtape.tracking.saved_model import PT2, ModelFolder, ModelNote
from lrtape.tracking.tags import RECORDING, VERDICT

MODEL_NAME = "model"
"""``runs:/<run id>/model``."""
EPOCH, STEP = "lrtape.epoch", "lrtape.step"
"""Params of a model: of its checkpoint, both from 0."""
FORMAT = "lrtape.format"
"""Param of a model: `PT2` or `PICKLE`."""
_SOURCE = "mlflow.source."


def put_model(folder: Path, run: MlflowRun, recording_id: str, rows_of: Callable[[int], Iterable[Point]]) -> None:
    """Store the model that `save_model` has left, once: a second call goes on where the first one was cut off.

    It is linked to its run, and to the values that the run has of its step. A few requests, whatever the run holds.

    Args:
        folder: where it is.
        run: whose model it is; all its values are stored.
        recording_id: of the recording that the model is of.
        rows_of: what that recording has of a step; asked only where the model is not there yet.

    Raises:
        Exception: whatever the store raises, or that of the artifacts.
    """
    its = ModelFolder(folder)
    saved = its.read()
    note = saved.note
    client = MlflowClient(tracking_uri=run.tracking_uri)
    model = _find(client, run, note) or _create(client, run, recording_id, note, saved.format)
    if model.status == LoggedModelStatus.READY:
        return
    if saved.format == PT2:
        pack_graph(its, saved)
    description = Model.load(str(its.files))
    description.model_id, description.run_id = model.model_id, run.run_id
    description.artifact_path = model.artifact_location
    description.save(str(its.files / MLMODEL_FILE_NAME))
    client.log_model_artifacts(model.model_id, str(its.files))
    if not _is_output(client, run, model):
        client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, note.step)])
    rows = list(rows_of(note.step)) or _earlier_rows(run, note.step)
    # NaN and infinity are no values of a model: MLflow has them under keys of their own.
    metrics = [_link(row, model.model_id, note.datasets) for row in rows if to_store(row) is row]
    for start in range(0, len(metrics), MAX_METRICS_A_REQUEST):
        client.log_batch(run.run_id, metrics=metrics[start : start + MAX_METRICS_A_REQUEST])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _find(client: MlflowClient, run: MlflowRun, note: ModelNote) -> LoggedModel | None:
    """The run's model of the same step, if it has one."""
    found = client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'")
    mine = [model for model in found if model.name == MODEL_NAME and model.params.get(STEP) == str(note.step)]
    return next(iter(sorted(mine, key=lambda model: model.status != LoggedModelStatus.READY)), None)


def _is_output(client: MlflowClient, run: MlflowRun, model: LoggedModel) -> bool:
    """Whether the run names the model as its own already: mlflow (3.17) fails when it is told so twice."""
    outputs = client.get_run(run.run_id).outputs
    return outputs is not None and any(output.model_id == model.model_id for output in outputs.model_outputs)


def _create(client: MlflowClient, run: MlflowRun, recording_id: str, note: ModelNote, form: str) -> LoggedModel:
    """With what MLflow itself would copy of its run, so that models can be compared like runs."""
    data = client.get_run(run.run_id).data
    copied = {key: text for key, text in data.tags.items() if key == MLFLOW_USER or key.startswith(_SOURCE)}
    verdict = {VERDICT: data.tags[VERDICT]} if VERDICT in data.tags else {}
    params = {**data.params, EPOCH: str(note.epoch), STEP: str(note.step), FORMAT: form}
    return client.create_logged_model(
        run.experiment_id,
        MODEL_NAME,
        run.run_id,
        tags={**copied, **verdict, RECORDING: recording_id},
        params=params,
    )


def _earlier_rows(run: MlflowRun, step: int) -> list[Point]:
    """Of the recordings before this one, where a training was resumed after its best step."""
    with tempfile.TemporaryDirectory() as folder:
        tapes = History(run.run_id, run.tracking_uri).tapes(Path(folder))
        return [point for tape in tapes for point in read_tape(tape).points() if point.step == step]


def _link(row: Point, model_id: str, datasets: Mapping[str, tuple[str, str]]) -> Metric:
    """The same row once more, which the run has already: only its link to the model, and to the data, is new."""
    name, digest = datasets.get(row.key.partition("/")[0], (None, None))
    return Metric(row.key, row.value, row.time_ms, row.step, model_id, name, digest)

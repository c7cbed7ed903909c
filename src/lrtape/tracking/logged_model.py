"""The model of a run: saved by the training process, stored and linked by whoever ships the spool.

MLflow's own ``log_model`` within a run downloads the whole history of every metric of that run, to find the values of
one step (mlflow 3.17). Here the spool has them.
"""

import contextlib
import inspect
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.logged_model import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import Schema, TensorSpec
from mlflow.utils import environment
from mlflow.utils.mlflow_tags import MLFLOW_USER

from lrtape.tape import Point
from lrtape.tape_file import read_tape
from lrtape.tracking.history import History
from lrtape.tracking.mlflow_run import RECORDING, VERDICT, MlflowRun
from lrtape.tracking.mlflow_sink import MAX_METRICS_A_REQUEST
from lrtape.tracking.nonfinite import to_store

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_NAME = "model"
"""``runs:/<run id>/model``."""
EPOCH, STEP = "lrtape.epoch", "lrtape.step"
"""Params of a model: of its checkpoint, both from 0."""
FORMAT = "lrtape.format"
"""Param of a model: `PT2` or `PICKLE`."""
PT2, PICKLE = "pt2", "pickle"
MAX_EXAMPLE_NUMBERS = 200_000
"""An input example is stored as text, twice; a larger one is only described."""


_FILES, _ABOUT = "files", "about.json"
_SOURCE = "mlflow.source."
_WARN_OF_REQUIREMENTS = "warn_dependency_requirement_mismatches"
_warn_of_requirements = getattr(environment, _WARN_OF_REQUIREMENTS, None)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelNote:
    """What is known of a model beside its files.

    Attributes:
        epoch: of its checkpoint, from 0.
        step: the last optimizer step before it, from 0.
        datasets: name and digest of the data, by their context; see `LoggedDataset`.
    """

    epoch: int
    step: int
    datasets: dict[str, tuple[str, str]] = field(default_factory=dict)


def save_model(folder: Path, model: "nn.Module", inputs: "Tensor", note: ModelNote) -> str:
    """Save a model as MLflow has them, with a signature and an input example; see that it predicts the same numbers.

    It becomes a traced graph, which needs no class and runs no code of its own when it is loaded. One that cannot be
    traced, or that would predict other numbers then, is pickled, with the modules of the current folder that it needs.
    Takes a second the first time in a process, then a tenth; called by the training thread, when the training is over.

    Args:
        folder: a new one; it appears in one piece.
        model: on the CPU, and not in training mode.
        inputs: two samples or more.
        note: what else is known.

    Returns:
        Which format it has: `PT2` or `PICKLE`.

    Raises:
        Exception: whatever the model raises, or torch, or MLflow.
    """
    import torch

    new = folder.with_suffix(".new")
    with _quietly(), _without_looking_at_packages(), torch.no_grad():
        expected = model(inputs)
        try:
            _save(new, PT2, model, inputs, expected)
            form = PT2
        except Exception as error:  # noqa: BLE001 - there is no end of what a tracer may stumble over
            _log.info("the model cannot be stored as a graph: %s", error)
            _save(new, PICKLE, model, inputs, expected)
            form = PICKLE
    (new / _ABOUT).write_bytes(msgspec.json.encode({"note": note, "format": form}))
    new.replace(folder)
    return form


def _save(new: Path, form: str, model: "nn.Module", inputs: "Tensor", expected: Any) -> None:
    import mlflow.pytorch
    import torch

    shutil.rmtree(new, ignore_errors=True)
    files = new / _FILES
    new.mkdir(parents=True)
    is_small = inputs.numel() <= MAX_EXAMPLE_NUMBERS
    example = inputs.numpy() if is_small else inputs if form == PT2 else None  # a graph must be traced with one
    requirements = [f"torch=={torch.__version__.partition('+')[0]}"]
    code: list[str] = []
    # mlflow 3.7 has no other format than pickle, and no name for it.
    formats = "serialization_format" in inspect.signature(mlflow.pytorch.save_model).parameters
    if form == PT2 and not formats:
        raise RuntimeError("this version of mlflow cannot store a graph")
    if form == PICKLE:
        requirements.append(f"cloudpickle=={version('cloudpickle')}")
        if any(type(part).__module__.startswith("lrtape.") for part in model.modules()):
            requirements.append(f"lrtape=={version('lrtape')}")
        code = _copy_own_modules(model, new / "code")
    mlflow.pytorch.save_model(
        model,
        str(files),
        signature=ModelSignature(_schema(inputs), _schema(expected)),
        input_example=example,
        **({"serialization_format": form} if formats else {}),
        pip_requirements=requirements,
        code_paths=code or None,
    )
    loaded = mlflow.pytorch.load_model(str(files))
    torch.testing.assert_close(loaded(inputs), expected, rtol=0, atol=0, equal_nan=True)


def _schema(value: Any) -> Schema | None:
    """Of a batch, whatever its size; only of a tensor, as others may be nested in any way."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    return Schema([TensorSpec(value.numpy().dtype, (-1, *value.shape[1:]))])


def _copy_own_modules(model: "nn.Module", target: Path) -> list[str]:
    """Copy the modules that define a model and lie in the current folder; of a package, all its modules.

    Returns:
        What MLflow is to put into the path of whoever loads the model.
    """
    here = Path.cwd().resolve()
    names = {type(part).__module__.partition(".")[0] for part in model.modules()} - {"__main__", "lrtape", "torch"}
    copies = []
    for name in sorted(names):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or not (path := Path(file).resolve()).is_relative_to(here) or "site-packages" in path.parts:
            continue
        target.mkdir(exist_ok=True)
        if path.name == "__init__.py":
            for source in path.parent.rglob("*.py"):
                copy = target / name / source.relative_to(path.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
            copies.append(str(target / name))
        else:
            shutil.copyfile(path, target / path.name)
            copies.append(str(target / path.name))
    return copies


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
    about = msgspec.json.decode((folder / _ABOUT).read_bytes())
    note, form = msgspec.convert(about["note"], ModelNote), str(about["format"])
    client = MlflowClient(tracking_uri=run.tracking_uri)
    model = _find(client, run, note) or _create(client, run, recording_id, note, form)
    if model.status == LoggedModelStatus.READY:
        return
    description = Model.load(str(folder / _FILES))
    description.model_id, description.run_id = model.model_id, run.run_id
    description.artifact_path = model.artifact_location
    description.save(str(folder / _FILES / MLMODEL_FILE_NAME))
    client.log_model_artifacts(model.model_id, str(folder / _FILES))
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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch and MLflow (3.17) say of every model that is saved."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "torch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _without_looking_at_packages() -> Iterator[None]:
    """MLflow (3.17) looks at every file of every package, to warn of requirements that are not met here: 0.3 s."""
    if _warn_of_requirements is None:  # another version of MLflow, which is slower at worst
        yield
        return
    setattr(environment, _WARN_OF_REQUIREMENTS, lambda _: None)
    try:
        yield
    finally:
        setattr(environment, _WARN_OF_REQUIREMENTS, _warn_of_requirements)

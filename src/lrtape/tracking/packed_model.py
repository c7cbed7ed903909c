"""A model as MLflow has them: a folder with a description, a signature, an example, and what loads it."""

import contextlib
import inspect
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils import environment

from lrtape.tracking.saved_model import MAX_EXAMPLE_NUMBERS, PICKLE, ModelFolder, SavedModel, TensorNote

if TYPE_CHECKING:
    from torch import Tensor, nn

_FLAVOR = "pytorch"
_LOADER = "mlflow.pytorch"
_WARN_OF_REQUIREMENTS = "warn_dependency_requirement_mismatches"
_warn_of_requirements = getattr(environment, _WARN_OF_REQUIREMENTS, None)


def pack_graph(folder: ModelFolder, saved: SavedModel) -> None:
    """Make a model of MLflow's of a traced graph, once. Imports no torch, which `mlflow.pytorch.save_model` would.

    Args:
        folder: where the graph is.
        saved: what is said of it.

    Raises:
        Exception: whatever MLflow raises.
    """
    if folder.files.exists():
        return
    new = folder.files.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    model = Model()
    model.add_flavor(_FLAVOR, model_data=f"data/{folder.graph.name}", pytorch_version=saved.torch_version, code=None)
    with _quietly(), _without_looking_at_packages():
        mlflow.pyfunc.save_model(
            str(new),
            loader_module=_LOADER,
            data_path=str(folder.graph),
            mlflow_model=model,
            signature=_signature(saved.inputs, saved.outputs),
            input_example=np.load(folder.example, allow_pickle=False) if folder.example.exists() else None,
            pip_requirements=[f"torch=={saved.torch_version}"],
            model_config={"device": None},
        )
    new.replace(folder.files)


def pickle_model(folder: ModelFolder, model: "nn.Module", inputs: "Tensor", expected: Any) -> None:
    """Make a model of MLflow's of a pickled one, with the modules of the current folder that it needs.

    Called by the training thread, when the training is over.

    Args:
        folder: where it is made.
        model: see `save_model`.
        inputs: see there.
        expected: what the model makes of them; what is loaded is seen to make the same.

    Raises:
        Exception: whatever torch raises, or MLflow.
    """
    import mlflow.pytorch
    import torch

    requirements = [
        f"torch=={torch.__version__.partition('+')[0]}",
        f"cloudpickle=={version('cloudpickle')}",
    ]
    if any(type(part).__module__.startswith("lrtape.") for part in model.modules()):
        requirements.append(f"lrtape=={version('lrtape')}")
    about = TensorNote.of(inputs)
    assert about is not None  # noqa: S101 - it is a tensor
    # mlflow 3.7 has no other format, and no name for it.
    formats = "serialization_format" in inspect.signature(mlflow.pytorch.save_model).parameters
    with _quietly(), _without_looking_at_packages():
        mlflow.pytorch.save_model(
            model,
            str(folder.files),
            signature=_signature(about, TensorNote.of(expected)),
            input_example=inputs.numpy() if inputs.numel() <= MAX_EXAMPLE_NUMBERS else None,
            **({"serialization_format": PICKLE} if formats else {}),
            pip_requirements=requirements,
            code_paths=_copy_own_modules(model, folder.path / "code") or None,
        )
        loaded = mlflow.pytorch.load_model(str(folder.files))
    torch.testing.assert_close(loaded(inputs), expected, rtol=0, atol=0, equal_nan=True)


def _signature(inputs: TensorNote, outputs: TensorNote | None) -> ModelSignature:
    """For a batch, whatever its size."""
    return ModelSignature(_schema(inputs), None if outputs is None else _schema(outputs))


def _schema(tensor: TensorNote) -> Schema:
    return Schema([TensorSpec(np.dtype(tensor.type_name), (-1, *tensor.shape[1:]))])


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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what MLflow (3.17), and torch, say of every model that is saved."""
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

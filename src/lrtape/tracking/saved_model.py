"""The model of a training, as its process saves it: without mlflow, which takes a second and a half to import.

Whoever ships the spool makes it a model of MLflow's, and stores it; see ``logged_model.py``.
"""

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from torch import Tensor, nn

PT2, PICKLE = "pt2", "pickle"
"""Formats: a traced graph, and the object itself."""
MAX_EXAMPLE_NUMBERS = 200_000
"""An input example is stored as text, twice; a larger one is only described."""
GRAPH_NAME = "model.pt2"
"""As MLflow calls it (3.17)."""
_READS_GRAPHS = (3, 9)
"""MLflow from there on."""
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


@dataclass(frozen=True, slots=True)
class TensorNote:
    """Of a tensor: numpy's name of the type of its numbers, and its shape, with the batch."""

    type_name: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Any) -> "TensorNote | None":
        """``None`` for what is no tensor: others may be nested in any way."""
        import torch

        return cls(str(value.numpy().dtype), tuple(value.shape)) if isinstance(value, torch.Tensor) else None


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What `save_model` has left.

    Attributes:
        note: what is known beside its files.
        format: `PT2` or `PICKLE`.
        inputs: of the example.
        outputs: that the model made of it.
        torch_version: that it was saved with.
    """

    note: ModelNote
    format: str
    inputs: TensorNote
    outputs: TensorNote | None
    torch_version: str


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a saved model is."""

    path: Path

    @property
    def graph(self) -> Path:
        """The folder of a traced graph, which MLflow is to load."""
        return self.path / "graph"

    @property
    def example(self) -> Path:
        """The input example, as numpy saves it, if there is one."""
        return self.path / "example.npy"

    @property
    def files(self) -> Path:
        """The folder of the model as MLflow has them; of a graph, it is made when it is stored."""
        return self.path / "files"

    @property
    def _about(self) -> Path:
        return self.path / "about.json"

    def read(self) -> SavedModel:
        """What was saved there."""
        return msgspec.json.decode(self._about.read_bytes(), type=SavedModel)

    def write(self, saved: SavedModel) -> None:
        """Say what was saved."""
        self._about.write_bytes(msgspec.json.encode(saved))


def save_model(folder: Path, model: "nn.Module", inputs: "Tensor", note: ModelNote) -> str:
    """Save a model, with an input example; see that it predicts the same numbers when it is loaded.

    It becomes a traced graph, which needs no class and runs no code of its own when it is loaded. One that cannot be
    traced, or that would predict other numbers then, is pickled, with the modules of the current folder that it needs;
    that imports mlflow. Takes half a second the first time in a process, then a tenth; called by the training thread,
    when the training is over.

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
    import numpy as np
    import torch

    new = ModelFolder(folder.with_suffix(".new"))
    with _quietly(), torch.no_grad():
        expected = model(inputs)
        _renew(new)
        try:
            _export(new, model, inputs, expected)
            form = PT2
        except Exception as error:  # noqa: BLE001 - there is no end of what a tracer may stumble over
            from lrtape.tracking.packed_model import pickle_model  # late: mlflow takes a second to import

            _log.info("the model cannot be stored as a graph: %s", error)
            _renew(new)
            pickle_model(new, model, inputs, expected)
            form = PICKLE
    if form == PT2 and inputs.numel() <= MAX_EXAMPLE_NUMBERS:
        np.save(new.example, inputs.numpy())
    about = TensorNote.of(inputs)
    assert about is not None  # noqa: S101 - it is a tensor
    torch_version = str(torch.__version__).partition("+")[0]
    new.write(SavedModel(note, form, about, TensorNote.of(expected), torch_version))
    new.path.replace(folder)
    return form


def _renew(folder: ModelFolder) -> None:
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)


def _export(folder: ModelFolder, model: "nn.Module", inputs: "Tensor", expected: Any) -> None:
    """For a batch of any size."""
    if tuple(map(int, version("mlflow").split(".")[:2])) < _READS_GRAPHS:
        raise RuntimeError("this version of mlflow cannot load a graph")

    import torch
    from torch.export import Dim  # it takes a third of a second to import

    folder.graph.mkdir()
    program = torch.export.export(model, (inputs,), dynamic_shapes=[{0: Dim.AUTO}])
    torch.export.save(program, folder.graph / GRAPH_NAME)
    loaded = torch.export.load(folder.graph / GRAPH_NAME).module()
    torch.testing.assert_close(loaded(inputs), expected, rtol=0, atol=0, equal_nan=True)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch says of every model that is saved."""
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)

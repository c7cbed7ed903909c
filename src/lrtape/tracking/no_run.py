"""Stands for an MLflow run where nothing is tracked. Imports no mlflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lrtape.tape import Status

if TYPE_CHECKING:
    from lrtape.spool_folder import SpoolFolder
    from lrtape.tracking.datasets import LoggedDataset


class NoRun:
    """Has what a training calls of an `MlflowRun`, and keeps nothing."""

    run_id = ""
    folder: "SpoolFolder | None" = None
    model_folder: Path | None = None

    def log_text(self, text: str, path: str) -> None:
        """Keep nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep nothing."""

    def log_datasets(self, datasets: "Sequence[LoggedDataset]") -> None:
        """Keep nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep nothing."""

    def finish(self, status: Status) -> None:
        """End nothing."""

    def leave(self) -> None:
        """Leave nothing."""

    def how_to_look(self) -> str:
        """There is nothing to look at."""
        return "Nothing was tracked."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def module_store(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a real, empty SQLite store in the current folder, for the trainings that a module's tests share."""
    folder = tmp_path_factory.mktemp("module")
    shutil.copy(fresh_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield f"sqlite:///{folder / 'mlflow.db'}"

"""What logging a model costs in a run with a long tape.

``python benchmarks/log_model.py > benchmarks/log_model-$(date +%F).md``

`mlflow.pytorch.log_model` within an active run downloads the whole history of every metric of that run, to link the
values of one step to the model. Measured on a real SQLite store, with a tape of 100,000 recorded steps: within the run,
and as ``docs/any_loop.md`` recommends it, with the same links, but for those values; and what the training app does,
which takes those values from the spool: the training process saves the model, and the shipper stores and links it.
Takes about two minutes.
"""

import contextlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput

import lrtape
from lrtape.delivery import _rows_of
from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.logged_model import put_model
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.saved_model import ModelNote, save_model

N_STEPS = 100_000
N_REPEATS = 3
SPOOLS = ".lrtape"
OPTIONS: dict[str, Any] = {"serialization_format": "pickle", "pip_requirements": ["torch"]}
"""So that MLflow does not look for the requirements of the model, which takes seconds and is no concern of ours."""


def record(n_steps: int) -> Any:
    """A run with a tape of one param group."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with mlflow.start_run() as run, lrtape.attach(optimizer, close_timeout_s=600.0, folder=SPOOLS, keep_spool=True):
        for _ in range(n_steps):
            optimizer.step()
    return run


def log_within(run: Any, model: torch.nn.Module) -> str:
    """As most people do it."""
    with mlflow.start_run(run_id=run.info.run_id):
        return str(mlflow.pytorch.log_model(model, name="model", **OPTIONS).model_id)


def log_outside(run: Any, model: torch.nn.Module) -> str:
    """A model that is linked to the run; then, where no run is active, what is in it."""
    linked = mlflow.initialize_logged_model(
        "model", source_run_id=run.info.run_id, experiment_id=run.info.experiment_id
    )
    mlflow.pytorch.log_model(model, model_id=linked.model_id, **OPTIONS)
    MlflowClient().log_outputs(run.info.run_id, [LoggedModelOutput(linked.model_id, step=0)])
    return str(linked.model_id)


def log_by_app(run: Any, model: torch.nn.Module, folder: Path, step: int) -> tuple[float, float]:
    """As the training app does it: seconds of the training process, and of the shipper."""
    begin = time.perf_counter()
    save_model(folder, model, torch.ones(2, 2), ModelNote(0, step))
    saved = time.perf_counter()
    (spool,) = [found for found in SpoolFolder.find(Path(SPOOLS)) if found.path.name.startswith(run.info.run_id)]
    put_model(folder, MlflowRun.join(run.info.run_id), "bench", lambda step: _rows_of(spool, step))
    return saved - begin, time.perf_counter() - saved


def seconds(log: Callable[[Any, torch.nn.Module], str], run: Any, model: torch.nn.Module) -> float:
    """The median of some; checks that each is linked to the run and can be loaded."""
    taken = []
    for _ in range(N_REPEATS):
        begin = time.perf_counter()
        model_id = log(run, model)
        taken.append(time.perf_counter() - begin)
        logged = MlflowClient().get_logged_model(model_id)
        outputs: Any = MlflowClient().get_run(run.info.run_id).outputs
        assert (str(logged.status), logged.source_run_id) == ("READY", run.info.run_id), logged
        assert model_id in {output.model_id for output in outputs.model_outputs}
        assert isinstance(mlflow.pytorch.load_model(f"runs:/{run.info.run_id}/model"), torch.nn.Linear)
    return statistics.median(taken)


def main() -> None:
    """Print the result."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        mlflow.set_tracking_uri(f"sqlite:///{Path(folder) / 'mlflow.db'}")
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", artifact_location=f"{folder}/artifacts"))
        model = torch.nn.Linear(2, 2)
        rows = []
        for n_steps in (100, N_STEPS):
            run = record(n_steps)
            n_stored = len(lrtape.read_run(run.info.run_id).lr["lr/group_00"])
            others = seconds(log_within, run, model), seconds(log_outside, run, model)
            by_app = [log_by_app(run, model, Path(f"{n_steps}-{index}"), index) for index in range(1, 1 + N_REPEATS)]
            rows.append((n_stored, *others, *(statistics.median(taken) for taken in zip(*by_app, strict=True))))
    packages = ", ".join(f"{name} {version(name)}" for name in ("lrtape", "torch", "mlflow", "sqlalchemy"))
    print(f"# Logging a model in a run with a long tape, {time.strftime('%Y-%m-%d')}\n")
    print(f"`python benchmarks/log_model.py` on {platform.platform()}. Python {platform.python_version()}, {packages}.")
    print(f'Median of {N_REPEATS}; SQLite; one key. "Outside" is what `docs/any_loop.md` recommends.')
    print('"App" is a graph instead of a pickle, is loaded once to compare, and is linked to the values of its step.\n')
    print("| rows in the run | `log_model` within the run | outside, linked to it | app: trainer | app: shipper |")
    print("|---|---|---|---|---|")
    for n_rows, *taken in rows:
        print(f"| {n_rows} | {' | '.join(f'{each:.2f} s' for each in taken)} |")


if __name__ == "__main__":
    main()

"""What logging a model costs in a run with a long tape.

``python scripts/bench_log_model.py > benchmarks/log-model-$(date +%F).md``

`mlflow.pytorch.log_model` within an active run downloads the whole history of every metric of that run, to link the
values of one step to the model. Measured on a real SQLite store, with a tape of 100,000 recorded steps: within the run,
and as ``docs/any_loop.md`` recommends it, with the same links, but for those values. Takes about two minutes.
"""

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

N_STEPS = 100_000
N_REPEATS = 3
OPTIONS: dict[str, Any] = {"serialization_format": "pickle", "pip_requirements": ["torch"]}
"""So that MLflow does not look for the requirements of the model, which takes seconds and is no concern of ours."""


def record(n_steps: int) -> Any:
    """A run with a tape of one param group."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with mlflow.start_run() as run, lrtape.attach(optimizer, close_timeout_s=600.0):
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
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{Path(folder) / 'mlflow.db'}")
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", artifact_location=f"{folder}/artifacts"))
        model = torch.nn.Linear(2, 2)
        rows = []
        for n_steps in (100, N_STEPS):
            run = record(n_steps)
            n_stored = len(lrtape.read_run(run.info.run_id).lr["lr/group_00"])
            rows.append((n_stored, seconds(log_within, run, model), seconds(log_outside, run, model)))
    packages = ", ".join(f"{name} {version(name)}" for name in ("lrtape", "torch", "mlflow", "sqlalchemy"))
    print(f"# Logging a model in a run with a long tape, {time.strftime('%Y-%m-%d')}\n")
    print(
        f"`python scripts/bench_log_model.py` on {platform.platform()}. Python {platform.python_version()}, {packages}."
    )
    print(f'Median of {N_REPEATS}; SQLite; one key. "Outside" is what `docs/any_loop.md` recommends.\n')
    print("| rows in the run | `log_model` within the run | outside, linked to it |\n|---|---|---|")
    for n_rows, within, outside in rows:
        print(f"| {n_rows} | {within:.2f} s | {outside:.2f} s |")


if __name__ == "__main__":
    main()

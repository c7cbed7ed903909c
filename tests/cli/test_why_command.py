from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrtape.tape import Point
from lrtape.tape_file import write_tape
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink

PARAMS = {
    "scheduler._target_": "torch.optim.lr_scheduler.StepLR",
    "scheduler.interval": "epoch",
    "scheduler.step_size": "2",
    "scheduler.gamma": "0.1",
    "optimizer.lr": "0.1",
}
POINTS = [
    Point(f"lr/{name}", step, 1000 + step, lr * 0.1 ** (step // 10))
    for step in range(30)
    for name, lr in (("a", 0.1), ("b", 1e-8))
]
SENTENCE = "from 0.1 to 0.01: StepLR: milestone at epoch 2, as after each 2 epochs (step_size 2, gamma 0.1)."


def a_run(store: str, tags: dict[str, str] | None = None, points: list[Point] = POINTS) -> MlflowRun:
    run = MlflowRun.create(store, params=PARAMS, tags=tags)
    MlflowSink(store, run.run_id).send(points)
    return run


def test_each_group_has_its_sentence(lrtape: Callable[..., Any], store: str) -> None:
    """From the params, the metrics and the length of an epoch: what changed the lr, or since when it has not."""
    run = a_run(store, {"lrtape.steps_per_epoch": "5", "lrtape.steps": "30"})

    code, out, err = lrtape("why", run.run_id, "--step", 10)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"lr/a changed at step 10 {SENTENCE}"
    assert [line.split()[0] for line in out.splitlines()] == ["lr/a", "lr/b"]
    assert lrtape("why", run.run_id, "--step", 14, "--key", "lr/a").lines == [
        f"lr/a did not change at step 14; it changed last at step 10 {SENTENCE}"
    ]


def test_the_tape_among_the_artifacts_goes_before_the_metrics(
    lrtape: Callable[..., Any], store: str, tmp_path: Path
) -> None:
    """What was recorded tells, whatever somebody logged beside it."""
    run = a_run(store, {"lrtape.steps_per_epoch": "5"}, [Point("lr/a", 10, 5000, 77.0)])
    write_tape(tmp_path / "tape-x.parquet", POINTS, {})
    run.log_artifact(tmp_path / "tape-x.parquet", "lr")

    assert lrtape("why", run.run_id, "--step", 10, "--key", "lr/a").lines == [f"lr/a changed at step 10 {SENTENCE}"]


def test_the_first_validation_tells_how_long_an_epoch_is(lrtape: Callable[..., Any], store: str) -> None:
    """Of a run without the tag; where nothing tells it, that is said instead of a wrong reason."""
    validated = a_run(store, points=[*POINTS, Point("val/loss", 4, 1004, 0.5)])
    silent = a_run(store)

    assert lrtape("why", validated.run_id, "--step", 10, "--key", "lr/a").lines == [
        f"lr/a changed at step 10 {SENTENCE}"
    ]
    code, out, err = lrtape("why", silent.run_id, "--step", 10)
    assert (code, out) == (2, "")
    assert "lrtape.steps_per_epoch" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "99"], "`step` must be a recorded step of lr/a, from 0 to 29, but is 99"),
        (["--step", "3", "--key", "lr/c"], "`key` must be one of lr/a, lr/b, but is 'lr/c'"),
        (["--step", "3", "--tracking-uri", "http://me:hush42@host"], "must not carry a password"),
        (["--step", "3", "--tracking-uri", "sqlite:////nowhere/mlflow.db"], "nowhere"),
    ],
)
def test_a_mistake_is_one_message(lrtape: Callable[..., Any], store: str, arguments: list[str], said: str) -> None:
    """Exit code 2, what was given and what there is."""
    run = a_run(store, {"lrtape.steps_per_epoch": "5"})
    code, out, err = lrtape("why", run.run_id, *arguments)

    assert (code, out) == (2, "")
    assert err.startswith("lrtape: ")
    assert said in err
    assert "hush42" not in err


def test_a_run_without_learning_rates_is_refused(lrtape: Callable[..., Any], store: str) -> None:
    """There is nothing to explain."""
    run = MlflowRun.create(store)
    code, _, err = lrtape("why", run.run_id, "--step", 0)

    assert (code, "must have learning rates" in err) == (2, True)

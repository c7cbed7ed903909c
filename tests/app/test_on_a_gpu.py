"""`trainer.device=cuda`: the training of the app on a GPU."""

import warnings
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

import lrtape
from lrtape.app.checkpoint import load_checkpoint
from lrtape.tape import Tape
from lrtape.testing import record
from lrtape.tracking.history import read_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

Train = Callable[..., float]

SCHEDULED = ["scheduler=steplr", "scheduler.interval=step", "scheduler.step_size=7", "scheduler.gamma=0.75"]
GROUPED = ["param_groups=layerwise", *SCHEDULED]
STEPS_PER_EPOCH = 23


def newest(store: str, experiment: str = "lrtape") -> Tape:
    client = MlflowClient(tracking_uri=store)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    run = client.search_runs([found.experiment_id], order_by=["attribute.start_time DESC"])[0]
    assert (run.info.status, run.data.tags["lrtape.complete"]) == ("FINISHED", "true")
    return read_run(run.info.run_id, store)


def lrs(tape: Tape) -> dict[str, list[tuple[int, float]]]:
    """Step and lr, by key."""
    return {
        key: list(zip(series.steps, series.values, strict=True))
        for key, series in tape.items()
        if key.startswith("lr/")
    }


@pytest.mark.parametrize("precision", ["'32'", "bf16", "'16'"])
def test_the_lrs_are_those_of_a_cpu(train_in_process: Train, store: str, precision: str) -> None:
    """To the bit, in MLflow, for every group; and the loss of every step is there, and about the same."""
    tapes = []
    for device in ("cuda", "cpu"):
        train_in_process(*GROUPED, "trainer.epochs=2", f"trainer.device={device}", f"trainer.precision={precision}")
        tapes.append(newest(store))
    on_gpu, on_cpu = tapes

    if precision == "'16'":  # the first scale of GradScaler overflows on one and not on the other
        n_steps = len(on_gpu["train/loss"])
        assert {len(series) for series in lrs(on_gpu).values()} == {n_steps}
        assert all(series == lrs(on_cpu)[key][:n_steps] for key, series in lrs(on_gpu).items())
    else:
        assert lrs(on_gpu) == lrs(on_cpu)
        assert len(lrs(on_gpu)) == 3
        assert list(on_gpu["train/loss"].values) == pytest.approx(list(on_cpu["train/loss"].values), rel=0.1)


@pytest.mark.parametrize("kind", [[], ["optimizer.fused=true"], ["trainer.clip_grad_norm=1.0"]], ids=str)
def test_no_step_waits(train_in_process: Train, store: str, kind: list[str]) -> None:
    """The training waits to validate and to write checkpoints: as often with recording as without, and as often where
    it makes half as many steps.
    """
    off = ["tracking=off"]
    n_waits = []
    for more in (off, off, [], ["trainer.accumulate_grad_batches=2"]):  # the first one makes what is made once
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                train_in_process(*SCHEDULED, *kind, "trainer.epochs=3", "trainer.device=cuda", *more)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        n_waits.append(sum("synchronizing" in str(warning.message) for warning in seen))

    _, without, recorded, recorded_half = n_waits
    assert without == recorded == recorded_half
    assert without > 0, "the case is wrong: a validation reads its losses"
    assert {len(series) for series in lrs(newest(store)).values()} == {3 * 12}


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")], ids="-".join)
def test_a_checkpoint_is_resumed_on_another_device(
    train_in_process: Train, store: str, tmp_path: Path, devices: tuple[str, str]
) -> None:
    """The tape of the run is the one of a training that was never interrupted, and the weights have gone on moving."""
    last = tmp_path / "output" / "checkpoints" / "last.pt"
    first, second = devices
    train_in_process(*GROUPED, "trainer.epochs=4", f"trainer.device={second}")
    whole = newest(store)
    train_in_process(*GROUPED, "trainer.epochs=2", f"trainer.device={first}")
    saved = load_checkpoint(last)
    resume = [f"trainer.resume={last}", "trainer.epochs=4", "trainer.resume_override=true"]
    train_in_process(*resume, f"trainer.device={second}")
    resumed, end = newest(store), load_checkpoint(last)

    assert saved["next_step"] == 2 * STEPS_PER_EPOCH
    assert lrs(resumed) == lrs(whole)
    assert {len(series) for series in lrs(resumed).values()} == {4 * STEPS_PER_EPOCH}
    assert list(resumed["train/loss"].values) == pytest.approx(list(whole["train/loss"].values), rel=0.25)
    assert all(not torch.equal(saved["model"][name], weights) for name, weights in end["model"].items())
    assert end["epoch"] == 4


def test_autolog_records_it_too(train_in_process: Train, store: str) -> None:
    """As any other loop: the app's own trainer, with nothing of the app's tracking."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    try:
        with mlflow.start_run() as run, record() as tape:
            train_in_process(*GROUPED, "trainer.epochs=2", "trainer.device=cuda", "tracking=off")
    finally:
        lrtape.autolog(disable=True)

    stored = lrs(read_run(run.info.run_id, store))
    assert {len(series) for series in stored.values()} == {2 * STEPS_PER_EPOCH}
    assert sorted(stored.values()) == sorted(lrs(tape).values())


def test_a_gpu_of_its_own_for_each_process(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More processes than GPUs are refused, before anything is trained."""
    from lrtape.app.trainer import resolve_device
    from lrtape.errors import ConfigError
    from lrtape.ranks import Ranks

    n_gpus = torch.cuda.device_count()
    monkeypatch.setenv("LOCAL_RANK", str(n_gpus))
    with pytest.raises(ConfigError, match=f"at most the number of GPUs, {n_gpus}, but this is process {n_gpus}"):
        resolve_device("cuda", Ranks(n_gpus, n_gpus + 1))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert resolve_device("cuda", Ranks(0, 2)) == torch.device("cuda", 0)

import threading
import warnings
from collections.abc import Iterator

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch.optim.optimizer import register_optimizer_step_pre_hook

import lrtape
from lrtape.errors import ConfigError
from lrtape.tape import Tape
from lrtape.tracking.history import read_run


@pytest.fixture(autouse=True)
def autolog_off() -> Iterator[None]:
    """Every test leaves autolog as it found it."""
    yield
    lrtape.autolog(disable=True)


def sgd(*names: str) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name} for name in names]
    return torch.optim.SGD(groups, lr=0.5)


def tapes(store: str) -> list[Tape]:
    """Of every run of the default experiment, the oldest first."""
    runs = MlflowClient(tracking_uri=store).search_runs(["0"], order_by=["attribute.start_time ASC"])
    return [read_run(run.info.run_id, store) for run in runs]


def test_every_optimizer_goes_into_the_active_run(store: str) -> None:
    """Made before or after autolog(), before or after the run: each optimizer is recorded from its next step on."""
    mlflow.set_tracking_uri(store)
    early = sgd("a")
    early.step()
    lrtape.autolog()
    lrtape.autolog()  # changes nothing
    with mlflow.start_run() as run:
        early.step()
        late = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.25)
        for _ in range(3):
            late.step()
    lrtape.autolog(disable=True)
    early.step()

    tape = read_run(run.info.run_id, store)
    assert {key: list(series.values) for key, series in tape.items()} == {
        "lr/a": [0.5],
        "lr/adamw_1/group_00": [0.25, 0.25, 0.25],
    }
    assert len(tapes(store)) == 1


def test_a_run_is_opened_when_none_is_active(store: str) -> None:
    """The first step opens one, and disabling ends it."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    assert tapes(store) == []
    sgd("a").step()
    active = mlflow.active_run()
    lrtape.autolog(disable=True)

    assert active is not None
    assert MlflowClient(tracking_uri=store).get_run(active.info.run_id).info.status == "FINISHED"
    assert [list(tape) for tape in tapes(store)] == [["lr/a"]]


def test_another_run_begins_another_tape(store: str) -> None:
    """When another run is active at a later step, steps are counted from 0 into that one."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    optimizer = sgd("a")
    for n_steps in (2, 3):
        with mlflow.start_run():
            for _ in range(n_steps):
                optimizer.step()
    lrtape.autolog(disable=True)

    assert [list(tape["lr/a"].steps) for tape in tapes(store)] == [[0, 1], [0, 1, 2]]


def test_a_nested_run_interrupts_the_tape_of_its_parent(store: str) -> None:
    """Steps in a child go to the child; back in the parent they are counted on, and no step is there twice."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    optimizer = sgd("a")
    with mlflow.start_run():
        optimizer.step()
        for _ in range(2):
            with mlflow.start_run(nested=True):
                optimizer.step()
                optimizer.step()
        optimizer.step()
    lrtape.autolog(disable=True)

    assert [list(tape["lr/a"].steps) for tape in tapes(store)] == [[0, 1], [0, 1], [0, 1]]


def test_a_second_thread_steps_into_the_same_tape(store: str) -> None:
    """MLflow's active run is a matter of each thread: a helping thread must not open a run of its own."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    with mlflow.start_run():
        sgd("a").step()
        other = sgd("b")
        thread = threading.Thread(target=lambda: [other.step() for _ in range(3)])
        thread.start()
        thread.join()
    lrtape.autolog(disable=True)

    assert [{key: len(series) for key, series in tape.items()} for tape in tapes(store)] == [
        {"lr/a": 1, "lr/sgd_1/b": 3}
    ]


def test_one_optimizer_that_cannot_be_recorded_is_left_out(store: str) -> None:
    """It is named once; the others are recorded."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    odd, good = sgd("a"), sgd("b")
    odd.param_groups[0]["lr"] = None
    with mlflow.start_run():
        with pytest.warns(UserWarning, match="does not record SGD: the lr of param group 0"):
            torch.optim.Optimizer.profile_hook_step(lambda _: None)(odd)
        good.step()
    lrtape.autolog(disable=True)

    assert [list(tape) for tape in tapes(store)] == [["lr/sgd_1/b"]]


def test_groups_of_one_name_are_numbered(store: str) -> None:
    """There is nobody to ask, so that both are kept apart."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    sgd("a", "a").step()
    lrtape.autolog(disable=True)

    assert sorted(tapes(store)[0]) == ["lr/a", "lr/a_2"]


def test_a_store_that_is_gone_does_not_stop_training() -> None:
    """It is said once, at the first step, and the training goes on without tracking."""
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    lrtape.autolog()
    optimizer = sgd("a")
    with pytest.warns(UserWarning, match="cannot record, and autolog is off: .* does not answer"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_a_wrong_argument_is_refused_at_once() -> None:
    """Not at the first step."""
    with pytest.raises(ConfigError, match="print_every_n_steps"):
        lrtape.autolog(print_every_n_steps=0)


def test_a_store_that_is_away_fails_no_step_beside_other_hooks() -> None:
    """It switches itself off in the middle of torch's walk through all hooks, some of them somebody else's."""
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    lrtape.autolog()
    others = [register_optimizer_step_pre_hook(lambda *_: None) for _ in range(2)]
    try:
        optimizer = sgd("a")
        with pytest.warns(UserWarning, match="autolog is off"):
            optimizer.step()
        optimizer.step()
    finally:
        for other in others:
            other.remove()

import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
import torch
import torch.distributed as dist
from mlflow import MlflowClient
from torch.distributed.optim import ZeroRedundancyOptimizer
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
    """The first step opens one that is nobody's active run; all steps outside of runs are in it; disabling ends it."""
    mlflow.set_tracking_uri(store)
    client = MlflowClient(tracking_uri=store)
    lrtape.autolog()
    optimizer = sgd("a")
    assert client.search_runs(["0"]) == []
    optimizer.step()
    assert mlflow.active_run() is None
    with mlflow.start_run():
        optimizer.step()
    optimizer.step()
    lrtape.autolog(disable=True)

    assert [run.info.status for run in client.search_runs(["0"])] == ["FINISHED", "FINISHED"]
    assert [list(tape["lr/a"].steps) for tape in tapes(store)] == [[0, 1], [0]]


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


def test_every_run_of_a_nest_has_its_tape(store: str) -> None:
    """Also where the one in the middle makes no step: back in the parent, its tape goes on, with its key and count."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    optimizer = sgd("a")
    with mlflow.start_run():
        optimizer.step()
        with mlflow.start_run(nested=True):
            for _ in range(2):
                with mlflow.start_run(nested=True):
                    optimizer.step()
        optimizer.step()
    lrtape.autolog(disable=True)

    assert [{key: list(series.steps) for key, series in tape.items()} for tape in tapes(store)] == [
        {"lr/a": [0, 1]},
        {},
        {"lr/a": [0]},
        {"lr/a": [0]},
    ]


def test_a_thread_with_a_run_of_its_own_has_its_own_tape(store: str) -> None:
    """Its steps are in its run, and those of the others in theirs, also of an optimizer that moves between them."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    shared = sgd("a")

    def work() -> None:
        with mlflow.start_run():
            shared.step()
            shared.step()

    with mlflow.start_run():
        shared.step()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        shared.step()
    lrtape.autolog(disable=True)

    assert [list(tape["lr/a"].steps) for tape in tapes(store)] == [[0, 1], [0, 1]]


def test_models_are_freed(store: str) -> None:
    """A notebook that trains many models keeps none; the next optimizer, of the same id say, has a key of its own."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    gone: list[weakref.ref[Any]] = []
    with mlflow.start_run():
        for _ in range(3):
            model = torch.nn.Linear(2, 2)
            optimizer = torch.optim.SGD([{"params": list(model.parameters()), "name": "a"}], lr=0.5)
            optimizer.step()
            gone += [weakref.ref(model), weakref.ref(model.weight), weakref.ref(optimizer)]
        del model, optimizer
        gc.collect()
        assert [reference() for reference in gone] == [None] * 9
    lrtape.autolog(disable=True)

    assert {key: len(series) for key, series in tapes(store)[0].items()} == {
        "lr/a": 1,
        "lr/sgd_1/a": 1,
        "lr/sgd_2/a": 1,
    }


def test_an_optimizer_within_the_step_of_another_is_one_step(store: str) -> None:
    """Only the outer one is recorded, of ZeroRedundancyOptimizer and of a Lookahead alike; whoever has other
    parameters is recorded.
    """

    class Lookahead(torch.optim.SGD):
        def __init__(self, inner: torch.optim.Optimizer, also: torch.optim.Optimizer) -> None:
            super().__init__(inner.param_groups[0]["params"], lr=0.25)
            self.inners = inner, also

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for inner in self.inners:
                inner.step()

    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    try:
        zero = ZeroRedundancyOptimizer(torch.nn.Linear(1, 1).parameters(), torch.optim.Adam, lr=0.5)
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)  # from now on SGD.step has hooks of its own
        lookahead = Lookahead(sgd("inner"), sgd("also"))
        with mlflow.start_run():
            for _ in range(2):
                zero.step()
                lookahead.step()
    finally:
        dist.destroy_process_group()
    lrtape.autolog(disable=True)

    assert {key: list(series.values) for key, series in tapes(store)[0].items()} == {
        "lr/group_00": [0.5, 0.5],
        "lr/lookahead_1/group_00": [0.25, 0.25],
        "lr/sgd_2/also": [0.5, 0.5],
    }


def test_attach_and_autolog_record_a_step_once(store: str) -> None:
    """What a session of attach records, autolog leaves out, until that is closed; what autolog records into the run,
    attach refuses.
    """
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    mine, other = sgd("mine"), sgd("other")
    with mlflow.start_run() as run:
        with lrtape.attach(mine, names=["mine"]):
            mine.step()
            other.step()
            with pytest.raises(ConfigError, match=f"autolog records this SGD into run {run.info.run_id} already"):
                lrtape.attach(other)
            with lrtape.attach(other, run=None) as only_counts:
                other.step()
        mine.step()
    assert only_counts.steps == 1
    lrtape.autolog(disable=True)

    assert {key: len(series) for key, series in tapes(store)[0].items()} == {
        "lr/mine/mine": 1,
        "lr/other": 2,
        "lr/sgd_1/mine": 1,
    }


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

    assert [list(tape) for tape in tapes(store)] == [["lr/b"]]


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


def test_a_nested_run_that_cannot_be_recorded_ends_it_all(store: str) -> None:
    """Its steps do not go into the run around it, which has its own until then."""
    mlflow.set_tracking_uri(store)
    lrtape.autolog()
    optimizer = sgd("a")
    with mlflow.start_run() as outer:
        optimizer.step()
        with mlflow.start_run(nested=True) as inner:
            client = MlflowClient(tracking_uri=store)
            client.delete_run(inner.info.run_id)
            with pytest.warns(UserWarning, match="autolog is off"):
                optimizer.step()
            optimizer.step()
            client.restore_run(inner.info.run_id)
        optimizer.step()
    lrtape.autolog(disable=True)

    assert [len(series) for series in read_run(outer.info.run_id, store).lr.values()] == [1]

import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

import lrtape
from lrtape.agreement import NoAgreement
from lrtape.destination import Destination
from lrtape.errors import ConfigError, TrackingError
from lrtape.keys import Keys
from lrtape.recorder import Recorder
from lrtape.session import Session
from lrtape.shipper import DeadWriter, ship
from lrtape.spool import Header, SpoolWriter, read_spool
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Status
from lrtape.tracking.history import read_run
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink


def sgd(*lrs: float) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "name": f"g{i}"} for i, lr in enumerate(lrs)]
    return torch.optim.SGD(groups, lr=1.0)


def train(optimizer: torch.optim.Optimizer, n_steps: int) -> list[list[float]]:
    """Steps, with a schedule of its own for each group; returns the lrs used, read outside of any hook."""
    used = []
    for step in range(n_steps):
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = 0.1 / (step + 1) / (index + 1)
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
    return used


def test_from_a_step_to_mlflow_through_real_processes(store: str, tmp_path: Path) -> None:
    """Every group's used lr of every step is in MLflow, equal, once; the spool is gone; the run is finished."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1, 0.2, 0.3)
    with lrtape.attach(optimizer) as session:
        used = train(optimizer, 700)
        session.log("train/loss", 0.5, step=699)
        run_id = session.run.run_id
        assert (session.steps, session.last and session.last.lrs) == (700, used[-1])

    tape = read_run(run_id, store)
    assert [list(tape[f"lr/g{i}"].values) for i in range(3)] == [list(column) for column in zip(*used, strict=True)]
    assert all(list(tape[f"lr/g{i}"].steps) == list(range(700)) for i in range(3))
    assert list(tape["train/loss"].values) == [0.5]
    assert list((tmp_path / ".lrtape").iterdir()) == []
    assert MlflowClient(tracking_uri=store).get_run(run_id).info.status == "FINISHED"


LRS = st.floats(min_value=0) | st.just(float("nan"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n_groups=st.integers(1, 4), n_steps=st.integers(1, 12))
def test_any_sequence_comes_back_bit_for_bit(
    store: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, n_groups: int, n_steps: int
) -> None:
    """Any layout of groups and any lrs go recorder, spool, shipper, MLflow and back, and are equal."""
    rows = data.draw(st.lists(st.lists(LRS, min_size=n_groups, max_size=n_groups), min_size=n_steps, max_size=n_steps))
    folder = SpoolFolder(tmp_path_factory.mktemp("spool"))
    names = data.draw(st.lists(st.text(min_size=1, max_size=8), min_size=n_groups, max_size=n_groups, unique=True))
    optimizer = sgd(*[0.1] * n_groups)
    for group, name in zip(optimizer.param_groups, names, strict=True):
        group["name"] = name
    recorder = Recorder(optimizer, 0, Keys(), numbered=True)
    run = MlflowRun.create(store)
    writer = SpoolWriter(folder.spool, Header(run.run_id, True, store, 1))
    recorder.start(writer)
    for row in rows:
        for group, lr in zip(optimizer.param_groups, row, strict=True):
            group["lr"] = lr
        optimizer.step()
    writer.close()
    ship(folder, MlflowSink(store, run.run_id), DeadWriter())

    back = read_run(run.run_id, store)
    assert dict(back) == dict(read_spool(folder.spool))
    columns = [[value.hex() for value in back[group.key].values] for group in recorder.groups]
    assert columns == [[lr.hex() for lr in column] for column in zip(*rows, strict=True)]


def test_printing_needs_no_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The founding question: the lr of every group, every n steps, in one's own loop, and no file is left."""
    monkeypatch.chdir(tmp_path)
    optimizer = sgd(0.1, 1e-7)
    with lrtape.attach(optimizer, run=None, print_every_n_steps=2):
        for _ in range(3):
            optimizer.step()
    lrtape.print_lrs(optimizer)

    assert capsys.readouterr().out.splitlines() == [
        "step 0  g0 0.1  g1 1e-07",
        "step 2  g0 0.1  g1 1e-07",
        "g0 0.1  g1 1e-07",
    ]
    assert list(tmp_path.iterdir()) == []


def test_several_optimizers_share_no_key(store: str) -> None:
    """The first keeps lr/<group>, a later one is called by class and index, or all by the names that are given."""
    mlflow.set_tracking_uri(store)
    for names, expected in [
        (None, {"lr/g0", "lr/sgd_1/g0"}),
        (["generator", "critic"], {"lr/generator/g0", "lr/critic/g0"}),
    ]:
        first, second = sgd(0.1), sgd(0.2)
        with lrtape.attach(first, second, names=names) as session:
            first.step()
            second.step()
            second.step()
        tape = read_run(session.run.run_id, store)
        assert set(tape) == expected
        assert sorted(len(series) for series in tape.values()) == [1, 2]


def test_two_sessions_in_one_run_never_mix(store: str) -> None:
    """A key that is recorded already in this run is refused, with the ways out; another name is taken."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run:
        with lrtape.attach(sgd(0.1)):
            with pytest.raises(ConfigError, match=r"lrtape\.attach\(one, other\)"):
                lrtape.attach(sgd(0.2))
            critic = sgd(0.3)
            with lrtape.attach(critic, names=["critic"]):
                critic.step()
        with pytest.raises(ConfigError, match="has a curve 'lr/g0' already"):
            lrtape.attach(sgd(0.4))

    assert dict(read_run(run.info.run_id, store)).keys() == {"lr/critic/g0"}


def test_any_integer_is_a_step_and_nothing_else(store: str) -> None:
    """A step that could not be read back is refused at once; what is recorded before and after it arrives."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1)
    with lrtape.attach(optimizer) as session:
        optimizer.step()
        session.log("a", 1.0, step=np.int64(1))  # type: ignore[arg-type]
        session.log("a", torch.tensor(0.5), step=torch.tensor(2))  # type: ignore[arg-type]
        for wrong in (1.5, None, "3"):
            with pytest.raises(TypeError):
                session.log("a", 1.0, step=wrong)  # type: ignore[arg-type]
        optimizer.step()
    tape = read_run(session.run.run_id, store)

    assert list(tape["lr/g0"].steps) == [0, 1]
    assert list(tape["a"].steps) == [1, 2]


def test_a_spool_that_is_deleted_costs_nothing(store: str, tmp_path: Path) -> None:
    """Its writer and its shipper still have it open: everything arrives, and nothing is left behind."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1)
    session = lrtape.attach(optimizer)
    optimizer.step()
    shutil.rmtree(tmp_path / ".lrtape")
    optimizer.step()
    session.close()

    assert list(read_run(session.run.run_id, store)["lr/g0"].steps) == [0, 1]
    assert MlflowClient(tracking_uri=store).get_run(session.run.run_id).info.status == "FINISHED"
    assert list(tmp_path.glob(".lrtape/*")) == []


def test_a_closed_stdout_does_not_fail_a_step() -> None:
    """`python my_training.py | head` goes on training."""
    code = (
        "import sys, torch, lrtape\n"
        "optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)\n"
        "with lrtape.attach(optimizer, run=None, print_every_n_steps=1) as session:\n"
        "    for _ in range(20000): optimizer.step()\n"
        "print(session.steps, file=sys.stderr)\n"
    )
    out = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -n 1', sys.executable, code], capture_output=True, text=True, check=False
    )
    assert out.stdout == "step 0  group_00 0.1\n"
    assert out.stderr.splitlines()[0] == "20000"


def test_an_exception_fails_the_run_and_keeps_the_tape(store: str) -> None:
    """What was recorded before the exception is stored, and the run says FAILED."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1)
    session = lrtape.attach(optimizer)

    def fails() -> None:
        with session:
            optimizer.step()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fails()
    run = MlflowClient(tracking_uri=store).get_run(session.run.run_id)

    assert run.info.status == "FAILED"
    assert run.data.metrics == {"lr/g0": 0.1}


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ([], {}, "at least one optimizer"),
        ([torch.nn.Linear(1, 1)], {}, "torch optimizers, but was given Linear"),
        ([sgd(0.1)], {"names": ["a", "b"]}, "one different, non-empty name for each of the 1 optimizers"),
        ([sgd(0.1), sgd(0.1)], {"names": ["a", "a"]}, "one different, non-empty name for each of the 2 optimizers"),
        ([sgd(0.1)], {"print_every_n_steps": 0, "run": None}, "`print_every_n_steps` must be at least 1, but is 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[Any], options: dict[str, Any], said: str) -> None:
    """Before any run is started, with what was given and what to do."""
    with pytest.raises(ConfigError, match=said):
        lrtape.attach(*arguments, **options)


def test_two_groups_of_one_name_start_no_run(store: str) -> None:
    """The refusal comes before the run, so that no empty run is left in the UI."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1, 0.2)
    optimizer.param_groups[1]["name"] = "g0"
    with pytest.raises(ConfigError, match="'lr/g0'"):
        lrtape.attach(optimizer)

    assert MlflowClient(tracking_uri=store).search_runs(["0"]) == []


def test_a_folder_that_cannot_be_written_is_refused(store: str, tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    mlflow.set_tracking_uri(store)
    (tmp_path / "taken").write_text("")
    with mlflow.start_run(), pytest.raises(ConfigError, match="`folder` must be a place where lrtape can write"):
        lrtape.attach(sgd(0.1), folder=tmp_path / "taken")


def test_a_server_that_is_gone_is_said_before_training() -> None:
    """attach() raises within seconds, rather than record into nowhere."""
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer"):
        lrtape.attach(sgd(0.1))


def test_what_has_not_arrived_is_said_with_the_way_to_rescue_it(store: str, tmp_path: Path) -> None:
    """close() does not raise: it says how many values are missing, why, where they are and what to run."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1, 0.2)
    session = lrtape.attach(optimizer, run=MlflowRun.create(store).run_id)
    MlflowClient(tracking_uri=store).delete_run(session.run.run_id)
    train(optimizer, 5)
    with pytest.warns(UserWarning, match="lrtape recover") as warned:
        session.close()
    text = str(warned[0].message)
    left = next((tmp_path / ".lrtape").iterdir())

    assert text.startswith(f"lrtape: 10 of 10 recorded values have not arrived at {store}")
    assert text.endswith(f"lrtape recover {left}")
    assert len(read_spool(left / "spool")["lr/g0"]) == 5


def test_a_forked_child_records_nothing(store: str) -> None:
    """A child that inherits the optimizer does not write into its parent's tape."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1)
    with lrtape.attach(optimizer) as session:
        optimizer.step()
        if (child := os.fork()) == 0:
            optimizer.step()
            session.close("FAILED")
            os._exit(0)
        os.waitpid(child, 0)
        optimizer.step()
    assert list(read_run(session.run.run_id, store)["lr/g0"].steps) == [0, 1]


def test_a_forked_child_cannot_end_its_parents_recording(store: str) -> None:
    """Neither by stopping the session, nor by what that does to its spool and its shipper."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd(0.1)
    with lrtape.attach(optimizer) as session:
        optimizer.step()
        if (child := os.fork()) == 0:
            session.stop("FAILED")
            session._outbox.end(Status.FAILED)
            os._exit(0)
        os.waitpid(child, 0)
        optimizer.step()
    assert list(read_run(session.run.run_id, store)["lr/g0"].steps) == [0, 1]
    assert MlflowClient(tracking_uri=store).get_run(session.run.run_id).info.status == "FINISHED"


def test_close_does_not_raise_where_warnings_are_errors(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exception of the training is not hidden, and the way to the rescue is said all the same."""
    session = lrtape.attach(sgd(0.1), run=MlflowRun.create(store))
    MlflowClient(tracking_uri=store).delete_run(session.run.run_id)
    session.log("a", 1.0, step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.close()

    assert "lrtape recover" in capsys.readouterr().err


def test_a_status_that_somebody_set_is_kept(store: str) -> None:
    """A run that was marked KILLED while it trained is not FINISHED when the training closes."""
    session = lrtape.attach(sgd(0.1), run=MlflowRun.create(store))
    client = MlflowClient(tracking_uri=store)
    client.set_terminated(session.run.run_id, "KILLED")
    session.close()

    assert client.get_run(session.run.run_id).info.status == "KILLED"


def test_a_run_of_somebody_else_is_not_ended(store: str) -> None:
    """The session's run was ended by the user, who has started another one."""
    mlflow.set_tracking_uri(store)
    session = lrtape.attach(sgd(0.1))
    mlflow.end_run()
    with mlflow.start_run() as other:
        session.close("FAILED")
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == other.info.run_id
    assert MlflowClient(tracking_uri=store).get_run(other.info.run_id).info.status == "FINISHED"


def test_a_resumed_loop_of_ones_own_doubles_nothing(store: str) -> None:
    """`attach(run=..., first_step=...)`: steps that are made again keep their first record."""
    run = MlflowRun.create(store)
    first = sgd(0.1)
    with lrtape.attach(first, run=run.run_id):
        for _ in range(20):
            first.step()
    again = sgd(0.1)
    with lrtape.attach(again, run=run.run_id, first_step=10) as second:
        for _ in range(20):
            again.step()

    assert (second.steps, second.findings) == (30, [])
    assert list(read_run(run.run_id, store)["lr/g0"].steps) == list(range(30))
    assert MlflowClient(tracking_uri=store).get_run(run.run_id).data.tags["lrtape.complete"] == "true"


def test_each_optimizer_goes_on_where_it_was() -> None:
    """`first_step` may have an index for each optimizer, as `next_steps` has, and nothing else; `align` only raises."""
    optimizers = sgd(0.1), sgd(0.2)
    with lrtape.attach(*optimizers, names=["one", "other"], run=None, first_step=[3, 5]) as session:
        optimizers[1].step()
        session.align(5)
        assert session.next_steps == [5, 6]
    with pytest.raises(ConfigError, match="one for each of the 2 optimizers"):
        lrtape.attach(*optimizers, names=["one", "other"], run=None, first_step=[3])
    with pytest.raises(ConfigError, match="must be a whole number >= 0, but is -1"):
        lrtape.attach(*optimizers, names=["one", "other"], run=None, first_step=[3, -1])


SCRIPT = """
import torch, mlflow, lrtape
mlflow.set_tracking_uri({store!r})
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
session = lrtape.attach(optimizer)
print(session.run.run_id, flush=True)
for _ in range(50):
    optimizer.step()
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", "FINISHED"),
        ("raise ValueError", "FAILED"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "KILLED"),
    ],
)
def test_a_session_that_nobody_closed(store: str, tmp_path: Path, ending: str, status: str) -> None:
    """At the end of the process, however it ends, everything arrives and the status is the true one."""
    script = SCRIPT.format(store=store, ending=ending)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    run_id = out.stdout.split()[0]
    deadline = time.monotonic() + 60
    while any((tmp_path / ".lrtape").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)  # the shipper outlives a trainer that was killed

    assert len(read_run(run_id, store)["lr/group_00"]) == 50
    assert MlflowClient(tracking_uri=store).get_run(run_id).info.status == status


def test_an_end_that_is_interrupted_is_an_end() -> None:
    """Ctrl-C while the other ranks are waited for: the session is over, and its optimizer can be attached again."""

    class Slow(NoAgreement):
        def settle(self, status: Status) -> None:
            raise KeyboardInterrupt

    session = Session(Destination(agreement=Slow()))
    optimizer = sgd(0.1)
    session.add(optimizer)
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert session.is_over
    optimizer.step()
    assert session.steps == 0

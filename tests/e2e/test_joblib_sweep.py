"""Sweeps on several processes of this machine."""

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.place import TRAIN_PY, Place
from rig.sample import DEADLY
from rig.store import Store
from rig.sweep import RUNNING, Sweep

JOBLIB = ("hydra/launcher=joblib", "data._target_=rig.sample.sample")
N_JOBS = min(2, len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra `joblib` is not installed")
    if not TRAIN_PY.exists():
        pytest.skip("the wheel is tested here, and train.py is not part of it")
    with Place(tmp_path_factory.mktemp("joblib") / "place") as place:
        yield place


@pytest.fixture
def fresh(place: Place, fresh_store: Path) -> Store:
    return Store(fresh_store).copy(place.folder / f"{uuid.uuid4().hex}.db")


def test_a_worker_that_is_killed_costs_no_other_trial_its_result(place: Place, fresh: Store) -> None:
    """Who was cut off, as joblib ends all workers with it, is trained again. The workers share the threads."""
    sweep = Sweep(place, fresh, "deadly", *JOBLIB, "+data.pause_s=0.05", "+data.kind=0,1,2")

    assert sweep.run() == 1
    assert "1 of 3 trials have no result" in sweep.said
    finished = [run.name for run in sweep.children if run.status == "FINISHED"]
    assert sorted(finished) == ["kind=0", "kind=2"]
    assert {run.status for run in sweep.children if run.name == f"kind={DEADLY}"} == {"KILLED"}
    assert [run.status for run in sweep.parents] == ["FAILED"]
    assert f"trained with {len(os.sched_getaffinity(0)) // N_JOBS} threads" in sweep.said


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_driver_leaves_nobody_running(
    place: Place, fresh: Store, number: signal.Signals, exit_code: int
) -> None:
    """Ctrl-C, and SIGTERM to the driver alone: the trials that were at it are KILLED, and no process is left."""
    sweep = Sweep(
        place, fresh, f"ended-{number.name}", *JOBLIB, "+data.pause_s=0.5", "trainer.epochs=1000", "+data.kind=2,3,4"
    )
    sweep.start()
    sweep.wait_for(N_JOBS, RUNNING)

    assert sweep.interrupt(number) == exit_code
    assert sweep.statuses() == {"KILLED": N_JOBS}
    assert [run.status for run in sweep.parents] == ["KILLED"]
    place.wait_until(lambda: place.processes_in(sweep.folder) == [], "no process is left", deadline_s=30.0)
    assert [path.parent.name for path in sweep.folder.glob(".lrtape/*/run.json")] == []

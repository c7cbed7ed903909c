"""Sweeps on a real Ray of two nodes, against a real tracking server."""

import importlib.util
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.place import TRAIN_PY, Place
from rig.sample import DEADLY
from rig.store import Server, Store
from rig.sweep import RUNNING, Sweep

HAS_RAY = importlib.util.find_spec("ray") is not None
LAUNCHER = "hydra/launcher=lrtape_ray"
CLUSTER = Path(__file__).parent / "rig" / "ray_two_nodes.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if not TRAIN_PY.exists():
        pytest.skip("the wheel is tested here, and train.py is not part of it")
    with Place(tmp_path_factory.mktemp("ray") / "place") as place:
        yield place


@pytest.fixture(scope="module")
def cluster(place: Place) -> Iterator[str]:
    """The override that names it."""
    if not HAS_RAY:
        pytest.skip("Ray is not installed here; .ci/run installs it for this file alone")
    command = [sys.executable, str(CLUSTER)]
    with (place.folder / "ray.err").open("w") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            cwd=place.folder,
            env=place.environment() | {"TMPDIR": "/tmp"},  # the paths of its sockets must be short
        )
    assert process.stdin is not None
    assert process.stdout is not None
    yield f"hydra.launcher.address={process.stdout.readline().strip()}"
    process.stdin.close()
    process.wait(60)


@pytest.fixture(scope="module")
def server(place: Place, fresh_store: Path) -> Iterator[Server]:
    """An ``mlflow server`` on a fresh store."""
    server = Server(place, Store(fresh_store).copy(place.folder / "store.db"))
    server.start()
    yield server
    server.kill()


def test_without_ray_one_message_says_what_to_install(server: Server, place: Place) -> None:
    """Nothing is begun, and the exit code is 2."""
    if HAS_RAY:
        pytest.skip("Ray is installed")
    sweep = Sweep(place, server, "absent", LAUNCHER, "scheduler.gamma=0.1,0.5")

    assert sweep.run() == 2
    assert 'pip install "lrtape[ray]"' in sweep.said
    assert "Traceback" not in sweep.said
    assert sweep.runs == []


def test_twelve_trials_of_which_one_kills_its_process(cluster: str, server: Server, place: Place) -> None:
    """Eleven are FINISHED, with every step; the twelfth is KILLED, and Ray does not begin it again."""
    kinds = ",".join(map(str, range(12)))
    sweep = Sweep(place, server, "twelve", LAUNCHER, cluster, "data._target_=rig.sample.sample", f"+data.kind={kinds}")

    assert sweep.run() == 1, sweep.said
    assert [run.status for run in sweep.parents] == ["FAILED"]
    assert sweep.statuses() == Counter(FINISHED=11, KILLED=1)
    assert len({run.tags["lrtape.trial"] for run in sweep.children}) == 12
    assert [run.name for run in sweep.children if run.status == "KILLED"] == [f"kind={DEADLY}"]
    assert len(sweep.missing()) == 3  # what is told of the parent, and of the deadly one: its status, and its steps
    assert "trained with 1 threads" in sweep.said


def test_ctrl_c_leaves_nobody_running(cluster: str, server: Server, place: Place) -> None:
    """The two that are trained finish their step and are KILLED; what waits is never begun."""
    overrides = ("data._target_=rig.sample.sample", "+data.pause_s=0.5", "trainer.epochs=1000")
    sweep = Sweep(place, server, "interrupted", LAUNCHER, cluster, *overrides, "scheduler.gamma=0.1,0.2,0.3")
    sweep.start()
    sweep.wait_for(2, RUNNING)

    assert sweep.interrupt(signal.SIGTERM) == 143
    assert sweep.statuses() == Counter(KILLED=2)
    assert [run.status for run in sweep.parents] == ["KILLED"]

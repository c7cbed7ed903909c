"""Sweeps on a real Slurm of two nodes, against a real tracking server."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.place import TRAIN_PY, Place
from rig.sample import DEADLY
from rig.store import Server, Store
from rig.sweep import RUNNING, Sweep

RIG = Path(__file__).parent / "rig" / "slurm_two_nodes.sh"
NEEDED = ("sbatch", "slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
LAUNCHER = "hydra/launcher=lrtape_slurm"
SAMPLE = ("data._target_=rig.sample.sample", "+data.pause_s=0", "+data.kind=0")


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """Two nodes of one CPU each."""
    absent = [command for command in NEEDED if shutil.which(command) is None]
    if absent:
        pytest.skip(f"Slurm is not installed here: there is no {absent[0]}; CONTRIBUTING.md lists what it needs")
    if os.getuid() != 0:
        pytest.skip("only root can start a Slurm")
    if not TRAIN_PY.exists():
        pytest.skip("the wheel is tested here, and train.py is not part of it")
    folder = tempfile.mkdtemp(prefix="slurm-")  # where other users can go: its daemons are such
    up = subprocess.run([RIG, "up", folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if up.returncode:
        pytest.skip(f"Slurm cannot be started here: {up.stderr[-500:]}")
    yield
    subprocess.run([RIG, "down", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Place(tmp_path_factory.mktemp("sweeps") / "place") as place:
        yield place


@pytest.fixture(scope="module")
def server(slurm: None, place: Place, fresh_store: Path) -> Iterator[Server]:
    """An ``mlflow server`` on a fresh store."""
    server = Server(place, Store(fresh_store).copy(place.folder / "store.db"))
    server.start()
    yield server
    server.kill()


def queue() -> list[str]:
    """What Slurm has to do."""
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.splitlines()


def accounted() -> Counter[str]:
    """How the last array of jobs has ended, for Slurm."""
    command = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    jobs = [line.split("|") for line in out if line]
    last = max(int(job.partition("_")[0]) for job, _ in jobs)
    return Counter(state.split()[0] for job, state in jobs if job.partition("_")[0] == str(last))


def test_a_partition_that_does_not_exist_is_refused_before_anything_is_begun(server: Server, place: Place) -> None:
    """One message says what was given and what there is; no run, no job, exit code 2."""
    sweep = Sweep(place, server, "refused", LAUNCHER, "scheduler.gamma=0.1,0.5", "hydra.launcher.partition=nowhere")

    assert sweep.run() == 2
    assert "`hydra.launcher.partition` must be one of main, but is 'nowhere' instead." in sweep.said
    assert "Traceback" not in sweep.said
    assert sweep.runs == []
    assert queue() == []
    assert not (sweep.folder / ".lrtape").exists()


def test_twelve_trials_whose_driver_is_killed_and_whose_config_is_edited(server: Server, place: Place) -> None:
    """Jobs train what was composed when they were submitted; the same command waits for them: nothing is done twice."""
    conf = place.folder / "conf"
    (conf / "optimizer").mkdir(parents=True)
    optimizer = conf / "optimizer" / "mine.yaml"
    shutil.copy(TRAIN_PY.parent / "conf" / "optimizer" / "adam.yaml", optimizer)
    as_submitted = optimizer.read_text()
    sweep = Sweep(
        place,
        server,
        "twelve",
        *(SAMPLE[0], "+data.pause_s=0.2", SAMPLE[2]),  # longer than a driver takes to start
        f"hydra.searchpath=[file://{conf}]",
        "optimizer=mine",
        "scheduler.gamma=0.1,0.2,0.3,0.4,0.5,0.6",
        "scheduler.step_size=2,3",
        LAUNCHER,
        "hydra.launcher.trials_per_task=3",
    )
    sweep.start()
    sweep.wait_for(1, RUNNING)
    optimizer.write_text(as_submitted.replace("weight_decay: 0", "weight_decay: 1"))
    assert optimizer.read_text() != as_submitted
    sweep.interrupt(signal.SIGKILL)
    place.wait_until(lambda: len(sweep.children) > 6, "a job is begun that was queued")
    optimizer.write_text(as_submitted)

    assert sweep.run() == 0, sweep.said
    assert "of Slurm already" in sweep.said
    assert sweep.missing() == []
    assert len(sweep.children) == 12
    assert {server.store.params(run.id)["optimizer.weight_decay"] for run in sweep.children} == {"0.0"}
    assert len({run.tags["lrtape.slurm_job"] for run in sweep.children}) == 4


def test_a_trial_that_kills_its_process_costs_no_other_its_result(server: Server, place: Place) -> None:
    """Of three trials of one job the second dies: the first is kept, the third is trained by another job."""
    sweep = Sweep(
        place, server, "deadly", *SAMPLE[:2], "+data.kind=0,1,2", LAUNCHER, "hydra.launcher.trials_per_task=3"
    )

    assert sweep.run() == 1
    assert {run.name: run.status for run in sweep.children} == {
        "kind=0": "FINISHED",
        f"kind={DEADLY}": "KILLED",
        "kind=2": "FINISHED",
    }
    assert [run.status for run in sweep.parents] == ["FAILED"]
    assert "1 of 3 trials have no result" in sweep.said


def test_ctrl_c_leaves_nobody_running(server: Server, place: Place) -> None:
    """Detached jobs go on, and the same command waits for them; interrupted again, it cancels them: all are KILLED."""
    detach = "hydra.launcher.on_interrupt=detach"
    overrides = ("data._target_=rig.sample.sample", "+data.pause_s=1", "trainer.epochs=1000", LAUNCHER)
    sweep = Sweep(place, server, "interrupted", *overrides, "scheduler.gamma=0.1,0.2,0.3", detach)
    sweep.start()
    sweep.wait_for(2, RUNNING)
    assert sweep.interrupt(signal.SIGINT) == 130
    assert f"To go on:  python {TRAIN_PY} -m experiment=steplr tracking.uri={server.uri} " in sweep.said
    assert len(queue()) == 3

    again = Sweep(place, server, "interrupted", *overrides, "scheduler.gamma=0.1,0.2,0.3")
    again.start()
    place.wait_until(lambda: "3 trials are in 3 jobs of Slurm already" in again.said, "it waits for the jobs")
    assert again.interrupt(signal.SIGTERM) == 143
    assert queue() == []
    assert accounted() == {"CANCELLED": 3}
    assert again.statuses() == {"KILLED": 2}
    assert [run.status for run in again.parents] == ["KILLED"]

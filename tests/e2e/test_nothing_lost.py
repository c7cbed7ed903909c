"""Nothing is lost, whoever dies and whatever fails: ``scripts/torture.py`` in short."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest

from rig.disks import disk_full, folder_deleted
from rig.kills import kill
from rig.outages import run_deleted, server_away
from rig.place import Place
from rig.starts import eight, start_without_server
from rig.store import Store
from rig.training import LoopTraining
from rig.verdict import Verdict, judge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes to kill are found in /proc")

N_STEPS = 1000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Where a test happens; nothing is left of it."""
    with Place(tmp_path / "place") as place:
        yield place


@pytest.fixture(scope="module")
def control(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopTraining]:
    """A training to which nothing is done."""
    with Place(tmp_path_factory.mktemp("control")) as place:
        training = LoopTraining(place, "control", Store(fresh_store).copy(place.folder / "control.db"), N_STEPS)
        prove([judge("nothing is done", training)])
        yield training


def prove(verdicts: Iterable[Verdict]) -> None:
    """Nothing that was promised was broken."""
    complaints = [complaint for verdict in verdicts for complaint in verdict.complaints]
    assert not complaints, "\n".join(complaints)


def test_a_sudden_death_loses_no_step(place: Place, control: LoopTraining) -> None:
    """SIGKILL for the trainer, for it and its shipper, for the shipper: each finished step is there, once."""
    prove(kill(place, control, Random(0), n=6))


def test_a_server_that_is_killed_costs_nothing(place: Place, control: LoopTraining) -> None:
    """It comes back while training, or after the end, when the command that was printed brings everything there."""
    prove(server_away(place, Random(0), N_STEPS, away_s=2.0, control=control))


def test_a_full_disk_costs_nothing_or_says_what(place: Place, control: LoopTraining) -> None:
    """Nothing if there is room again; else the usual result, a warning that counts, and a run that is not complete."""
    _skip_without_mounts(place)
    prove(disk_full(place, control))


def test_a_spool_that_is_deleted_costs_nothing(place: Place, control: LoopTraining) -> None:
    """`rm -rf .lrtape` while training, before or after the shipper has opened its spool, or when it is dead, too."""
    prove(folder_deleted(place, control))


def test_a_run_that_is_deleted_can_be_restored(place: Place, control: LoopTraining) -> None:
    """The command that was printed then brings everything there."""
    prove(run_deleted(place, control))


def test_a_fresh_store_survives_many_trainings_at_once(place: Place, control: LoopTraining) -> None:
    """MLflow's migrations race; all trainings are recorded, and none warns."""
    prove(eight(place, control, n=4))


def test_a_training_without_a_server(place: Place) -> None:
    """It is refused within seconds; or, as asked for, it trains, and its run is created later with all that is its."""
    prove(start_without_server(place))


def _skip_without_mounts(place: Place) -> None:
    try:
        place.mount_tmpfs(place.folder / "probe", 4096)
    except PermissionError as error:
        pytest.skip(f"a small disk must be mounted for this, which needs more rights: {error}")

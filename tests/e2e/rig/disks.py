"""The scenarios of disks: full for a while or for good, and folders that are deleted or closed while training."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rig.place import Place
from rig.training import LoopTraining
from rig.truth import GROUPS
from rig.verdict import Verdict, judge

DISK_BYTES = 512 * 1024
"""Enough for 3,000 steps."""
RESPECT_MODES = [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
"""Root would write into a folder that is read-only."""
_LOST = re.compile(r"(\d+) records could not be written")


def disk_full(place: Place, control: LoopTraining) -> Iterator[Verdict]:
    """Another file fills the disk of the spool up.

    Where it is removed before the end, nothing is lost. Where not, the training has its usual result, and both its
    warning and its run say that something is lost.

    Args:
        place: where it happens.
        control: the same training, with nothing done to it; over.

    Raises:
        PermissionError: this process may not mount a small disk.
    """
    for_a_while = _on_a_small_disk(place, control, "full for a while")
    for_good = _on_a_small_disk(place, control, "full for good")
    for training in (for_a_while, for_good):
        training.wait_for_pause()
        _fill(_filler(training))
        training.go_on()
    for_a_while.wait_for_pause()
    _filler(for_a_while).unlink()
    for_a_while.go_on()
    yield judge("full for a while", for_a_while, result=control.result)

    for_good.wait_for_pause()
    for_good.go_on()
    verdict = judge("full for good", for_good, result=control.result, n_warnings=1, complete="false")
    said = sum(int(number) for warning in for_good.warnings for number in _LOST.findall(warning))
    lost = verdict.counts.lost
    broken = [] if said * len(GROUPS) == lost else [f"{lost} values are lost, but {said} records are said to be"]
    counts = replace(verdict.counts, lost=0)
    yield replace(verdict, counts=counts, broken=[*verdict.broken, *broken], note=f"{said} steps lost, as it says")


def _on_a_small_disk(place: Place, control: LoopTraining, name: str) -> LoopTraining:
    disk = place.folder / f"{name}.disk"
    place.mount_tmpfs(disk, DISK_BYTES)
    store = control.store.copy(place.folder / f"{name}.db")
    pauses = (control.n_steps // 3, control.n_steps * 2 // 3)
    return LoopTraining(place, name, store, control.n_steps, root=disk / ".lrtape", pauses=pauses)


def _filler(training: LoopTraining) -> Path:
    return training.root.with_name("filler")


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):  # the error says that it is full
        while True:
            file.write(bytes(4096))


def folder_deleted(place: Place, control: LoopTraining) -> Iterator[Verdict]:
    """``rm -rf .lrtape`` while training, before or after the shipper has begun, and perhaps it dies, too.

    Args:
        place: where it happens.
        control: the same training, with nothing done to it; over.
    """
    at_once, later, with_shipper = ("deleted at once", "deleted while shipping", "deleted, shipper killed")
    trainings = {case: _pausing(place, control, case) for case in (at_once, later, with_shipper)}
    for case, training in trainings.items():
        training.wait_for_pause(at_work=case != at_once)
        shutil.rmtree(training.root)
        if case == with_shipper:
            training.kill_shippers(training.shippers())
        training.go_on()
    for case, training in trainings.items():
        yield judge(case, training, result=control.result)


def folder_read_only(place: Place, control: LoopTraining) -> Iterator[Verdict]:
    """Nothing more may be written into ``.lrtape``: nothing is lost, and the training ends as usual.

    The spool itself is open already. What is left of it is removed by ``lrtape recover`` when that is possible again.

    Args:
        place: where it happens.
        control: the same training, with nothing done to it; over.
    """
    at_once, later = ("read-only at once", "read-only while shipping")
    trainings = {case: _pausing(place, control, case, RESPECT_MODES) for case in (at_once, later)}
    for case, training in trainings.items():
        training.wait_for_pause(at_work=case != at_once)
        closed = [training.root, *training.spools]
        for folder in closed:
            folder.chmod(0o555)
        training.go_on()
        training.wait()
        for folder in closed:
            folder.chmod(0o755)
        yield judge(case, training, result=control.result, broken=training.recover())


def _pausing(place: Place, control: LoopTraining, name: str, prefix: Sequence[str] = ()) -> LoopTraining:
    store = control.store.copy(place.folder / f"{name}.db")
    return LoopTraining(place, name, store, control.n_steps, pauses=[control.n_steps // 3], prefix=prefix)

"""The processes that ship a spool, found from outside."""

import contextlib
import os
import signal
import time
from pathlib import Path

DEADLINE_S = 60


def shippers(folder: Path) -> list[int]:
    """Those that ship a spool in `folder`, or in a folder below it: they have its log open."""
    pids = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # others come and go
            log = (cmdline.parent / "fd" / "2").readlink()
            if b"lrtape.companion" in cmdline.read_bytes() and log.is_relative_to(folder.absolute()):
                pids.append(int(cmdline.parent.name))
    return pids


def the_shipper(folder: Path) -> int:
    """The one that ships a spool there; one that has just been started has not opened its log yet."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := shippers(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    (pid,) = found
    return pid


def kill_shipper(folder: Path) -> None:
    """Kill the one that ships a spool there, a child of this process, and wait until it is gone."""
    pid = the_shipper(folder)
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # whoever started it has waited for it
        os.waitpid(pid, 0)

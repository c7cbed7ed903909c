"""One GPU for each process that trains: of several on one machine, none takes that of another."""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
_CLAIMED_BY = "LRTAPE_GPU_CLAIMED_BY"
"""In the environment: the id of the process that has set `VISIBLE`."""


def claim_gpu(gpus: Sequence[str], folder: Path | None = None) -> str:
    """Make one GPU the only one that this process sees, until its end. To be called before CUDA is used.

    Called again, as where a process trains several trials, it changes nothing. Where all are taken, as somebody asked
    for more processes than there are GPUs, one is shared.

    Args:
        gpus: as `VISIBLE` calls them; none: nothing is done.
        folder: of the lock files; by default one that all processes of this user share.

    Returns:
        The one that is claimed; empty where there is none.
    """
    if not gpus:
        return ""
    if os.environ.get(_CLAIMED_BY) == str(os.getpid()):
        return os.environ[VISIBLE]
    folder = folder or Path(tempfile.gettempdir()) / f"lrtape-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = (gpu for gpu in gpus if _lock(folder / gpu.replace("/", "_")))
    gpu = next(free, gpus[os.getpid() % len(gpus)])
    os.environ[VISIBLE] = gpu
    os.environ[_CLAIMED_BY] = str(os.getpid())
    return gpu


def visible_gpus(n_gpus: int) -> tuple[str, ...]:
    """Their names, where this process sees so many."""
    given = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(given[:n_gpus] if given else map(str, range(n_gpus)))


def _lock(path: Path) -> bool:
    """Whether nobody else has it. The file stays open, and so locked, until this process ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True

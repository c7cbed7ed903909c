"""The CPUs of this machine."""

import os


def n_cpus() -> int:
    """How many this process may use: as many threads as torch takes where nobody says anything."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

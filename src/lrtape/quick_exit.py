"""The end of a command's process, which Python would take a second for after so many imports."""

import atexit
import functools
import gc


@functools.cache
def exit_quickly() -> None:
    """At its exit, let this process not look again and again through all that it has imported; idempotent.

    For the process of a command, at its beginning: what others register with `atexit` later is called before. What is
    garbage then is collected once more, and finalized; what is not, Python promises nothing for.
    """
    atexit.register(_freeze)


def _freeze() -> None:
    gc.collect()
    gc.freeze()

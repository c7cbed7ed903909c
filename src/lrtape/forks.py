"""What happens in a child that this process forks, as the workers of a loader are."""

import os
import weakref
from collections.abc import Callable
from typing import Any


def call_in_forked_children(method: Callable[[], Any]) -> None:
    """Call `method` in every child that is forked from now on, as long as the object that it is bound to is there.

    Args:
        method: a bound method. It is called before anything else runs in the child; the object is not held.
    """
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (bound := reference()) is not None:
            bound()

    os.register_at_fork(after_in_child=call)

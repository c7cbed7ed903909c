"""Where a shipper sends points to."""

from collections.abc import Sequence
from typing import Protocol

from lrtape.errors import TrackingError
from lrtape.tape import Point


class RefusedError(TrackingError):
    """The store refuses these points for good: sending them again would change nothing."""


class Sink(Protocol):
    """Takes points. Called by the shipper alone, from one thread."""

    def send(self, points: Sequence[Point]) -> None:
        """Store `points`; when this returns, they are stored. Sending the same points again must change nothing.

        Raises:
            RefusedError: the store will never take them.
            TrackingError: the store did not take them now; trying again may help.
        """

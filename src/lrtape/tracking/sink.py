"""Where a shipper sends points to."""

from collections.abc import Sequence
from typing import Protocol

from lrtape.errors import TrackingError
from lrtape.tape import Point


class RefusedError(TrackingError):
    """The store takes nothing for this run: it was deleted, or permission is missing. A person must mend that."""


class RefusedPointsError(TrackingError):
    """The store refuses these very points, and will never take them; it may take others."""


class Sink(Protocol):
    """Takes points. Called by the shipper alone, from one thread."""

    def send(self, points: Sequence[Point]) -> None:
        """Store `points`; when this returns, they are stored. Sending the same points again must change nothing.

        Raises:
            RefusedError: the store takes nothing.
            RefusedPointsError: the store will never take these points as they are.
            TrackingError: the store did not take them now; trying again may help.
        """

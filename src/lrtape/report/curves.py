"""The learning rates of every trial of a sweep, as they are drawn."""

import contextlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lrtape.errors import LRTapeError
from lrtape.outline import Outline
from lrtape.standing import Standing
from lrtape.tape import Tape
from lrtape.tape_file import read_tape
from lrtape.tracking.history import History
from lrtape.trials import RUNNING, TrialRun

MAX_CORNERS = 800
"""Of one curve among many."""
MAX_RUNS = 300
"""Whose curves are drawn: the best ones."""

Curve = tuple[tuple[float, float], ...]
"""Steps and learning rates: each holds until the next step."""


@dataclass(frozen=True, slots=True)
class PointCurves:
    """Of one point.

    Attributes:
        standing: of the point.
        curves: by key of a param group, those of its seeds that differ.
    """

    standing: Standing
    curves: dict[str, list[Curve]]


class CurveReader:
    """Reads curves from a tracking store, and keeps those of trainings that are over.

    Args:
        tracking_uri: absolute.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._kept: dict[str, dict[str, Curve]] = {}

    def read(self, standings: Iterable[Standing]) -> list[PointCurves]:
        """The curves of every point that has any, in the order of the points.

        What cannot be read is left out: a report lives without it.
        """
        found = []
        n_left = MAX_RUNS
        for standing in standings:
            curves: dict[str, list[Curve]] = {}
            if standing.same_as:
                continue
            for run in standing.runs[:n_left]:
                n_left -= 1
                for key, curve in self._curves(run).items():
                    if curve not in curves.setdefault(key, []):
                        curves[key].append(curve)
            if curves:
                found.append(PointCurves(standing, curves))
        return found

    def _curves(self, run: TrialRun) -> dict[str, Curve]:
        if run.run_id in self._kept:
            return self._kept[run.run_id]
        curves: dict[str, Curve] = {}
        with contextlib.suppress(LRTapeError, OSError):
            tape = _tape(History(run.run_id, self._tracking_uri))
            curves = {key: tuple(Outline.of(series, MAX_CORNERS).corners()) for key, series in tape.lr.items()}
            if run.status != RUNNING:
                self._kept[run.run_id] = curves
        return curves


def _tape(history: History) -> Tape:
    """What was recorded; where that is not among the artifacts, or cannot be read, what the store has."""
    with contextlib.suppress(LRTapeError, OSError), tempfile.TemporaryDirectory() as folder:
        tapes = [read_tape(path) for path in history.tapes(Path(folder))]
        if tapes:
            return Tape.union(tapes)
    keys = [key for key in history.keys() if key.startswith("lr/")]  # noqa: SIM118 - asks the store
    return Tape(point for key in keys for point in history.points(key))

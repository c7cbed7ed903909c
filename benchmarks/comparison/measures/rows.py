"""The rows of a run against the truth, which the optimizer noted. Read by raw SQL, past MLflow."""

import contextlib
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from loops.notes import Step
from measures.results import N_GROUPS, Arrival

OFFSETS = (0, 1, -1, 2, -2)
"""By how much the step numbers of a framework may differ from the truth's, in the order in which they are tried."""
RELATIVE = 1e-9

Values = dict[tuple[int, int], list[float]]
"""By the index of the group and the step."""


class Rows:
    """The rows of the newest run of an experiment.

    Args:
        path: of the SQLite file.
        experiment: its name.
        keys: of the metrics that have an lr.
    """

    def __init__(self, path: Path, experiment: str, keys: Sequence[str]) -> None:
        self._path = path
        self._experiment = experiment
        self._keys = list(keys)

    def _select(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=60.0)) as connection:
            return connection.execute(sql, values).fetchall()

    def newest_run(self) -> str:
        """Its id; empty if there is none."""
        sql = "select run_uuid from runs join experiments using (experiment_id) where experiments.name = ?"
        found = self._select(f"{sql} order by start_time desc limit 1", self._experiment)
        return str(found[0][0]) if found else ""

    def status(self, run_id: str) -> str:
        """Of the run."""
        found = self._select("select status from runs where run_uuid = ?", run_id)
        return str(found[0][0]) if found else "no run"

    def count(self, run_id: str) -> int:
        """How many rows there are."""
        marks = ", ".join("?" * len(self._keys))
        sql = f"select count(*) from metrics where run_uuid = ? and key in ({marks})"
        return int(str(self._select(sql, run_id, *self._keys)[0][0]))

    def values(self, run_id: str) -> Values:
        """All of them."""
        marks = ", ".join("?" * len(self._keys))
        sql = f"select key, step, value from metrics where run_uuid = ? and key in ({marks})"
        found: Values = {}
        for key, step, value in self._select(sql, run_id, *self._keys):
            assert isinstance(key, str)
            assert isinstance(step, int)
            assert isinstance(value, float)
            found.setdefault((self._keys.index(key), step), []).append(value)
        return found


def judge(values: Values, truth: Sequence[Step], open_end: bool = False) -> Arrival:
    """What has arrived of what was used.

    A framework may count its steps from another number than 0: of the constant offsets `OFFSETS` the one counts with
    which most rows are right.

    Args:
        values: what is in the store.
        truth: every step, from 0.
        open_end: whether there may be more steps than these, whose rows count for nothing.
    """
    offset = max(OFFSETS, key=lambda offset: _right(values, truth, offset))
    judged = {
        (group, step - offset): found
        for (group, step), found in values.items()
        if not (open_end and step - offset >= len(truth))
    }
    n_rows = sum(map(len, judged.values()))
    return Arrival(
        landed=sum(0 <= step < len(truth) for _, step in judged),
        expected=len(truth) * N_GROUPS,
        doubled=n_rows - len(judged),
        wrong=n_rows - _right(judged, truth, 0),
        groups=len({group for group, _ in judged}),
    )


def _right(values: Values, truth: Sequence[Step], offset: int) -> int:
    return sum(
        math.isclose(value, truth[step - offset].lrs[group], rel_tol=RELATIVE, abs_tol=1e-300)
        for (group, step), found in values.items()
        if 0 <= step - offset < len(truth)
        for value in found
    )

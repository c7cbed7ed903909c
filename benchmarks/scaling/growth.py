"""What grows with the number of steps: memory of a training and of its shipper, and the spool."""

import contextlib
import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrtape.spool_folder import SpoolFolder
from scaling.processes import LOOK_S, memory_kib, shipper_of, start


@dataclass(frozen=True, slots=True)
class Growth:
    """One training of so many steps.

    Attributes:
        n_steps: of 4 groups.
        spool: where it is.
        seen: what the training said of itself; see ``training.py``.
        first_kib: memory of the shipper when it has sent its first rows.
        shipping_kib: its peak until it has sent all of them.
        peak_kib: its peak over all, with what it does when everything is sent: compare, upload, draw the run's page.
        n_rows: that the store has.
    """

    n_steps: int
    spool: Path
    seen: dict[str, Any]
    first_kib: int
    shipping_kib: int
    peak_kib: int
    n_rows: int


def train(folder: Path, n_steps: int) -> Growth:
    """Train on a store and in a folder that are for this alone, and watch the shipper."""
    database = folder / "mlflow.db"
    first_kib = shipping_kib = peak_kib = 0
    with start("-m", "scaling.training", f"sqlite:///{database}", folder / "spools", n_steps) as process:
        assert process.stdout is not None
        spool = Path(process.stdout.readline().strip())
        shipper = None
        while process.poll() is None:
            time.sleep(LOOK_S)
            shipper = shipper or shipper_of(process.pid)
            if shipper is None:
                continue
            now_kib, highest_kib = memory_kib(shipper)
            peak_kib = max(peak_kib, highest_kib)
            progress = SpoolFolder(spool.parent).load_progress()
            if progress.offset:
                first_kib = first_kib or now_kib
            if progress.points < 4 * n_steps:
                shipping_kib = max(shipping_kib, highest_kib)
        seen = json.loads(process.stdout.read())
    with contextlib.closing(sqlite3.connect(database)) as rows:
        (n_rows,) = rows.execute(
            "SELECT COUNT(*) FROM metrics WHERE run_uuid = ? AND key LIKE 'lr/%'", (seen["run_id"],)
        ).fetchone()
    return Growth(n_steps, spool, seen, first_kib, shipping_kib, peak_kib, n_rows)

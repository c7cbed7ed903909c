"""How long a tape takes to open, in a process of its own: ``python -m scaling.opening KIND NAME [STORE]``.

A kind is parquet, spool or history; its name a path, or the id of a run. Prints seconds, rows and the peak of its
memory, as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lrtape.spool import read_spool
from lrtape.tape import Tape
from lrtape.tape_file import read_tape
from scaling.processes import memory_kib


def main() -> None:
    """Open it once."""
    kind, name = sys.argv[1:3]
    opener: Callable[[], Tape]
    if kind == "history":
        from lrtape.tracking.history import read_run

        opener = lambda: read_run(name, sys.argv[3])  # noqa: E731
    else:
        opener = lambda: (read_tape if kind == "parquet" else read_spool)(Path(name))  # noqa: E731
    begin = time.perf_counter()
    tape = opener().lr
    seconds = time.perf_counter() - begin
    rows = sum(len(series) for series in tape.values())
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_kib": memory_kib(os.getpid())[1]}))


if __name__ == "__main__":
    main()

"""One pair, in a process of its own: ``python -m scaling.drain STORE N_GROUPS N_ROWS FIRST``.

The same rows by three ways, each into a run of its own: `ship` from a finished spool; ``log_batch`` of 1,000 rows that
lie ready, as fast as MLflow takes them; and the same with Python's garbage collector set as the shipper sets it. Only
what each way does is timed. Prints their rows a second, as JSON.
"""

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from lrtape.shipper import BATCH_POINTS, GC_THRESHOLD, DeadWriter, ship
from lrtape.spool import Header, SpoolWriter
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Group, GroupLayout, Point, Record, Status
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink

BEGIN_MS = 1_700_000_000_000


def lr_of(step: int, group: int) -> float:
    """Another one for every row."""
    return 0.1 / (1 + step + group / 1000)


def spool_of(root: Path, n_groups: int, n_steps: int) -> SpoolFolder:
    """What a recording that is over has left, if nobody has shipped it."""
    folder = SpoolFolder.create(root, "drain")
    writer = SpoolWriter(folder.spool, Header("run", True, "uri", BEGIN_MS))
    writer.write(GroupLayout(0, tuple(Group(f"group{i:03}", f"lr/group{i:03}") for i in range(n_groups))))
    for step in range(n_steps):
        writer.write(Record(0, step, BEGIN_MS + step, [lr_of(step, group) for group in range(n_groups)]))
    writer.end(Status.FINISHED)
    writer.close()
    return folder


def batches_of(n_groups: int, n_steps: int) -> Iterator[list[Metric]]:
    """The same rows, ready for MLflow."""
    batch = []
    for step in range(n_steps):
        for group in range(n_groups):
            batch.append(Metric(f"lr/group{group:03}", lr_of(step, group), BEGIN_MS + step, step))
            if len(batch) == BATCH_POINTS:
                yield batch
                batch = []
    if batch:
        yield batch


def shipped(store: str, run_id: str, n_groups: int, n_steps: int) -> float:
    """Seconds that `ship` takes."""
    with tempfile.TemporaryDirectory() as root:
        folder = spool_of(Path(root), n_groups, n_steps)
        sink = MlflowSink(store, run_id)
        sink.send([Point("first", 0, BEGIN_MS, 0.0)])  # connects
        begin = time.perf_counter()
        done = ship(folder, sink, DeadWriter())
        seconds = time.perf_counter() - begin
    assert done.points == n_groups * n_steps, done
    return seconds


def logged(store: str, run_id: str, n_groups: int, n_steps: int) -> float:
    """Seconds that `log_batch` takes."""
    client = MlflowClient(tracking_uri=store)
    client.log_batch(run_id, metrics=[Metric("first", 0.0, BEGIN_MS, 0)])
    seconds = 0.0
    for batch in batches_of(n_groups, n_steps):
        begin = time.perf_counter()
        client.log_batch(run_id, metrics=batch)
        seconds += time.perf_counter() - begin
    return seconds


def logged_collecting_rarely(store: str, run_id: str, n_groups: int, n_steps: int) -> float:
    """The same."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        return logged(store, run_id, n_groups, n_steps)
    finally:
        gc.set_threshold(*before)


WAYS: tuple[Callable[[str, str, int, int], float], ...] = (shipped, logged, logged_collecting_rarely)


def main() -> None:
    """Measure each way, beginning with the one that is asked for."""
    store, n_groups, n_rows, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    n_steps = n_rows // n_groups
    client = MlflowClient(tracking_uri=store)
    result = {}
    for way in (*WAYS[first:], *WAYS[:first]):
        with MlflowRun.create(store, experiment="drain") as run:
            result[way.__name__] = n_groups * n_steps / way(store, run.run_id, n_groups, n_steps)
        last = client.get_run(run.run_id).data.metrics
        assert last[f"lr/group{n_groups - 1:03}"] == lr_of(n_steps - 1, n_groups - 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

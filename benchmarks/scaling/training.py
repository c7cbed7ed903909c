"""One training, in a process of its own: ``python -m scaling.training STORE FOLDER N_STEPS``.

Four groups, a cosine, and nothing but steps, so that nearly all is left to the shipper. Its first line says where the
spool is; its last one is what it saw of itself, as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

import lrtape
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.tags import COMPLETE
from scaling.processes import memory_kib

GROUPS = ("embedding", "body", "neck", "head")
WARM_STEPS = 500
"""Before memory is looked at for the first time."""
MAX_WAIT_S = 4 * 3600.0


def main() -> None:
    """Train, and keep the spool."""
    store, folder, n_steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    run = MlflowRun.create(store, experiment="scale")
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name} for name in GROUPS], lr=0.1
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    session = lrtape.attach(optimizer, run=run, folder=folder, keep_spool=True, close_timeout_s=MAX_WAIT_S)
    (spool,) = Path(folder).glob("*/spool")
    print(spool, flush=True)
    begin = time.perf_counter()
    before_kib = 0
    for step in range(n_steps):
        optimizer.step()
        scheduler.step()
        if step == WARM_STEPS:
            before_kib = memory_kib(os.getpid())[0]
    stepped = time.perf_counter()
    after_kib = memory_kib(os.getpid())[0]
    spool_bytes = spool.stat().st_size
    session.close()
    closed = time.perf_counter()
    seen = {
        "run_id": run.run_id,
        "loop_s": stepped - begin,
        "wait_s": closed - stepped,
        "rss_kib": before_kib,
        "grown_kib": after_kib - before_kib,
        "peak_kib": memory_kib(os.getpid())[1],
        "spool_bytes": spool_bytes,
        "complete": run.tags().get(COMPLETE, "false"),
    }
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()

"""torchrun's own agent, with workers that are forked from a process which has imported everything.

A training of two processes takes some ten seconds of a CPU to import, and one to train. `python warm_ranks.py` trains
for each line on stdin, [arguments, environment, log], and answers with the exit codes of the ranks that failed.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lrtape.app.main import main
from lrtape.app.train import train
from lrtape.app.world import World
from lrtape.tracking.history import History

PRELOADED = (torch, train, World, History)
N_RANKS = 2


def work(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """What a worker does: `lrtape train`, as if it had been started by torchrun."""
    os.environ |= environment
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.argv = ["lrtape train", *arguments]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except Exception:  # noqa: BLE001 - as the interpreter would
        sys.excepthook(*sys.exc_info())
        code = 1
    Path(f"{log}.{os.environ['RANK']}").write_text(str(code))  # the agent tells only which one was first
    sys.exit(code)  # type: ignore[arg-type]  # as main() did


def launch(arguments: list[str], environment: dict[str, str], log: str) -> dict[int, int]:
    """Train once; returns the exit codes of the ranks that failed."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=N_RANKS,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=Path(log).name,
        start_method="fork",
        max_restarts=0,
    )
    try:
        elastic_launch(config, work)(arguments, environment, log)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        for rank in range(N_RANKS):
            if (noted := Path(f"{log}.{rank}")).exists():
                codes[rank] = int(noted.read_text())
                noted.unlink()
        return codes
    return {}


if __name__ == "__main__":
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # imports what torch imports late
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(launch(*json.loads(line)))}\n")
        sys.stdout.flush()

"""``python -m loops.child NAME``: a process with one framework in it, which trains as often as it is asked to.

Each line on stdin is an order, in JSON; each training is answered with a line of JSON on stdout. What frameworks print
goes to stderr.
"""

import json
import os
import sys
from pathlib import Path

import torch

from loops.catalogue import LOOPS
from loops.notes import Notes
from loops.workload import Workload


def main() -> None:
    """Train, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    entry = LOOPS[sys.argv[1]]
    loop = entry.load()
    print(json.dumps({"loaded": entry.name}), file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        workload = Workload(
            n_steps=order["n_steps"],
            notes=Notes(Path(order["notes"]), order["n_steps"]),
            uri=os.environ["MLFLOW_TRACKING_URI"],
            experiment=os.environ["MLFLOW_EXPERIMENT_NAME"],
            period_s=order["period_s"],
        )
        error = ""
        try:
            loop.train(workload, order["recorded"])
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - that it has ended so is a result
            error = f"{type(raised).__name__}: {raised}"
        print(json.dumps({"error": error}), file=answers)


if __name__ == "__main__":
    main()

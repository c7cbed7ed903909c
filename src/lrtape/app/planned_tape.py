"""What a training means to use, kept with its run: so that `lrtape why` can tell who changed an lr."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lrtape.tape import Tape
from lrtape.tape_file import write_tape
from lrtape.tracking.artifacts import PLAN_NAME, TAPE_FOLDER

if TYPE_CHECKING:
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.no_run import NoRun
    from lrtape.tracking.planned_run import PlannedRun

MAX_POINTS = 1_000_000
"""About two seconds, and some megabytes. A longer plan is not kept."""


def keep_plan(run: "MlflowRun | PlannedRun | NoRun", planned: Tape, first_step: int) -> None:
    """Keep a simulated tape as an artifact of the run, ``lr/planned-<first step>.parquet``.

    Takes about 1.5 microseconds a value. A failure is warned about.

    Args:
        run: of the training.
        planned: what the whole training would record.
        first_step: with which the training begins, from 0; of one that is resumed, what came before is not its plan.
    """
    planned = Tape.of({key: rows for key, series in planned.items() if (rows := series.since(first_step))})
    n_points = sum(map(len, planned.values()))
    # An empty plan of a resumed training says that the one before it holds no longer.
    if not run.run_id or n_points > MAX_POINTS or (not n_points and not first_step):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PLAN_NAME.format(first_step)
        write_tape(path, planned.points(), {"first_step": first_step})
        run.log_artifact(path, TAPE_FOLDER)

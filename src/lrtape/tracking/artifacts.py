"""Where a run has what lrtape keeps among its artifacts. Imports no mlflow."""

TAPE_FOLDER = "lr"
TAPE_NAME, TAPE_NAMES = "tape-{}.parquet", "tape-*.parquet"
"""One for each recording of the run; see ``tape_file.py``."""
PLAN_NAME, PLAN_NAMES = "planned-{:09d}.parquet", "planned-*.parquet"
"""What the training means to use from a step on, as a tape; one more for each time it was resumed."""

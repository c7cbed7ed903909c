"""The tags of a run: which there are, and what they say. Imports no mlflow."""

from lrtape.errors import PrunedError
from lrtape.tracking.uri import mask_credentials

MAX_TAG_CHARACTERS = 8000
MAX_ERROR_CHARACTERS = 1000

RECORDING = "lrtape.recording"
"""The recording that ends the run; the last one, where a training was resumed."""
MISSING = "lrtape.missing."
"""With a recording's id behind it: why that recording is not complete."""
RECORD = "lrtape.record"
"""``changes`` where a recording has stored no more of the learning rates; its tape has every step."""
COMPLETE = "lrtape.complete"
"""``true`` when every value that was recorded is stored and was compared, else ``false``."""
US_PER_STEP = "lrtape.us_per_step"
"""What recording one step took on the training thread, in microseconds; the median of samples."""
STEPS = "lrtape.steps"
"""Number of optimizer steps that a training was planned to make."""
STEPS_PER_EPOCH = "lrtape.steps_per_epoch"
"""Optimizer steps of a whole epoch of a training."""
ERROR = "lrtape.error"
"""The exception that has ended the training."""
VERDICT = "lr.verdict"
"""``ok``, or the sentence of what is wrong most with the learning rates."""
PLANNED = "lrtape.planned"
"""Of a run that was planned before it was created: the id of its recording, by which it is found again."""

# Those of the runs of a sweep: a parent, and a child for each trial.
SWEEP = "lrtape.sweep"
"""Of a parent: the id of its sweep."""
TRIAL = "lrtape.trial"
"""Of a child: the id of its trial."""
VALUES = "lrtape.sweep.values"
"""Of a child: its swept values by key, as JSON."""
SEED = "lrtape.sweep.seed"
"""Of a child."""
POINT = "lrtape.point"
"""Of a child: its trial without the seed, by which seeds are averaged."""
OBJECTIVE = "lrtape.sweep.objective"
"""Of a parent, the metric that is compared; of a child, its value of it."""
DIRECTION = "lrtape.sweep.direction"
"""Of a parent: ``min`` or ``max``."""
TRIALS = "lrtape.sweep.trials"
"""Of a parent: how many trials it has."""
FINISHED_TRIALS = "lrtape.sweep.finished"
"""Of a parent: how many trainings are finished, of how many: ``7/8``."""
COMMAND = "lrtape.sweep.command"
"""Of a parent: what a person has typed."""
REFUSED = "lrtape.sweep.refused"
"""Of a parent: why trials are not trained, by their names, as JSON."""
SAME = "lrtape.sweep.same"
"""Of a parent: the ids of the trials that others are equal to, by the names of those, as JSON."""
BEST = "lrtape.sweep.best"
"""Of a parent: its best point so far, and the objective of that."""
PRUNED = "lrtape.pruned"
"""Of a child: why it was ended before its last epoch."""
HOST = "lrtape.host"
"""The machine of a process that trains, or drives a sweep."""
FOLDER = "lrtape.folder"
"""Beside `HOST`: where that process keeps its spool, absolute."""
THREADS = "lrtape.threads"
"""Of a child: how many of them torch computes with; the last digits of a training depend on that."""
SLURM_JOB = "lrtape.slurm_job"
"""Of a child that is trained by a job of Slurm: the id of that, ``12`` or ``12_0``."""

# MLflow's own (3.17).
NOTE = "mlflow.note.content"
"""The run's description, in Markdown."""
RUN_NAME = "mlflow.runName"
RUN_COLOR = "mlflow.runColor"
"""``#RRGGBB``."""
PARENT_RUN_ID = "mlflow.parentRunId"
LOGGED_TABLES = "mlflow.loggedArtifacts"
"""The artifacts that the UI shows as tables, as `MlflowClient.log_table` notes them."""


def encodable(text: str) -> str:
    """The text, with what has no encoding escaped: bytes of a path that are not UTF-8, say."""
    return text.encode("utf-8", "backslashreplace").decode()


def error_text(error: BaseException | None) -> str:
    """What a run says of what has ended its training; nothing where that was no failure. Never raises."""
    if not isinstance(error, Exception) or isinstance(error, PrunedError):
        return ""
    try:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        text = f"{type(error).__name__}: {error}{notes}"
    except Exception:  # noqa: BLE001 - an exception of a user's may not be able to say what it is
        text = type(error).__name__
    return encodable(mask_credentials(text))[:MAX_ERROR_CHARACTERS]

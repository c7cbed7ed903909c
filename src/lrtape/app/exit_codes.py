"""What the commands of the app end with."""

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lrtape.errors import LRTapeError, RankFailedError, StoppedOnFindingError, SweepFailedError, TrainingDivergedError

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130

MISTAKES = (HydraException, OmegaConfBaseException, LRTapeError)
"""What becomes one sentence; anything else comes with its traceback."""
_FAILURES = (TrainingDivergedError, StoppedOnFindingError, SweepFailedError)
"""What a training, and not its user, has done wrong."""


def exit_code_of(error: BaseException) -> int:
    """Of an error that becomes a message, or a traceback."""
    if isinstance(error, RankFailedError):
        return error.exit_code
    is_refused = isinstance(error, MISTAKES) and not isinstance(error, _FAILURES)
    return EXIT_REFUSED if is_refused else EXIT_FAILED

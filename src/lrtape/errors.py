"""What lrtape raises. Each text says what was given, what was expected and what to do."""


class LRTapeError(Exception):
    """The root: ``except LRTapeError`` catches everything that lrtape raises on purpose."""


class ConfigError(LRTapeError, ValueError):
    """A wrong input, refused before training starts."""


class SpoolError(LRTapeError, ValueError):
    """A file that is neither a spool nor a tape, or one of a format that this version cannot read."""


class TrackingError(LRTapeError, RuntimeError):
    """The tracking store cannot be reached or refuses what was sent."""


class StoppedOnFindingError(LRTapeError, RuntimeError):
    """The recorded learning rates show something on which the trainer was told to stop."""


class TrainingDivergedError(LRTapeError, ArithmeticError):
    """The loss is no longer finite and the trainer was told to stop on that."""


class PrunedError(LRTapeError, RuntimeError):
    """A trial of a search is not worth its remaining epochs: neither a success nor a failure."""


class RankFailedError(LRTapeError, RuntimeError):
    """Another process of a training has failed, and so this one ends.

    Args:
        text: which one, and why.
        exit_code: of that process.
    """

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class RankKilledError(RankFailedError):
    """Other processes of a training are gone without a word.

    Args:
        text: which ones.
        ranks: of those that are known.
    """

    def __init__(self, text: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(text)
        self.ranks = ranks


class SweepFailedError(LRTapeError, RuntimeError):
    """Not every trial of a sweep was trained to its end."""

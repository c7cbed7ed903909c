"""What a companion and the process that has started it say to each other, through pipes, each on a line of JSON."""

import msgspec

from lrtape.spool import End

EXIT_AGAIN = 75
"""Of a companion that has done nothing wrong, and wants to be followed by a new one."""
IDLE_S = 60.0
"""How long a companion waits for a recording, with nothing to do."""
MAX_RECORDINGS = 50
"""Then it ends: MLflow (3.17) keeps a connection to every store that it was ever given."""


class Settings(msgspec.Struct, frozen=True):
    """What a companion needs to know of a recording. Paths, and what is in the environment, need not be UTF-8.

    Attributes:
        folder: of its spool, or its plan.
        tracking_uri: absolute. It goes through a pipe: it may hold a password, which nobody shall see in a list of
            processes, or find in a spool.
        environment: what has changed of the environment since the companion was started; ``None`` for what is gone.
        cwd: where the training runs now.
    """

    folder: bytes
    tracking_uri: bytes
    environment: list[tuple[bytes, bytes | None]]
    cwd: bytes


class RunWanted(msgspec.Struct, frozen=True, tag=True):
    """Tells a companion to create the run that is planned in the folder. The training waits for it.

    Attributes:
        settings: of the run.
        patience: what the training has in its environment of what a companion sets for itself: how long MLflow is to
            wait for an answer, say; ``None`` for what is not there.
    """

    settings: Settings
    patience: list[tuple[bytes, bytes | None]]


class Recording(msgspec.Struct, frozen=True, tag=True):
    """Tells a companion to ship a recording that has begun.

    Attributes:
        settings: of the recording.
        fsync_every_s: how often the spool is forced to the disk; ``None`` leaves that to the operating system.
    """

    settings: Settings
    fsync_every_s: float | None = None


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Tells a companion that a recording has ended.

    Attributes:
        end: the last frame of its spool, which may not have fitted there.
    """

    end: End


Word = RunWanted | Recording | Ended
"""What a companion is told, as JSON."""
decode_word = msgspec.json.Decoder(Word).decode


class RunCreated(msgspec.Struct, frozen=True, tag=True):
    """What a companion says of a run that it has created.

    Attributes:
        run_id: of the run.
        experiment_id: of its experiment.
    """

    run_id: str
    experiment_id: str


class RunRefused(msgspec.Struct, frozen=True, tag=True):
    """What a companion says of a run that it cannot create.

    Attributes:
        kind: name of the class of the error; empty where it is none of lrtape's.
        text: of the error; credentials masked.
    """

    kind: str
    text: str


class Answer(msgspec.Struct, frozen=True):
    """What a companion says of a recording in the end.

    Attributes:
        is_complete: whether everything is stored.
        problem: what a person must know, credentials masked; mostly nothing.
        is_last: whether it takes no further recording.
        views: of the experiment, as `lrtape.tracking.links.Links.how_to_look` takes them.
    """

    is_complete: bool
    problem: str = ""
    is_last: bool = False
    views: tuple[str, ...] = ()

"""How the process that trains a trial finds the study which has suggested it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StudyLink:
    """Where a study is, and how it prunes. Crosses processes: plain values.

    Attributes:
        journal: the path of its file, absolute.
        name: of the study within that file.
        pruner: a name, or a mapping with a ``_target_``; see `build_pruner`.
        n_epochs: of the longest trial.
    """

    journal: str
    name: str
    pruner: Any
    n_epochs: int

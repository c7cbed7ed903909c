"""What can be set for a search. Imports nothing heavy: Hydra loads this for every command."""

from dataclasses import dataclass
from typing import Any

from lrtape.errors import ConfigError


@dataclass
class OptunaSettings:
    """The fields of ``hydra/sweeper=lrtape_optuna``; ``docs/optuna.md`` says more.

    Attributes:
        n_trials: how many trials shall have a result.
        n_jobs: how many are suggested and launched at a time; null for as many as the launcher has jobs.
        sampler: suggests: a name, or a mapping with a ``_target_``.
        pruner: prunes: likewise.
        seed: of the suggestions.
        max_failed: how many trials may fail before no more are begun; null for any number.
    """

    n_trials: int = 20
    n_jobs: int | None = None
    sampler: Any = "tpe"
    pruner: Any = "none"
    seed: int = 0
    max_failed: int | None = None

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: a number is too low.
        """
        for name, value, least in (
            ("n_trials", self.n_trials, 1),
            ("n_jobs", self.n_jobs, 1),
            ("seed", self.seed, 0),
            ("max_failed", self.max_failed, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"`hydra.sweeper.{name}` must be at least {least}, but is {value} instead.")

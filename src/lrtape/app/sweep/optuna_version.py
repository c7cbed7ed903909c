"""Whether there is an optuna that lrtape can use. It is an extra."""

from importlib.metadata import PackageNotFoundError, version

from lrtape.errors import ConfigError

_OLDEST, _FIRST_UNKNOWN = 4, 6


def require_optuna() -> None:
    """See that optuna is installed, without importing it.

    Raises:
        ConfigError: it is not, or is another one than lrtape knows.
    """
    try:
        found = version("optuna")
    except PackageNotFoundError:
        raise ConfigError(
            'hydra/sweeper=lrtape_optuna must have optuna, which is not installed. pip install "lrtape[optuna]"'
        ) from None
    if not _OLDEST <= int(found.partition(".")[0]) < _FIRST_UNKNOWN:
        raise ConfigError(
            f"optuna must be at least {_OLDEST} and below {_FIRST_UNKNOWN}, but is {found} instead. "
            'pip install "lrtape[optuna]"'
        )

"""``lrtape sweep`` and ``scripts/sweep.py``: a sweep by its name, instead of ``train.py -m sweep=NAME``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lrtape.app.exit_codes import EXIT_REFUSED
from lrtape.app.main import main as run
from lrtape.app.sweep.record import SweepRecord
from lrtape.errors import ConfigError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"the arguments must be those of `{self.prog} --help`, but {message}.")


def main(arguments: Sequence[str], program: str) -> None:
    """Run a sweep, and exit as `lrtape.app.main.main` does.

    Args:
        arguments: of the command line.
        program: what a person has typed before them; messages and the sweep's run repeat it.
    """
    try:
        training = training_arguments(arguments, program)
    except ConfigError as error:
        print(f"lrtape: {error}", file=sys.stderr)  # noqa: T201 - a command
        sys.exit(EXIT_REFUSED)
    is_checkout = program.endswith(".py") and Path("train.py").is_file()
    sys.argv = ["train.py" if is_checkout else "lrtape train", *training]
    run()


def training_arguments(arguments: Sequence[str], program: str = "lrtape sweep") -> list[str]:
    """What the training app is given for a sweep.

    Args:
        arguments: of this command: the name of a sweep config, overrides, flags.
        program: for messages.

    Raises:
        ConfigError: they make no sense, or nobody knows the sweep that is to be resumed.
    """
    parser = _Parser(
        prog=program,
        description="Train every point of a grid, as the children of one MLflow run.",
        epilog="The same command again goes on with a sweep that was cut off.",
    )
    parser.add_argument("words", nargs="*", metavar="NAME | KEY=VALUES", help="a config of `sweep`, and overrides")
    parser.add_argument("--dry-run", action="store_true", help="list the points and what is wrong with them")
    parser.add_argument("--resume", metavar="SWEEP", help="go on: the id of a sweep, or of its run; or its name")
    parser.add_argument("--folder", type=Path, default=Path(".lrtape"), help="where --resume looks; default: .lrtape")
    given, flags = parser.parse_known_intermixed_args(arguments)
    names = [word for word in given.words if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"`{program}` takes one name of a sweep, but was given {' and '.join(names)}.")
    dry_run = ["sweep.dry_run=true"] if given.dry_run else []
    if given.resume is not None:
        if given.words:
            raise ConfigError(
                f"`{program} --resume` takes no other words, for a sweep is what it was, but was given "
                f"{' '.join(given.words)}."
            )
        record = SweepRecord.find(given.resume, given.folder)
        kept = [word for word in record.arguments if not word.startswith("sweep.resume=")]
        return [*kept, f"sweep.resume={record.id}", *dry_run, *flags]
    if not given.words:
        raise ConfigError(
            f"`{program}` needs the name of a sweep, as in `{program} steplr`, or values, as in "
            f"`{program} scheduler=steplr scheduler.gamma=0.1,0.5`."
        )
    overrides = [word for word in given.words if "=" in word]
    return ["-m", *(f"sweep={name}" for name in names), *overrides, *dry_run, *flags]

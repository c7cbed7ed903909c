"""``python train.py`` and ``lrtape train``: the outermost edge, where errors become messages and exit codes.

Imports neither torch nor mlflow: ``--help``, ``--cfg job`` and a misspelt override are answered at once.
"""

import contextlib
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lrtape.app import other_ranks
from lrtape.app.config import check, sentence
from lrtape.app.exit_codes import EXIT_INTERRUPTED, MISTAKES, exit_code_of
from lrtape.app.interrupts import Interrupted
from lrtape.app.program import program
from lrtape.errors import ConfigError
from lrtape.quick_exit import exit_quickly
from lrtape.ranks import these_ranks
from lrtape.tracking.uri import REFUSED_CREDENTIALS, has_password

_default_format = warnings.formatwarning

FULL_ERROR = "HYDRA_FULL_ERROR"

_PLAIN_PATH = re.compile(r"[\w./:@%+-]+")
"""What Hydra takes as a value without quotes."""


@hydra.main(version_base="1.3", config_path="pkg://lrtape.conf", config_name="train")
def _run(cfg: DictConfig) -> float:
    hydra_config = HydraConfig.get()
    settings = check(cfg, Path(hydra_config.runtime.cwd))
    if settings.tracking.enabled and these_ranks().records:
        # Here: a launcher pickles this function with all the globals that it names, and this one has a lock.
        from lrtape.idle_companions import IDLE_COMPANIONS

        IDLE_COMPANIONS.expect()  # It imports MLflow while this process imports torch.

    from lrtape.app.train import train  # late: torch takes a second to import

    overrides = list(hydra_config.overrides.task)
    try:
        return train(cfg, settings, Path(hydra_config.runtime.output_dir), overrides)
    except Interrupted as interruption:
        arguments = None if hydra_config.mode == RunMode.MULTIRUN else sys.argv[1:]
        print(_farewell(interruption, arguments), file=sys.stderr)  # noqa: T201 - the end of a command
        raise


def main() -> None:
    """Run the training that the command line asks for, and exit.

    A user's mistake becomes one message on stderr and exit code 2, a training that diverged, or was stopped on a
    finding, 1, Ctrl-C 130, SIGTERM 143.
    With ``HYDRA_FULL_ERROR=1`` every error comes with its traceback. Of several processes, rank 0 speaks.
    """
    exit_quickly()
    with other_ranks.begin(these_ranks()), _sharing_configs():
        _main()


def _main() -> None:
    # As for `python -m`: the user's own models and data are found where the command is started.
    sys.path.insert(0, str(Path.cwd()))
    warnings.formatwarning = _format_warning
    # MLflow (3.17) would print a link to an empty page whenever a run on a server is ended here.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    if os.environ.get(FULL_ERROR) == "1":
        _refuse(sys.argv[1:])
        try:
            _run()
        except Interrupted as interruption:
            sys.exit(interruption.exit_code)
        return
    # Hydra would print some errors itself, with advice that leads astray here: let it raise them to us.
    os.environ[FULL_ERROR] = "1"
    try:
        _refuse(sys.argv[1:])
        _run()
    except MISTAKES as error:
        sys.exit(report(error))
    except Interrupted as interruption:
        sys.exit(interruption.exit_code)
    except KeyboardInterrupt:
        print("lrtape: interrupted; everything that was recorded is stored or in the spool.", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_INTERRUPTED)
    finally:
        os.environ.pop(FULL_ERROR, None)


@contextlib.contextmanager
def _sharing_configs() -> Iterator[None]:
    """Hydra (1.3) copies all configs that Python has registered, to list each group of ``--help``; it changes none."""
    if not {"--help", "-h"}.intersection(sys.argv):
        yield
        return
    store = ConfigStore.instance()
    store.__deepcopy__ = lambda _: store  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del store.__deepcopy__  # type: ignore[attr-defined]


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of lrtape's own is a message to a person, who does not care for a line of our code."""
    text = str(message)
    return f"{text}\n" if text.startswith("lrtape") else _default_format(message, category, filename, lineno, line)


def _farewell(interruption: Interrupted, arguments: Sequence[str] | None) -> str:
    """What a person needs to know when a signal has ended the training; of a sweep's job, how to go on is the sweep's
    to say.
    """
    text = f"lrtape: {interruption}; everything that was recorded is stored or in the spool."
    if interruption.checkpoint is None:
        return text
    if arguments is None:
        return f"{text}\nCheckpoint: {interruption.checkpoint.absolute()}"
    path = str(interruption.checkpoint.absolute())
    if not _PLAIN_PATH.fullmatch(path):
        path = '"' + path.replace('"', '\\"') + '"'
    kept = [argument for argument in arguments if not argument.startswith("trainer.resume=")]
    command = f"{program()} {shlex.join([*kept, f'trainer.resume={path}'])}"
    return f"{text}\nCheckpoint: {interruption.checkpoint.absolute()}\nTo go on:   {command}"


def _refuse(arguments: Sequence[str]) -> None:
    refuse_passwords(arguments)
    if these_ranks().n_ranks > 1:
        other_ranks.refuse_sweep(arguments)


def refuse_passwords(arguments: Sequence[str]) -> None:
    """A command line is public.

    Raises:
        ConfigError: one stands there.
    """
    if any(has_password(argument) for argument in arguments):
        raise ConfigError(REFUSED_CREDENTIALS)


def report(error: Exception) -> int:
    """Tell a person what was wrong, in one message on stderr; returns the exit code."""
    print(f"lrtape: {sentence(error)}\n(HYDRA_FULL_ERROR=1 shows where this comes from.)", file=sys.stderr)  # noqa: T201
    return exit_code_of(error)

"""``python train.py`` and ``lrtape train``: the outermost edge, where errors become messages and exit codes.

Imports neither torch nor mlflow: ``--help``, ``--cfg job`` and a misspelt override are answered at once.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lrtape.app.config import check, explain
from lrtape.errors import ConfigError, LRTapeError, TrainingDivergedError
from lrtape.tracking.uri import REFUSED_CREDENTIALS, has_password

FULL_ERROR = "HYDRA_FULL_ERROR"

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130


@hydra.main(version_base="1.3", config_path="pkg://lrtape.conf", config_name="train")
def _run(cfg: DictConfig) -> float:
    hydra_config = HydraConfig.get()
    settings = check(cfg, Path(hydra_config.runtime.cwd))

    from lrtape.app.train import train  # late: torch takes a second to import

    return train(cfg, settings, Path(hydra_config.runtime.output_dir), hydra_config.overrides.task)


def main() -> None:
    """Run the training that the command line asks for, and exit.

    A user's mistake becomes one message on stderr and exit code 2, a training that diverged 1, Ctrl-C 130. With
    ``HYDRA_FULL_ERROR=1`` every error comes with its traceback.
    """
    # As for `python -m`: the user's own models and data are found where the command is started.
    sys.path.insert(0, str(Path.cwd()))
    if os.environ.get(FULL_ERROR) == "1":
        _refuse_passwords(sys.argv[1:])
        _run()
        return
    # Hydra would print some errors itself, with advice that leads astray here: let it raise them to us.
    os.environ[FULL_ERROR] = "1"
    try:
        _refuse_passwords(sys.argv[1:])
        _run()
    except (HydraException, OmegaConfBaseException, LRTapeError) as error:
        sys.exit(_report(error))
    except KeyboardInterrupt:
        print("lrtape: interrupted; everything that was recorded is stored or in the spool.", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_INTERRUPTED)
    finally:
        os.environ.pop(FULL_ERROR, None)


def _refuse_passwords(arguments: Sequence[str]) -> None:
    if any(has_password(argument) for argument in arguments):
        raise ConfigError(REFUSED_CREDENTIALS)


def _report(error: Exception) -> int:
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        text = explain(cause)
    elif isinstance(error, OmegaConfBaseException):
        text = explain(error)
    else:
        text = str(error).partition("\nConfig search path:")[0].strip()
    print(f"lrtape: {text}\n(HYDRA_FULL_ERROR=1 shows where this comes from.)", file=sys.stderr)  # noqa: T201
    return EXIT_FAILED if isinstance(error, TrainingDivergedError) else EXIT_REFUSED

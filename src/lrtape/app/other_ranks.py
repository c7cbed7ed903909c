"""What the processes of a training do not do that rank 0 does for all: print, and write files."""

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrtape.errors import ConfigError
from lrtape.ranks import Ranks

NO_OUTPUT = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""What keeps Hydra from writing; the current folder is there already."""
SAYING_S = 10.0
"""How long rank 0 may take to say what was wrong with the config."""


def refuse_sweep(arguments: Sequence[str]) -> None:
    """A sweep starts its own processes.

    Raises:
        ConfigError: one is asked for.
    """
    if {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments}:
        raise ConfigError(
            "a sweep (-m) must be started without torchrun: it starts its own processes, and each trial trains in one. "
            "Train one point of it under torchrun, without -m."
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Of a rank that is not 0: nothing is printed in the block but the traceback of a crash, and Hydra writes nothing.

    An exit code is kept until rank 0 has said what was wrong: ``torchrun`` ends all when the first one has ended.
    """
    sys.argv = [*sys.argv, *NO_OUTPUT]
    told = threading.Event()
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    except SystemExit as end:
        # It is ignored where rank 0 has been waited for already.
        if end.code and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, lambda *_: told.set())
            told.wait(SAYING_S)
        raise


def begin(ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    """What this rank does while it trains; to be called before torch is imported."""
    if ranks.n_ranks > 1:
        # torch (2.13) warns on every rank that all parameters of the model are used, which it has to look for.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return contextlib.nullcontext() if ranks.records else quiet()

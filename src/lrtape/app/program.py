"""How this process was started, in a person's words."""

import os
import shlex
import sys
from pathlib import Path

from lrtape.ranks import these_ranks


def program() -> str:
    """``python train.py`` or ``lrtape train``: what the arguments followed; of several processes, by ``torchrun``."""
    is_script = sys.argv[0].endswith(".py")
    if these_ranks().n_ranks > 1:
        n_here = os.environ.get("LOCAL_WORLD_SIZE", "1")
        return f"torchrun --nproc-per-node={n_here} {sys.argv[0] if is_script else f'--no-python {_name()}'}"
    return f"python {sys.argv[0]}" if is_script else _name()


def _name() -> str:
    return Path(sys.argv[0]).name


def typed_command() -> str:
    """All of it, as a person can type it once more."""
    return f"{program()} {shlex.join(sys.argv[1:])}"

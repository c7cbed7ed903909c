"""How this process was started, in a person's words."""

import shlex
import sys
from pathlib import Path


def program() -> str:
    """``python train.py`` or ``lrtape train``: what the arguments followed."""
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else Path(sys.argv[0]).name


def typed_command() -> str:
    """All of it, as a person can type it once more."""
    return f"{program()} {shlex.join(sys.argv[1:])}"

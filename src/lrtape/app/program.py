"""How this process was started, in a person's words."""

import sys
from pathlib import Path


def program() -> str:
    """``python train.py`` or ``lrtape train``: what the arguments followed."""
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else Path(sys.argv[0]).name

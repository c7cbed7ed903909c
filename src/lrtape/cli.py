"""The command ``lrtape``."""

import os
import sys

USAGE = """usage: lrtape COMMAND ...

commands:
  train    train a model and record its learning rates: lrtape train scheduler=steplr
           (all choices: lrtape train --help)
"""


def main() -> None:
    """Run one command. Installed as the script ``lrtape``."""
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if command in {"-h", "--help"}:
        print(USAGE, end="")  # noqa: T201
    elif command == "train":
        from lrtape.app.main import main as train

        sys.argv = ["lrtape train", *arguments]
        # As for `python train.py`: the user's own models and data are found where the command is started.
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path takes texts
        train()
    else:
        print(f"lrtape: `COMMAND` must be train, but is {command!r} instead.\n\n{USAGE}", end="", file=sys.stderr)  # noqa: T201
        sys.exit(2)

"""Train every point of a grid: ``python scripts/sweep.py steplr``. See ``--help``; `lrtape sweep` is the same."""

import sys

from lrtape.app.sweep.command import main

if __name__ == "__main__":
    main(sys.argv[1:], "python scripts/sweep.py")

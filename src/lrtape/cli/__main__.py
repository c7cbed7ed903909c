"""``python -m lrtape.cli``: the command, where its script may not be on the path."""

from lrtape.cli.command import main

if __name__ == "__main__":
    main()

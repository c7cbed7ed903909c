"""The command ``lrtape``."""

from lrtape.cli.command import main

__all__ = ["main"]

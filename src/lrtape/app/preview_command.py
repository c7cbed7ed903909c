"""``lrtape preview``: draws schedules, tells their milestones, and says what looks wrong with them."""

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lrtape.app.main import refuse_passwords, report
from lrtape.app.preview import HOLD, Preview, preview
from lrtape.errors import ConfigError, LRTapeError
from lrtape.picture import check_suffix, write_picture
from lrtape.tape import Tape
from lrtape.terminal import plot

MAX_WIDTH = 110
"""Columns."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"the arguments must be those of `lrtape preview --help`, but {message}.")


def main(arguments: Sequence[str]) -> int:
    """Draw the schedules that the arguments ask for; ``lrtape preview --help`` tells which there are.

    Returns:
        The exit code: 0, whatever is found; 2 for a mistake, which is one message on stderr.
    """
    sys.path.insert(0, str(Path.cwd()))  # as for `lrtape train`: a user's own models
    try:
        refuse_passwords(arguments)
        given = _parser().parse_intermixed_args(arguments)
        if given.save is not None:
            check_suffix(given.save)
        n_ranks = _n_ranks(given.processes)
        previews = preview(given.overrides, _metrics(given.metrics), given.config_dir, given.config_name, n_ranks)
        tape, text = _overlay(previews), _text(previews)
        title = previews[0].title if len(previews) == 1 else f"{len(previews)} schedules"
        print(_drawn(tape), text, sep="\n\n")  # noqa: T201 - a command
        if given.save is not None:
            write_picture(given.save, tape, title, text)
            print(f"\nSaved: {given.save}")  # noqa: T201
        sys.stdout.flush()
    except BrokenPipeError:  # `lrtape preview ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (HydraException, OmegaConfBaseException, LRTapeError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return report(error)
    return 0


def _overlay(previews: Sequence[Preview]) -> Tape:
    """All schedules in one tape, the keys told apart by their labels."""
    if len(previews) == 1:
        return previews[0].tape
    series = {}
    for made in previews:
        for key, values in made.tape.items():
            group = key.removeprefix("lr/")
            series[f"lr/{made.label}" if len(made.tape) == 1 else f"lr/{made.label}: {group}"] = values
    return Tape.of(series)


def _drawn(tape: Tape) -> str:
    width = min(shutil.get_terminal_size((MAX_WIDTH, 0)).columns, MAX_WIDTH)
    return plot(tape, width, color=sys.stdout.isatty())


def _text(previews: Sequence[Preview]) -> str:
    """The tables, and what was found."""
    from lrtape.app.milestones import milestone_table

    blocks = []
    for made in previews:
        head = f"{made.label}: {made.title}" if made.label else made.title
        blocks += [head, milestone_table(made.tape, made.plan, made.frozen)]
        if made.note:
            blocks.append(_wrapped("note", made.note))
        if made.findings:
            blocks.append(
                "\n".join(_wrapped(f"{found.severity}  {found.code}", found.message) for found in made.findings)
            )
        elif made.plan.simulated is not None:
            blocks.append("Nothing found that looks wrong.")
    return "\n\n".join(blocks)


def _wrapped(head: str, sentence: str) -> str:
    return textwrap.fill(
        f"{head}  {sentence}", 100, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _metrics(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.removesuffix(HOLD).strip(" ,").split(",")]
    except ValueError:
        values = []
    if not values:
        raise ConfigError(f"`--metrics` must be numbers with commas, 1,0.9,0.9,{HOLD}, but is {text!r} instead.")
    return values


def _n_ranks(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"`--processes` must be a whole number of at least 1, but is {text!r} instead.")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lrtape preview",
        description="Draw the learning rates of a training, step by step, without training, and say what looks wrong.",
        epilog="Takes the overrides of `lrtape train`: scheduler=onecyclelr trainer.epochs=30. Several values, "
        "scheduler=steplr,cosineannealinglr, are drawn into one picture. `lrtape train --help` lists the groups.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for `lrtape train`")
    parser.add_argument("--save", type=Path, metavar="FILE", help="draw into a file, too: .png, .svg, .html or .csv")
    parser.add_argument(
        "--metrics",
        metavar="1,0.9,0.9",
        help="for ReduceLROnPlateau: the metric that it watches, made up, one value for each epoch; the last goes on",
    )
    parser.add_argument("--processes", metavar="N", default="1", help="that torchrun will start; default: 1")
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="a folder of configs of your own")
    parser.add_argument("--config-name", "-cn", default="train", metavar="NAME", help="of your primary config")
    return parser

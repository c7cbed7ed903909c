"""The winner of a sweep as a config of its own, and the command that trains it again."""

import re
import shlex
from importlib.resources import files
from pathlib import Path

from lrtape.cpus import n_cpus
from lrtape.leaderboard import Leaderboard
from lrtape.tracking.tags import THREADS
from lrtape.tracking.uri import MASK
from lrtape.trials import SweepRun, TrialRun

CONFIG_NAME = "best"
FILE = f"{CONFIG_NAME}.yaml"

_PROGRAM = re.compile(r"(python \S+\.py|lrtape train)(?:\s|$)")
"""At the start of a command, as the driver of a sweep has noted it."""
_SWEEP_SCRIPT = "sweep.py"
"""Starts sweeps, and trains nothing by itself."""
_INSTALLED = "lrtape train"
_URI = re.compile(r"^  uri: .*$", re.MULTILINE)


def representative(leaderboard: Leaderboard) -> TrialRun | None:
    """The run that stands for the winner: of its first seed, as the luckiest one would promise too much.

    ``None`` where nothing is finished.
    """
    winner = leaderboard.winner
    return winner.finished[0] if winner is not None else None


def config_of(resolved: str, sweep: SweepRun, run: TrialRun) -> str:
    """A primary config for Hydra that trains what a run has trained, to the last digit on the same kind of machine.

    It is the run's own config, text for text, so that no number changes on its way. What it says of the sweep is left
    out, but for the objective; Hydra's own settings are those of ``conf/train.yaml``.

    Args:
        resolved: the config of the run, as it is among its artifacts.
        sweep: of which the run is a trial.
        run: the one to be trained again.
    """
    blocks = _blocks(resolved)
    blocks.pop("sweep", None)
    tracking = blocks.get("tracking", "")
    if MASK in tracking:  # a user, who is not to be written anywhere: $MLFLOW_TRACKING_URI says it again
        blocks["tracking"] = _URI.sub("  uri: null", tracking)
    app = _blocks((files("lrtape.conf") / "train.yaml").read_text(encoding="utf-8"))
    overrides = [line for line in app["defaults"].splitlines() if re.match(r"\s*- override hydra/", line)]
    head = [
        f"# {run.name}: the best of {sweep.title!r} ({sweep.direction} of {sweep.objective}); run {run.run_id}.",
        "defaults:",
        "  - sweep: default",
        *overrides,
        "  - _self_",
        "",
    ]
    objective = f"sweep:\n  objective: {sweep.objective}\n  direction: {sweep.direction}\n"
    return "\n".join(head) + "\n" + "".join(blocks.values()) + objective + app["hydra"].rstrip() + "\n"


def command_of(sweep: SweepRun, run: TrialRun, folder: Path) -> str:
    """What a person types to train the winner again, in the folder where the sweep was started.

    Args:
        sweep: tells by which program that was.
        run: the one to be trained again; where it had fewer threads than there are CPUs, as several were trained at a
            time, the command says so.
        folder: where the config lies.
    """
    found = _PROGRAM.match(sweep.command)
    program = found[1] if found and not found[1].endswith(_SWEEP_SCRIPT) else _INSTALLED
    folder = folder.absolute()
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    threads = run.tags.get(THREADS, "")
    prefix = f"OMP_NUM_THREADS={threads} " if threads.isdecimal() and int(threads) != n_cpus() else ""
    return f"{prefix}{program} --config-dir {shlex.quote(str(shown))} --config-name {CONFIG_NAME}"


def _blocks(text: str) -> dict[str, str]:
    """The lines of each key at the top of a YAML text that OmegaConf or a person has written, by key."""
    blocks: dict[str, str] = {}
    key = ""
    for line in text.splitlines(keepends=True):
        if line[0] not in " -#\n":
            key = line.partition(":")[0]
        if key:
            blocks[key] = blocks.get(key, "") + line
    return blocks
